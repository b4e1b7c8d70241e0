"""Racing a peer's addresses, by a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstir_client.api.errors import DialFailed, LimitExceeded
from fabstird.p2p.net.dial_errors import DialError, DialLimit
from fabstird.p2p.net.race import STAGGER, NoneConnected, in_order, race
from fabstird.p2p.wire.addresses import parse
from tests.unit.manager import A1, A2, A, Bench, running

A3 = f"/ip4/3.3.3.3/tcp/3/p2p/{A}"


class Won:
    def __init__(self, race: Race, address: str) -> None:
        self.race = race
        self.address = address

    def end(self, reason: str) -> None:
        assert reason == "duplicate"
        self.race.spared.append(f"link to {self.address}")


class Attempt:
    def __init__(self, race: Race, address: str) -> None:
        self.race = race
        self.address = address
        self.begun = trio.current_time()
        self.cancelled = False
        self.end: Callable[[], Won] | None = None
        self.ended = trio.Event()

    def connect(self) -> None:
        self._end(lambda: Won(self.race, self.address))

    def fail(self, error: Exception) -> None:
        def end() -> Won:
            raise error

        self._end(end)

    def _end(self, end: Callable[[], Won]) -> None:
        self.end = end
        self.ended.set()


class Race:
    """A race under way; the test says how each attempt ends."""

    def __init__(self, *addresses: str, deaf: bool = False) -> None:
        self.addresses = addresses
        self.attempts: dict[str, Attempt] = {}
        self.spared: list[str] = []
        self.result: str | Exception | None = None
        self.deaf = deaf  # a dial that comes up in spite of being cancelled

    async def dial(self, address: str) -> Won:
        attempt = self.attempts[address] = Attempt(self, address)
        try:
            with trio.CancelScope(shield=self.deaf):
                await attempt.ended.wait()
        except trio.Cancelled:
            attempt.cancelled = True
            raise
        assert attempt.end is not None
        return attempt.end()

    async def run(self) -> None:
        try:
            self.result = f"link to {(await race(self.addresses, self.dial)).address}"
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.result = error


@asynccontextmanager
async def under_way(race: Race) -> AsyncIterator[Race]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.run)
        await wait_all_tasks_blocked()
        yield race
        assert race.result is not None, "it is not over"


async def settle(clock: MockClock, seconds: float = 0) -> None:
    clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_the_next_begins_after_the_stagger_and_the_first_that_connects_wins(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two", "three")) as running:
        assert list(running.attempts) == ["one"]
        await settle(mock_clock, STAGGER - 0.01)
        assert list(running.attempts) == ["one"]
        await settle(mock_clock, 0.011)
        assert list(running.attempts) == ["one", "two"]
        running.attempts["two"].connect()
        await settle(mock_clock)
        assert running.result == "link to two"
        assert running.attempts["one"].cancelled
        await settle(mock_clock, 10)
        assert list(running.attempts) == ["one", "two"], "no further one is begun"
        assert running.spared == []


async def test_a_failure_begins_the_next_at_once(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two")) as running:
        running.attempts["one"].fail(DialError("no"))
        await settle(mock_clock)
        assert list(running.attempts) == ["one", "two"]
        running.attempts["two"].connect()
        await settle(mock_clock)
        assert running.result == "link to two"


async def test_an_early_one_may_still_win(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two", "three")) as running:
        await settle(mock_clock, STAGGER)
        await settle(mock_clock, STAGGER)
        running.attempts["three"].fail(DialError("no"))
        await settle(mock_clock, 5)
        running.attempts["one"].connect()
        await settle(mock_clock)
        assert running.result == "link to one"
        assert running.attempts["two"].cancelled


async def test_when_all_fail_each_tells_why_in_the_order_of_their_beginning(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two", "one")) as running:
        await settle(mock_clock, STAGGER)
        running.attempts["two"].fail(DialError("silent"))
        running.attempts["one"].fail(DialError("closed"))
        await settle(mock_clock)
        assert isinstance(running.result, NoneConnected)
        assert str(running.result) == "one: closed; two: silent"
        assert str(running.result.last) == "silent"
        assert list(running.attempts) == ["one", "two"], "an address that is named twice is dialled once"


async def test_after_a_final_error_nothing_is_begun_but_what_runs_may_win(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two", "three")) as running:
        await settle(mock_clock, STAGGER)
        running.attempts["two"].fail(DialLimit("connections.max", 1, 1))
        await wait_all_tasks_blocked()  # the error is known before the time of the next one has come
        await settle(mock_clock, 5)
        assert list(running.attempts) == ["one", "two"]
        running.attempts["one"].connect()
        await settle(mock_clock)
        assert running.result == "link to one"


async def test_two_in_one_moment_leave_one(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two")) as running:
        await settle(mock_clock, STAGGER)
        for attempt in running.attempts.values():
            attempt.connect()
        await settle(mock_clock)
        assert isinstance(running.result, str)
        assert {running.result, *running.spared} == {"link to one", "link to two"}
        assert len(running.spared) == 1


async def test_a_loser_that_comes_up_all_the_same_is_spared(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two", deaf=True)) as running:
        await settle(mock_clock, STAGGER)
        running.attempts["one"].connect()
        await settle(mock_clock)
        assert running.result is None, "it waits until the losers have ended"
        running.attempts["two"].connect()
        await settle(mock_clock)
        assert running.result == "link to one"
        assert running.spared == ["link to two"]


async def test_a_defect_ends_the_race_as_it_is(mock_clock: MockClock) -> None:
    async with under_way(Race("one", "two")) as running:
        await settle(mock_clock, STAGGER)
        running.attempts["two"].fail(ZeroDivisionError("a defect"))
        await settle(mock_clock)
        assert isinstance(running.result, ZeroDivisionError)
        assert running.attempts["one"].cancelled


async def test_nothing_is_left_when_the_caller_gives_up(mock_clock: MockClock) -> None:
    running = Race("one", "two")
    with trio.move_on_after(STAGGER + 1) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.run)
            await wait_all_tasks_blocked()
            await settle(mock_clock, STAGGER)
            await settle(mock_clock, 1)
    assert scope.cancelled_caught
    assert [attempt.cancelled for attempt in running.attempts.values()] == [True, True]


def test_the_families_take_turns() -> None:
    v4 = [parse(f"/ip4/1.1.1.{n}/tcp/1/p2p/{A}") for n in (1, 2, 3)]
    v6 = [parse(f"/ip6/2001:db8::{n}/tcp/1/p2p/{A}") for n in (1, 2)]
    assert in_order([*v6, *v4]) == [v6[0], v4[0], v6[1], v4[1], v4[2]]
    assert in_order([*v4, *v6]) == [v4[0], v6[0], v4[1], v6[1], v4[2]]
    assert in_order(v4) == v4
    assert in_order([]) == []


# --------------------------------------------------------------------------------------------------------------------
# `connect` by a peer id


async def test_connect_by_peer_id_races_what_is_known(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        bench.book.seen(A, [A1, A2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, bench, A)
            await bench.settle()
            assert [dial.address for dial in bench.host.dials] == [A1]
            await bench.settle(STAGGER)
            assert {dial.address for dial in bench.host.dials} == {A1, A2}
            bench.dial(A2).succeed(A)
        assert bench.dial(A1).cancelled
        assert bench.counters.failed_connections == 0, "the loser has not failed"
        assert [link.address for link in bench.host.up] == [A2]
        assert bench.connections.dials() == (0, 0)


async def connect(bench: Bench, target: str) -> None:
    result = await bench.commands.connect(target, 60_000)
    assert (result.peer_id, result.direction, result.already_connected) == (A, "outbound", False)


async def test_connect_by_peer_id_tells_each_address_error(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        bench.book.seen(A, [A1, A2])

        async def fail() -> None:
            await bench.settle(STAGGER)
            bench.dial(A2).fail("network unreachable")
            bench.dial(A1).fail("connection refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            with pytest.raises(DialFailed) as caught:
                await bench.commands.connect(A, 60_000)
        assert caught.value.data["errors"] == {A1: "connection refused", A2: "network unreachable"}


async def test_a_limit_of_our_own_is_told_as_one(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        bench.book.seen(A, [A1, A2, A3])

        async def fill() -> None:
            await bench.settle()
            bench.dial(A1).limit()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            with pytest.raises(LimitExceeded) as caught:
                await bench.commands.connect(A, 60_000)
        assert caught.value.data["configKey"] == "connections.max"
        assert [dial.address for dial in bench.host.dials] == [A1]
