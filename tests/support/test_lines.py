"""What comes of a process is cut into lines, wherever it was cut on its way."""

from __future__ import annotations

import pytest
import trio

from tests.harness.lines import lines


class Pieces(trio.abc.ReceiveStream):
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("pieces", [(b"a\nb\nc",), (b"a\nb\n", b"c"), (b"a", b"\nb", b"\nc")])
async def test_a_line_that_is_not_ended_is_no_line_to_who_wants_whole_ones(pieces: tuple[bytes, ...]) -> None:
    """Whether it was one was chance: what came last decided, and a killed daemon's half line failed its test."""
    assert [line async for line in lines(Pieces(*pieces))] == ["a", "b", "c"]
    assert [line async for line in lines(Pieces(*pieces), whole=True)] == ["a", "b"]
