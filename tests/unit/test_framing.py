"""Messages on streams: whatever a peer sends is a message, or one error."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.wire.errors import EndOfStream
from fabstird.p2p.wire.frames import (
    FrameError,
    FrameTooLarge,
    Undecodable,
    frame,
    read_framed,
    read_message,
    read_protobuf,
)
from fabstird.p2p.wire.protobuf import HopMessage
from tests.unit.running import run

FRAMINGS = st.sampled_from(["u32be", "uvarint", "none"])
Framing = Literal["u32be", "uvarint", "none"]


class Bytes:
    """A stream that gives its bytes in pieces of a given size, then its end."""

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self.data = data
        self._piece = piece

    async def read(self, n: int | None = None) -> bytes:
        if not self.data:
            raise EndOfStream
        size = min(self._piece, len(self.data) if n is None else n)
        part, self.data = self.data[:size], self.data[size:]
        return part


@given(st.binary(max_size=70000), FRAMINGS, st.integers(1, 9))
def test_what_is_framed_is_read_back(data: bytes, framing: Framing, piece: int) -> None:
    source = Bytes(frame(data, framing), max(piece, len(data) // 50))
    assert run(read_message, source, framing, 70000) == data


@given(st.binary(max_size=300), FRAMINGS)
def test_garbage_is_a_message_or_an_error_and_never_more_than_the_limit(data: bytes, framing: Framing) -> None:
    try:
        message = run(read_message, Bytes(data), framing, 100)
    except FrameError:
        return
    assert len(message) <= 100
    assert message in data


@given(st.binary(max_size=300))
def test_garbage_is_a_protobuf_message_or_an_error(data: bytes) -> None:
    try:
        message = run(read_protobuf, Bytes(frame(data, "uvarint")), HopMessage, 100)
    except (FrameTooLarge, Undecodable):
        return
    assert isinstance(message, HopMessage)
    assert len(data) <= 100


def test_a_protobuf_message_is_read_back_and_another_is_undecodable() -> None:
    wanted = HopMessage(type=HopMessage.RESERVE)
    assert run(read_protobuf, Bytes(frame(wanted.SerializeToString(), "uvarint")), HopMessage, 100) == wanted
    with pytest.raises(Undecodable):
        run(read_protobuf, Bytes(frame(b"\x0a\xff", "uvarint")), HopMessage, 100)


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_several_messages_of_a_stream_come_one_by_one(messages: list[bytes]) -> None:
    source = Bytes(b"".join(frame(message, "uvarint") for message in messages))
    assert [run(read_framed, source, 50) for _ in messages] == messages
    assert run(read_framed, source, 50) is None


def test_a_length_is_refused_before_its_message_is_read() -> None:
    source = Bytes(b"\xff\xff\xff\xff" + bytes(1000))
    with pytest.raises(FrameTooLarge) as caught:
        run(read_message, source, "u32be", 1000)
    assert (caught.value.size, caught.value.limit) == (2**32 - 1, 1000)
    assert len(source.data) == 1000


def test_a_varint_has_an_end() -> None:
    with pytest.raises(FrameError, match="no varint"):
        run(read_message, Bytes(b"\xff" * 20), "uvarint", 1000)
