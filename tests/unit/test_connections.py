"""The connection manager: what it dials and what it tells, over one fake host and a clock moved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from fabstir_client.errors import (
    DeadlineExceeded,
    DialFailed,
    InvalidParams,
    InvalidState,
    LimitExceeded,
    PeerNotFound,
)
from fabstir_client.types import ConnectResult, DisconnectResult, PingResult
from fabstird.p2p.host import PeerInfo, ProtocolUnsupported, StreamError
from tests.unit.manager import A1, A2, B1, OWN, SAID, A, B, Bench, FakeLink, Json, running


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "peers.json"


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
# Cycles


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
# What users ask


async def connecting(bench: Bench, target: str, timeout: int | None = None) -> tuple[trio.Event, list[Any]]:
    """A call of connect under way: its end, and its outcome."""
    ended, outcome = trio.Event(), list[Any]()

    async def call() -> None:
        try:
            outcome.append(await bench.commands.connect(target, timeout))
        except Exception as error:  # noqa: BLE001 - the outcome
            outcome.append(error)
        ended.set()

    trio.lowlevel.spawn_system_task(call)
    await bench.settle()
    return ended, outcome


async def test_connect_dials_and_remembers(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, dial_timeout=7000) as bench:
        _, outcome = await connecting(bench, A1)
        assert (bench.dial().address, bench.dial().timeout) == (A1, 7.0)
        bench.dial().succeed(A)
        await bench.settle()
        assert outcome == [ConnectResult(peer_id=A, address=A1, direction="outbound", already_connected=False)]
        assert await bench.commands.connect(A2, None) == ConnectResult(A, A1, "outbound", True)
        assert await bench.commands.connect(A, None) == ConnectResult(A, A1, "outbound", True)
        await bench.commands.disconnect(A)
        await connecting(bench, A)
        assert bench.dial().address == A1
        assert len(bench.host.dials) == 2


async def test_connect_bypasses_the_back_off_and_ends_the_cycle(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=10**6) as bench:
        bench.dial().fail()
        await bench.settle()
        await connecting(bench, A1)
        assert len(bench.host.dials) == 2
        bench.dial().succeed(A)
        await bench.settle(10**8)
        assert len(bench.host.dials) == 2
    assert [kind for kind, _ in bench.news()] == ["error", "connection:retry", "peer:connect"]


async def test_connect_tries_known_addresses_in_turn_and_tells_each_error(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        link = FakeLink(A, A2, "inbound")
        bench.host.bring_up(link)
        bench.host.identify(link, PeerInfo("agent", "1", (), ("/ip4/1.1.1.1/tcp/1", "/ip4/2.2.2.2/tcp/2"), None))
        bench.host.lose(link)
        _, outcome = await connecting(bench, A)
        for words in ("connection refused", "timed out"):
            bench.dial().fail(words)
            await bench.settle()
        assert [dial.address for dial in bench.host.dials] == [A1, A2]
        (error,) = outcome
        assert isinstance(error, DialFailed)
        assert error.data == {"peerId": A, "errors": {A1: "connection refused", A2: "timed out"}}
        assert bench.counters.failed_connections == 2


async def test_connect_has_its_own_deadline(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, request_timeout=9000) as bench:
        for timeout, limit in ((2500, 2.5), (None, 9.0)):
            _, outcome = await connecting(bench, A1, timeout)
            await bench.settle(limit - 0.001)
            assert outcome == []
            await bench.settle(0.002)
            (error,) = outcome
            assert isinstance(error, DeadlineExceeded)
            assert error.data == {"peerId": A, "timeout": limit * 1000}
            assert bench.dial().cancelled
        assert bench.counters.failed_connections == 0


async def test_connect_at_a_limit_names_it(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        _, outcome = await connecting(bench, A1)
        bench.dial().limit()
        await bench.settle()
        (error,) = outcome
        assert isinstance(error, LimitExceeded)
        assert error.data == {"limit": 1, "current": 1, "configKey": "connections.max"}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("", "peer id .* cannot be decoded"),
        ("nonsense", "peer id .* cannot be decoded"),
        ("/ip4/1.1.1.1/tcp/1", r"names no peer; append /p2p/<peer id>"),
        ("/ip4/1.1.1.1/tcp/1/p2p/nonsense", "cannot be decoded"),
        (f"/ip4/1.1.1.1/udp/1/quic-v1/p2p/{A}", "no transport for"),
        (OWN, "is this node itself"),
        (f"/ip4/1.1.1.1/tcp/1/p2p/{OWN}", "is this node itself"),
    ],
)
async def test_connect_to_what_cannot_be_dialled(mock_clock: MockClock, book: Path, target: str, words: str) -> None:
    async with running(mock_clock, book) as bench:
        with pytest.raises(InvalidParams, match=f"^address: .*{words}") as raised:
            await bench.commands.connect(target, None)
        assert raised.value.data == {"param": "address"}
        assert bench.host.dials == []


async def test_a_stranger_is_not_found(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        for call in (
            lambda: bench.commands.connect(A, None),
            lambda: bench.commands.disconnect(A),
            lambda: bench.commands.ping(A, None),
        ):
            with pytest.raises(PeerNotFound) as raised:
                await call()
            assert raised.value.data == {"peerId": A}
        for text in ("", "nonsense", A1):
            with pytest.raises(InvalidParams, match=r"^peerId: ") as wrong:
                await bench.commands.disconnect(text)
            assert wrong.value.data == {"param": "peerId"}


async def test_ping(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, request_timeout=9000) as bench:
        bench.host.bring_up(FakeLink(A, A1))
        assert await bench.commands.ping(A, None) == PingResult(A, 1.5)
        for error in (ProtocolUnsupported("no ping"), StreamError("reset")):
            bench.host.pong = error
            with pytest.raises(InvalidState, match=str(error)):
                await bench.commands.ping(A, None)
        bench.host.pong = None
        for timeout, limit in ((2500, 2.5), (None, 9.0)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(late_pong, bench, timeout, limit)
                await bench.settle(limit + 0.001)


async def late_pong(bench: Bench, timeout: int | None, limit: float) -> None:
    with pytest.raises(DeadlineExceeded) as raised:
        await bench.commands.ping(A, timeout)
    assert raised.value.data == {"peerId": A, "timeout": limit * 1000}


async def test_a_peers_entry(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        inbound = FakeLink(A, "/ip4/1.1.1.1/tcp/50000/p2p/" + A, "inbound", latency=9.0)
        bench.host.bring_up(inbound)
        (before,) = bench.connections.peers()
        assert (before.agent_version, before.protocols, before.addresses, before.latency) == (None, [], [], 9.0)
        bench.host.bring_up(FakeLink(A, A2, opened_at=1700000000005, latency=2.0, streams=(object(),)))
        bench.host.identify(inbound, SAID)
        (peer,) = bench.connections.peers()
        assert peer.to_dict() == {
            "peerId": A,
            "direction": "inbound",
            "connectedAt": 1700000000000,
            "addresses": [A2, f"/ip4/9.9.9.9/tcp/9/p2p/{A}"],
            "connections": [
                {
                    "address": address,
                    "direction": direction,
                    "openedAt": opened,
                    "transport": "tcp",
                    "security": "/noise",
                    "muxer": "/yamux/1.0.0",
                    "streams": streams,
                }
                for address, direction, opened, streams in (
                    (inbound.address, "inbound", 1700000000000, 0),
                    (A2, "outbound", 1700000000005, 1),
                )
            ],
            "protocols": ["/a/1"],
            "tags": {},
            "protected": False,
            "bootstrap": False,
            "agentVersion": "agent/1",
            "protocolVersion": "ipfs/0.1.0",
            "latency": 2.0,
        }
        assert bench.news()[-1] == (
            "peer:identify",
            {
                "peerId": A,
                "agentVersion": "agent/1",
                "protocolVersion": "ipfs/0.1.0",
                "protocols": ["/a/1"],
                "addresses": [f"/ip4/9.9.9.9/tcp/9/p2p/{A}"],
            },
        )


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
