"""Signs of life: one task asks all connections, each when it is due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fabstird.p2p.muxer import pulse
from fabstird.p2p.muxer.pulse import FIRST_PING, FRESH, Beat, Liveness, Pulse, Silence
from fabstird.p2p.transport.pipe import Progress

INTERVAL, TIMEOUT = 15.0, 10.0
STEP = 0.05


class Peer:
    """The other end: answers each ping ``after`` so many seconds, or never."""

    def __init__(self, beat: Beat, after: float | None = 0.1) -> None:
        self.after = after
        self.asked: list[float] = []
        self.error: Exception | None = None
        self.seen = Progress(0, 0, 0)
        self.broken = False
        self.pulse = Pulse(self, cast("Any", self), beat)
        self.answers: dict[float, int] = {}

    def progress(self) -> Progress:
        return self.seen

    def each_turn(self) -> None:
        if self.broken:
            raise ValueError("broken")

    def ask_for_life(self, number: int) -> None:
        self.asked.append(trio.current_time())
        if self.after is not None:
            self.answers[trio.current_time() + self.after] = number

    def fail(self, error: Exception) -> None:
        self.error = error
        self.pulse.end()


@asynccontextmanager
async def beating() -> AsyncIterator[Beat]:
    beat = Beat(lambda: Liveness(INTERVAL, TIMEOUT))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat.run)
        yield beat
        nursery.cancel_scope.cancel()


async def until(when: float, *peers: Peer) -> None:
    """Let time pass up to ``when``; answers are given as they fall due."""
    while (now := trio.current_time()) < when:
        await trio.sleep_until(min(when, now + STEP))
        for peer in peers:
            for at in [at for at in peer.answers if at <= trio.current_time()]:
                peer.pulse.answered(peer.answers.pop(at))


async def test_each_is_asked_when_it_is_due(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        start = trio.current_time()
        peer = Peer(beat)
        peer.pulse.begin()
        await until(start + 40, peer)
        assert [at - start for at in peer.asked] == pytest.approx([0.5, 15.6, 30.7], abs=4 * STEP)
        assert peer.pulse.rtt == pytest.approx(0.1, abs=2 * STEP)
        peer.pulse.hurry()
        await until(start + 40.2, peer)
        assert len(peer.asked) == 4, "at once"
        peer.pulse.end()
        await until(start + 100, peer)
        assert len(peer.asked) == 4


async def test_a_peer_that_was_heard_is_asked_an_interval_later_and_now_and_then(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        start = trio.current_time()
        once, always = Peer(beat), Peer(beat)
        for peer in (once, always):
            peer.pulse.begin()
        await until(start + 10, once, always)
        once.pulse.heard = trio.current_time()
        while trio.current_time() < start + 100:
            always.pulse.heard = trio.current_time()
            await until(trio.current_time() + 5, once, always)
        assert [at - start for at in once.asked[:3]] == pytest.approx([0.5, 25, 40.1], abs=4 * STEP)
        assert [at - start for at in always.asked] == pytest.approx([0.5, 0.5 + FRESH * INTERVAL], abs=4 * STEP)
        always.pulse.hurry()
        await until(trio.current_time() + 0.2, always)
        assert len(always.asked) == 3, "at once, whatever was heard"


async def test_silence_ends_it_and_whatever_moves_is_alive(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        start = trio.current_time()
        silent, busy = Peer(beat, None), Peer(beat, None)
        for peer in (silent, busy):
            peer.pulse.begin()
        await until(start + 5)
        busy.seen = Progress(1, 0, 0)
        await until(start + FIRST_PING + TIMEOUT + 1)
        assert isinstance(silent.error, Silence)
        assert busy.error is None
        assert len(busy.asked) == 2, "asked again at once"
        await until(start + 2 * TIMEOUT + 2)
        assert isinstance(busy.error, Silence)


async def test_an_answer_to_another_ping_counts_for_nothing(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        peer = Peer(beat, None)
        peer.pulse.begin()
        await trio.sleep(FIRST_PING + 1)
        peer.pulse.answered(7)
        await trio.sleep(TIMEOUT)
        assert isinstance(peer.error, Silence)


async def test_a_process_that_was_frozen_asks_again(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        peer = Peer(beat, None)
        peer.pulse.begin()
        await trio.sleep(FIRST_PING + 1)
        autojump_clock.jump(TIMEOUT + 60)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.error is None
        assert len(peer.asked) == 2


async def test_what_goes_wrong_ends_one_alone(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        broken, other = Peer(beat), Peer(beat)
        broken.broken = True
        for peer in (broken, other):
            peer.pulse.begin()
        start = trio.current_time()
        await until(start + 20, broken, other)
        assert isinstance(broken.error, ValueError)
        assert len(other.asked) == 2


async def test_those_that_have_ended_are_not_kept(autojump_clock: MockClock) -> None:
    async with beating() as beat:
        for _ in range(10 * pulse.MANY):
            peer = Peer(beat)
            peer.pulse.begin()
            peer.pulse.end()
        assert len(beat) <= 2 * pulse.MANY
        many = [Peer(beat) for _ in range(3 * pulse.AT_ONCE)]
        start = trio.current_time()
        for peer in many:
            peer.pulse.begin()
        await until(start + 5, *many)
        assert all(len(peer.asked) == 1 for peer in many)
