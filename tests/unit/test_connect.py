"""What users ask of the manager of connections: connect, ping, and a peer's entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fabstir_client.api.errors import (
    DeadlineExceeded,
    DialFailed,
    InvalidParams,
    InvalidState,
    LimitExceeded,
    PeerNotFound,
)
from fabstir_client.api.types import ConnectResult, PingResult
from fabstird.p2p.host.host import PeerInfo, ProtocolUnsupported, StreamError
from tests.unit.manager import A1, A2, OWN, SAID, A, Bench, FakeLink, running


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
        (f"/ip4/1.1.1.1/udp/1/quic/p2p/{A}", "no transport for"),
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
                    "bytesIn": 0,
                    "bytesOut": 0,
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
            "bytesIn": 0,
            "bytesOut": 0,
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
