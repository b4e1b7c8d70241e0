"""Work that many share in a turn of the loop: none of them, nor all together, holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from fabstird.p2p.budget import Memory
from fabstird.p2p.muxer.frame import HEADER, RST, SYN, WINDOW_UPDATE
from fabstird.p2p.muxer.pulse import Beat, Liveness
from fabstird.p2p.muxer.yamux import OPENING, TURN, Muxer
from fabstird.p2p.transport.pipe import Progress
from fabstird.p2p.wire.errors import ConnectionLost
from fabstird.turn import Turn

TASKS = 60
ROUNDS = 5


class Counting(trio.abc.Instrument):
    """How much is done in one turn of the loop, at most, and in all."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most, self.now = max(self.most, self.now), 0

    def work(self, *_: object) -> None:
        self.now += 1
        self.all += 1


@pytest.fixture
async def counting() -> AsyncIterator[Counting]:
    counting = Counting()
    trio.lowlevel.add_instrument(counting)
    yield counting
    trio.lowlevel.remove_instrument(counting)


async def test_who_stays_within_the_bound_shares_it_all_the_same(counting: Counting) -> None:
    turn = Turn(100)
    turn.begin()
    turn.begin()

    async def burst() -> None:
        for _ in range(ROUNDS):
            for _ in range(99):
                counting.work()
                if turn.spend():
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(burst)
    turn.end()
    assert counting.all == TASKS * ROUNDS * 99
    assert counting.most <= 100 + TASKS
    assert counting.most >= 100, "no more is given up than must be"


class Flood:
    """Stands for the secured connection of a peer that opens streams and resets them, in bursts of the size that one
    connection alone may have looked at in a turn."""

    protocol, is_initiator, peer_id, key_type = "/noise", False, "QmPeer", "Ed25519"
    writes_now = owing = False

    def __init__(self) -> None:
        self.left = ROUNDS
        self.number = 1

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self.left -= 1
        if self.left < 0:
            raise ConnectionLost("that was all")
        frames = b""
        for _ in range(TURN // (OPENING + 1) - 1):
            frames += HEADER.pack(0, WINDOW_UPDATE, SYN, self.number, 0)
            frames += HEADER.pack(0, WINDOW_UPDATE, RST, self.number, 0)
            self.number += 2
        return frames

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    def write_now(self, data: bytes | bytearray) -> None:
        raise AssertionError("it waits for each write")

    def finish_now(self) -> None:
        raise AssertionError("it waits for each write")

    def progress(self) -> Progress:
        return Progress(0, 0, 0)

    async def finish(self) -> None: ...

    async def close(self) -> None: ...


async def test_connections_share_the_streams_that_are_opened_in_a_turn(
    counting: Counting, autojump_clock: trio.testing.MockClock
) -> None:
    """Sixty peers that opened streams and reset them, each as many as it may, kept all others waiting for seconds, and
    a stop longer than systemd waits."""
    turn, memory = Turn(TURN), Memory()
    turn.begin()
    ended = 0

    async def serve_one() -> None:
        nonlocal ended
        with memory.connection("127.0.0.1") as scope:
            muxer = Muxer(Flood(), Beat(Liveness), scope, turn)

            def serve(stream: Any) -> None:
                counting.work()
                muxer.handled(stream)

            with pytest.raises(ConnectionLost):
                await muxer.run(serve)
            ended += 1

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(serve_one)
    turn.end()
    assert ended == TASKS
    assert counting.all == TASKS * ROUNDS * (TURN // (OPENING + 1) - 1)
    assert counting.most <= TASKS + TURN // OPENING
