"""Connections of callers side by side: none of them, nor all together, holds the loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from fabstird.api.session import Session
from fabstird.rpc.dispatch import LATER, Call, Later
from fabstird.rpc.limits import TURN, Usage

CONNECTIONS = 50
TEXTS = [b"{}"] * 2 * TURN


class Counting(trio.abc.Instrument):
    """Stands for the dispatcher. Counts the calls that are carried out in one turn of the loop."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.calls = self.most = self.all = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most, self.calls = max(self.most, self.calls), 0

    def at_once(self, text: bytes, call: Call) -> bytes | Later | None:
        return LATER if self.waits else self._carried_out()

    async def dispatch(self, text: bytes, call: Call) -> bytes | None:
        return self._carried_out()

    def _carried_out(self) -> None:
        self.calls += 1
        self.all += 1


@pytest.mark.parametrize("waits", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("size", [2 * TURN, TURN // 8], ids=["many", "few"])
async def test_calls_of_many_connections_share_a_turn_of_the_loop(size: int, waits: bool) -> None:
    """Each connection had 64 calls carried out in a turn: 200 of them kept all others waiting for seconds. So did 200
    that sent 32 at a time, which is within the bound."""
    counting, usage = Counting(waits=waits), Usage()
    services: Any = SimpleNamespace(config=SimpleNamespace(api=SimpleNamespace(max_calls=TURN)), usage=usage)
    other: Any = SimpleNamespace(clear=True)
    dispatcher: Any = counting

    async def caller() -> None:
        async with Session.open(services, dispatcher, other, other, other, other) as session:
            for _ in range(len(TEXTS) // size):
                await session.receive(TEXTS[:size])
                await trio.lowlevel.checkpoint()
            await session._idle.wait()

    trio.lowlevel.add_instrument(counting)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(caller)
    finally:
        trio.lowlevel.remove_instrument(counting)
    assert counting.all == CONNECTIONS * len(TEXTS)
    assert counting.most <= TURN + CONNECTIONS, "and one of each"


async def test_a_connection_alone_has_the_whole_turn() -> None:
    counting = Counting(waits=False)
    services: Any = SimpleNamespace(config=SimpleNamespace(api=SimpleNamespace(max_calls=TURN)), usage=Usage())
    other: Any = SimpleNamespace(clear=True)
    dispatcher: Any = counting
    trio.lowlevel.add_instrument(counting)
    try:
        async with Session.open(services, dispatcher, other, other, other, other) as session:
            await session.receive(TEXTS)
    finally:
        trio.lowlevel.remove_instrument(counting)
    assert counting.most == TURN
