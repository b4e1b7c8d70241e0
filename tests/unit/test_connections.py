"""The connection manager: what it dials and what it tells, over one fake host and a clock moved by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from fabstir_client.api.types import DisconnectResult
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.dial_policy import SUGGESTED
from fabstird.p2p.peers.known import try_known
from tests.unit.manager import A1, A2, B1, A, B, Bench, FakeLink, Json, running


def retry(address: str, attempt: int, delay: int, error: str = "connection refused", of: int = 3) -> tuple[str, Json]:
    data = {"address": address, "attempt": attempt, "maxRetries": of, "delay": delay, "error": error}
    return "connection:retry", data


def failed(address: str, attempts: int, error: str = "connection refused") -> tuple[str, Json]:
    data = {"address": address, "attempts": attempts, "reason": "Max retries exceeded", "error": error}
    return "connection:failed", data


def first_failure(address: str, error: str = "connection refused") -> tuple[str, Json]:
    return "error", {"type": "BOOTSTRAP_CONNECTION_FAILED", "address": address, "message": error}


def cancelled(address: str, attempts: int) -> tuple[str, Json]:
    return "connection:cancelled", {"address": address, "attempts": attempts}


def up(address: str, peer_id: str = A, direction: str = "outbound") -> tuple[str, Json]:
    return "peer:connect", {"peerId": peer_id, "address": address, "direction": direction}


def down(duration: int, reason: str = "closed_by_peer", peer_id: str = A) -> tuple[str, Json]:
    return "peer:disconnect", {"peerId": peer_id, "reason": reason, "duration": duration}


# --------------------------------------------------------------------------------------------------------------------
# Whose dials failed


async def test_a_known_peer_that_is_away_is_no_failure_of_the_dht(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        bench.book.seen(A, [A1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(try_known, bench.connections, bench.book, trio.Event, at_once=True))
            await bench.settle()
            bench.dial(A1).fail()
            await bench.settle()
            nursery.cancel_scope.cancel()
        assert (bench.counters.failed_connections, bench.counters.failed_dht_dials) == (1, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled_in_vain, bench, B, B1)
            await bench.settle()
            bench.dial(B1).fail()
        assert (bench.counters.failed_connections, bench.counters.failed_dht_dials) == (1, 1)


async def dialled_in_vain(bench: Bench, peer_id: str, address: str) -> None:
    with pytest.raises(NoneConnected):
        await bench.connections.dial(peer_id, [address], SUGGESTED)


# --------------------------------------------------------------------------------------------------------------------
# Cycles


class Creeping(trio.abc.Clock):
    """A clock of a busy machine: between any two readings of it there are 10 ms."""

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self._now += 0.01
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0


def test_a_due_time_that_passes_while_it_is_looked_at_is_no_defect(book: Path) -> None:
    async def dial_and_fail() -> int:
        bench = Bench(MockClock(), book, bootstrap_nodes=(A1, B1), max_retries=3, retry_delay=5, keepalive_interval=15)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.connections.run, cast(Any, bench.host))
            with trio.fail_after(1000):
                while len(bench.host.dials) < 100:
                    for dial in bench.host.dials:
                        dial.fail()
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return bench.counters.failed_connections

    assert trio.run(dial_and_fail, clock=Creeping()) >= 98


async def test_a_dead_node_goes_through_its_whole_cycle(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=100, dial_timeout=7000) as bench:
        began = trio.current_time()
        for pause in (0.1, 0.2, 0.4):
            bench.dial().fail()
            await bench.settle(pause * 0.99)
            waiting = len(bench.host.dials)
            await bench.settle(pause * 0.01 + 1e-9)
            assert len(bench.host.dials) == waiting + 1
        bench.dial().fail("timed out")
        await bench.settle()
        assert [round(dial.begun - began, 6) for dial in bench.host.dials] == [0.0, 0.1, 0.3, 0.7]
        assert {dial.timeout for dial in bench.host.dials} == {7.0}
        assert bench.news() == [
            first_failure(A1),
            retry(A1, 1, 100),
            retry(A1, 2, 200),
            retry(A1, 3, 400),
            failed(A1, 4, "timed out"),
        ]
        counters = bench.counters
        assert (counters.failed_connections, counters.retries, counters.successful_connections) == (4, 3, 0)
    assert bench.news() == []  # a rest is nothing that a stop cuts off


async def test_after_the_keepalive_a_new_cycle_begins(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, max_retries=0, keepalive_interval=5000) as bench:
        bench.dial().fail()
        await bench.settle(4.999)
        assert len(bench.host.dials) == 1
        await bench.settle(0.002)
        assert len(bench.host.dials) == 2
        bench.dial().fail("reset")
        await bench.settle()
        cycles = [first_failure(A1), failed(A1, 1), first_failure(A1, "reset"), failed(A1, 1, "reset")]
        assert bench.news() == cycles
        assert bench.counters.retries == 0


async def test_without_a_keepalive_a_failed_cycle_was_the_last(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, max_retries=0, keepalive_interval=0) as bench:
        bench.dial().fail()
        await bench.settle(10**8)
        assert len(bench.host.dials) == 1


async def test_nodes_have_cycles_of_their_own(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, B1, retry_delay=1000, max_retries=1) as bench:
        assert {dial.address for dial in bench.host.dials} == {A1, B1}
        bench.dial(A1).fail()
        await bench.settle()
        bench.dial(B1).succeed(B)
        await bench.settle(1.001)
        assert [dial.address for dial in bench.host.dials[2:]] == [A1]
        assert bench.news() == [first_failure(A1), retry(A1, 1, 1000, of=1), up(B1, B)]


async def test_an_address_that_cannot_be_parsed_has_its_cycle_too(mock_clock: MockClock, book: Path) -> None:
    address = "/ip4/1.1.1.1/tcp/1/p2p/cannot-be-decoded"
    async with running(mock_clock, book, address, max_retries=1, retry_delay=0) as bench:
        for _ in range(2):
            bench.dial().fail("the peer id cannot be decoded")
            await bench.settle()
        words = "the peer id cannot be decoded"
        assert bench.news() == [
            first_failure(address, words),
            retry(address, 1, 0, words, of=1),
            failed(address, 2, words),
        ]


async def test_a_connected_node_ends_its_cycle(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=100) as bench:
        bench.dial().fail()
        await bench.settle(0.101)
        bench.dial().succeed(A)
        await bench.settle(10**8)
        assert len(bench.host.dials) == 2
        assert bench.news() == [first_failure(A1), retry(A1, 1, 100), up(A1)]
        counters = bench.counters
        assert (counters.outbound_connections, counters.failed_connections, counters.retries) == (1, 1, 1)
    assert bench.news() == []


# --------------------------------------------------------------------------------------------------------------------
# A stop


async def test_a_stop_tells_what_it_cuts_off_and_nothing_after_it(mock_clock: MockClock, book: Path) -> None:
    dialling, waiting, resting, connected = (f"/ip4/1.1.1.{n}/tcp/1/p2p/{A if n else B}" for n in (1, 2, 3, 0))
    async with running(mock_clock, book, dialling, waiting, resting, connected, max_retries=1) as bench:
        bench.dial(connected).succeed(B)
        bench.dial(resting).fail()
        await bench.settle(1.001)
        bench.dial(resting).fail()
        bench.dial(waiting).fail()
        await bench.settle()
        assert not bench.dial(dialling).cancelled
        bench.news()
    assert sorted(map(str, bench.news())) == sorted(map(str, [cancelled(dialling, 1), cancelled(waiting, 1)]))
    assert bench.dial(dialling).cancelled
    await bench.settle(10**8)
    assert bench.news() == []
    assert bench.counters.failed_connections == 3
    assert len(bench.host.dials) == 5


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_stop_in_a_wait_counts_the_dials_begun(mock_clock: MockClock, book: Path, failures: int) -> None:
    async with running(mock_clock, book, A1, retry_delay=100) as bench:
        bench.dial().fail()
        await bench.settle(0.05)
        if failures == 2:
            await bench.settle(0.051)
            bench.dial().fail()
            await bench.settle()
        bench.news()
    assert bench.news() == [cancelled(A1, failures)]
    assert len(bench.host.dials) == failures
    await bench.settle(10**8)
    assert len(bench.host.dials) == failures


# --------------------------------------------------------------------------------------------------------------------
# Peers that leave


async def test_a_node_that_leaves_by_itself_is_dialled_after_the_retry_delay(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=1000) as bench:
        link = bench.dial().succeed(A)
        await bench.settle(5)
        bench.host.lose(link, "reset")
        await bench.settle(0.999)
        assert len(bench.host.dials) == 1
        await bench.settle(0.002)
        assert len(bench.host.dials) == 2
        bench.dial().fail()
        await bench.settle()
        assert bench.news() == [up(A1), down(5000, "reset"), first_failure(A1), retry(A1, 1, 1000)]
        assert bench.counters.retries == 0
        assert dict(bench.counters.closed) == {"reset": 1}


async def test_a_node_that_was_disconnected_is_dialled_after_the_keepalive(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=1000, keepalive_interval=60000) as bench:
        bench.dial().succeed(A)
        await bench.settle()
        assert await bench.commands.disconnect(A) == DisconnectResult(A, 1)
        await bench.settle(59.9)
        assert len(bench.host.dials) == 1
        await bench.settle(0.2)
        assert len(bench.host.dials) == 2
        bench.dial().succeed(A)
        await bench.settle()
        bench.host.lose(bench.host.up[0])  # by itself this time: what was asked once is not remembered
        await bench.settle(1.001)
        assert len(bench.host.dials) == 3
        assert bench.news() == [up(A1), down(0, "closed"), up(A1), down(0)]


async def test_only_the_last_connection_ends_a_peer(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, retry_delay=0) as bench:
        first, second = FakeLink(A, A1, "inbound"), FakeLink(A, A2)
        bench.host.bring_up(first)
        await bench.settle(1)
        bench.host.bring_up(second)
        assert (bench.connections.count(), bench.connections.peer_ids()) == (2, [A])
        bench.host.lose(first, "reset")
        assert bench.news() == [up(A1, direction="inbound")]
        await bench.settle(1)
        bench.host.lose(second, "timeout")
        assert bench.news() == [down(2000, "timeout")]
        assert (bench.connections.count(), bench.connections.peer_ids()) == (0, [])
        counters = bench.counters
        assert (counters.inbound_connections, counters.outbound_connections) == (1, 1)
        assert dict(counters.closed) == {"reset": 1, "timeout": 1}


async def test_a_link_without_a_reason_is_an_error(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        link = FakeLink(A, A1)
        bench.host.bring_up(link)
        bench.host.up.remove(link)
        bench.connections.disconnected(cast(Any, link))
        assert bench.news() == [up(A1), down(0, "error")]


# --------------------------------------------------------------------------------------------------------------------
# Two addresses of one peer


async def test_a_peer_that_is_connected_cuts_the_dial_of_its_second_address(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, A2, retry_delay=100) as bench:
        link = bench.dial(A1).succeed(A)
        await bench.settle()
        assert bench.dial(A2).cancelled
        await bench.settle(10**8)
        assert len(bench.host.dials) == 2
        assert bench.news() == [up(A1)]
        assert (bench.counters.failed_connections, bench.counters.retries) == (0, 0)
        assert bench.connections.peers()[0].bootstrap
        bench.host.lose(link)
        await bench.settle(0.101)
        assert sorted(dial.address for dial in bench.host.dials[2:]) == [A1, A2]


async def test_a_peer_that_is_connected_ends_the_wait_of_its_second_address(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, A2, retry_delay=100) as bench:
        bench.dial(A2).fail()
        await bench.settle(0.05)
        bench.dial(A1).succeed(A)
        await bench.settle(10**8)
        assert len(bench.host.dials) == 2
        assert bench.news() == [first_failure(A2), retry(A2, 1, 100), up(A1)]
    assert bench.news() == []


async def test_a_peer_that_dials_us_ends_the_cycle_too(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1) as bench:
        bench.host.bring_up(FakeLink(A, "/ip4/1.1.1.1/tcp/50000/p2p/" + A, "inbound"))
        await bench.settle(10**8)
        assert bench.dial().cancelled
        assert len(bench.host.dials) == 1
        assert [kind for kind, _ in bench.news()] == ["peer:connect"]


async def test_a_dial_that_fails_once_its_peer_is_connected_ends_quietly(mock_clock: MockClock, book: Path) -> None:
    """Both in one turn of the loop, before the dial could be cut: no retry is announced that never comes."""
    async with running(mock_clock, book, A2, retry_delay=100) as bench:
        bench.dial(A2).fail()
        bench.host.bring_up(FakeLink(A, A1))
        await bench.settle(10**8)
        assert len(bench.host.dials) == 1
        assert bench.news() == [up(A1)]
        assert bench.counters.failed_connections == 1
    assert bench.news() == []


async def test_a_peer_that_has_gone_before_its_dial_returns_is_tried_again(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=1000) as bench:
        bench.dial().succeed(A, and_lose_it=True)
        await bench.settle()
        assert bench.news() == [up(A1), down(0)]
        assert bench.connections.peer_ids() == []
        await bench.settle(1.001)
        assert len(bench.host.dials) == 2


async def test_a_dnsaddr_learns_its_peer_from_its_connection(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, "/dnsaddr/boot.example", retry_delay=100) as bench:
        bench.host.bring_up(FakeLink(B, B1))
        link = bench.dial().succeed(A)
        await bench.settle()
        assert {peer.peer_id: peer.bootstrap for peer in bench.connections.peers()} == {B: False, A: True}
        bench.host.lose(link)
        await bench.settle(0.101)
        assert len(bench.host.dials) == 2


# --------------------------------------------------------------------------------------------------------------------
# How it stands


async def test_dials_under_way_and_to_come(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, B1, retry_delay=1000) as bench:
        assert bench.connections.dials() == (2, 0)
        bench.dial(A1).fail()
        await bench.settle()
        assert bench.connections.dials() == (1, 1)
        bench.dial(B1).succeed(B)
        await bench.settle()
        assert bench.connections.dials() == (0, 1)


async def test_the_loop_takes_the_turns_that_it_is_asked_for(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        for _ in range(3):
            assert bench.connections.silence() == 0
            await bench.settle(100)
    assert bench.connections.silence() >= 0
    mock_clock.jump(7)
    assert bench.connections.silence() == 7, "it has ended"
