"""Hole punching over QUIC without a NAT: what is believed of a peer, how the two ends meet, and what somebody hears
whom a peer has named, and who knows nothing of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import trio
import trio.testing

from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import DialError, Host, Link, Stream, StreamError
from fabstird.p2p.nat import dcutr
from fabstird.p2p.nat.dcutr import ADDRESSES, DCUTR, MAX_MESSAGE, is_changing, outside
from fabstird.p2p.nat.punching import BEHIND, Punching, _Session
from fabstird.p2p.net import quic
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.quic.endpoint import KNOCK
from fabstird.p2p.quic.stateless import RESET_MIN
from fabstird.p2p.wire.addresses import QUIC as QUIC_V1
from fabstird.p2p.wire.addresses import Transport, parse
from fabstird.p2p.wire.protobuf import HolePunch
from tests.traps.ours import address, our_host
from tests.unit.test_dcutr import HERE, THERE, Behind, message
from tests.unit.test_dcutr import pair as tcp_pair
from tests.unit.test_quic import QUIC, connection, until

BOTH: tuple[Transport, ...] = ("tcp", QUIC_V1)
UDP_HERE = "/ip4/45.32.1.2/udp/4001/quic-v1"
UDP_THERE = "/ip4/45.32.1.3/udp/4001/quic-v1"
SHORT = 0.5  # seconds, instead of `PUNCH`


def udp(ports: list[int]) -> list[tuple[str, str]]:
    """One observer sees each."""
    return [(f"/ip4/45.32.1.2/udp/{port}/quic-v1", f"45.32.{number}.1") for number, port in enumerate(ports)]


def test_each_transport_has_its_share_of_what_is_told() -> None:
    """Where a NAT shows TCP to everybody at another port, those would be all that is told."""
    many = [(f"/ip4/45.32.1.2/tcp/{port}", f"45.32.{port}.1") for port in range(1, 20)]
    told = outside([*many, (UDP_HERE, "45.32.9.1"), (UDP_HERE, "45.33.9.1")], ["/ip6/2600::1/udp/4001/quic-v1"], BOTH)
    assert len(told.addresses) == ADDRESSES
    assert told.addresses[1::2] == (UDP_HERE, "/ip6/2600::1/udp/4001/quic-v1")
    assert outside(udp([4001]), [UDP_HERE]).addresses == (), "the node does not listen on UDP"


@pytest.mark.parametrize(
    ("tcp_ports", "udp_ports", "changing"),
    [([1, 2], [4001], False), ([4001], [1, 2], False), ([1, 2], [3, 4], True), ([], [1, 2], True), ([], [1], False)],
)
def test_a_nat_is_symmetric_if_it_is_so_by_each_transport(
    tcp_ports: list[int], udp_ports: list[int], changing: bool
) -> None:
    tcp = [(f"/ip4/45.32.1.2/tcp/{port}", f"45.40.{number}.1") for number, port in enumerate(tcp_ports)]
    assert outside([*tcp, *udp(udp_ports)], [], BOTH).changing is changing
    assert is_changing([text for text, _ in (*tcp, *udp(udp_ports))]) is changing


@pytest.mark.parametrize(
    ("own", "believed"),
    [
        ([UDP_HERE], [UDP_THERE]),
        ([HERE], [THERE]),
        ([HERE, UDP_HERE], [THERE, UDP_THERE]),
    ],
    ids=["QUIC", "TCP", "both"],
)
async def test_what_a_peer_names_counts_by_the_transports_that_both_have(own: list[str], believed: list[str]) -> None:
    """And public endpoints alone."""
    foreign = ["/ip4/10.0.0.1/udp/53/quic-v1", "/ip4/127.0.0.1/udp/53/quic-v1", "/dns4/a.example/udp/1/quic-v1"]
    odd = ["/ip4/45.32.1.3/udp/53", "/ip4/224.0.0.1/udp/1/quic-v1"]

    async def answer(stream: Stream) -> None:
        await stream.write(message(HolePunch.CONNECT, *foreign, *odd, UDP_THERE, THERE))
        while await stream.receive_some(MAX_MESSAGE):
            pass

    async with tcp_pair() as (host, other):
        other.set_stream_handler(DCUTR, answer)
        async with host.stream(other.peer_id, DCUTR) as stream:
            addresses, _ = await dcutr.ask(stream, own)
    assert addresses == believed


async def test_a_peer_without_an_address_of_ours_kind_is_told_why() -> None:
    async def answer(stream: Stream) -> None:
        await stream.write(message(HolePunch.CONNECT, THERE))
        await stream.close_write()

    async with tcp_pair() as (host, other):
        other.set_stream_handler(DCUTR, answer)
        with pytest.raises(StreamError, match="it tells no public address of QUIC"):
            async with host.stream(other.peer_id, DCUTR) as stream:
                await dcutr.ask(stream, [UDP_HERE])


async def test_the_same_bounds_hold_as_for_tcp() -> None:
    async with our_host() as host:
        punching = Punching(host, cast(Connections, Behind()), Counters(), History())
        session, link = _Session(), cast(Link, object())
        private = ["/ip4/10.0.0.1/udp/53/quic-v1", "/ip4/127.0.0.1/udp/53/quic-v1"]
        assert punching._allowed(session, private, link) == []
        ports = [f"/ip4/45.32.1.9/udp/{port}/quic-v1" for port in range(1, 100)]
        assert [text for text in ports if punching._allowed(session, [text], link)] == ports[: 2 * ADDRESSES]


# ----------------------------------------------------------------------------------------------------------------
# The two ends


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Host, Host]]:
    async with our_host(QUIC, handshake_timeout=60) as host, our_host(QUIC, handshake_timeout=60) as other:
        with trio.fail_after(120):
            yield host, other


async def test_one_dials_from_where_it_listens_and_the_other_knocks_until_then() -> None:
    async with two() as (host, other), trio.open_nursery() as nursery:

        async def knock() -> None:
            await other.punch(address(host), timeout=60, initiator=False)

        nursery.start_soon(knock)
        endpoint = host.swarm.quic._datagrams.listener_for(parse(address(other)))  # type: ignore[union-attr]
        await until(lambda: endpoint.dropped)
        link = await host.punch(address(other), timeout=60, initiator=True)
        await until(lambda: other.links(host.peer_id))
        nursery.cancel_scope.cancel()
        (theirs,) = other.links(host.peer_id)
        assert (link.direction, link.punched, theirs.direction) == ("outbound", True, "inbound")
        assert parse(theirs.address).port == parse(address(host)).port
        assert connection(link).from_own_port
        assert await host.ping(other.peer_id) > 0


async def test_who_knocks_and_is_not_met_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic, "PUNCH", SHORT)
    async with two() as (host, other):
        with pytest.raises(DialError, match="its dial has not come"):
            await other.punch(address(host), timeout=60, initiator=False)
        with pytest.raises(DialError, match="listens on no UDP port from which"):
            await other.punch(f"/ip4/45.32.1.3/udp/4001/quic-v1/p2p/{host.peer_id}", timeout=60, initiator=False)
        assert not other.links()


class Victim:
    """Somebody whose address a peer has named."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.heard: list[int] = []  # bytes of each datagram

    async def run(self) -> None:
        while True:
            self.heard.append(len(await self.sock.recv(2048)))

    def named(self, peer: Host) -> str:
        host, port = self.sock.getsockname()
        return f"/ip4/{host}/udp/{port}/quic-v1/p2p/{peer.peer_id}"


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            one = Victim(sock)
            nursery.start_soon(one.run)
            yield one
            nursery.cancel_scope.cancel()


async def test_somebody_else_is_knocked_at_with_few_bytes_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic, "PUNCH", SHORT)
    async with two() as (host, other), victim() as named:
        with pytest.raises(DialError):
            await host.punch(named.named(other), timeout=60, initiator=False)
        await until(lambda: named.heard)
        assert set(named.heard) == {KNOCK}
        assert len(named.heard) <= SHORT / quic.KNOCKS[0] + 1
        assert KNOCK < RESET_MIN, "two nodes must not answer each other"
        heard = len(named.heard)
        assert await host.ping((await host.dial(address(other), timeout=60)).peer_id) > 0
        assert len(named.heard) <= heard + 1, "the last one may have been on its way"


async def test_somebody_else_is_dialled_for_a_moment_and_then_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dial over QUIC goes on for as long as its deadline allows, which is three times as long here."""
    monkeypatch.setattr(quic, "PUNCH", SHORT)
    async with two() as (host, other), victim() as named:
        with pytest.raises(DialError, match="nothing has come from there"):
            await host.punch(named.named(other), timeout=60, initiator=True)
        assert sum(named.heard) < 10 * 1200
        assert len(host.swarm.quic._datagrams._endpoints) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("initiator", [True, False])
async def test_a_stop_in_the_middle_leaves_nothing(initiator: bool) -> None:
    async with victim() as named, our_host(QUIC) as other, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def punch() -> None:
            with pytest.raises(DialError, match="stopping"):
                await host.punch(named.named(other), timeout=60, initiator=initiator)
            ended.set()

        with trio.fail_after(60):
            async with our_host(QUIC) as host:
                nursery.start_soon(punch)
                await until(lambda: named.heard)
                (endpoint,) = host.swarm.quic._datagrams._endpoints  # type: ignore[union-attr]
            await ended.wait()
        assert len(endpoint) == 0
        assert endpoint._sock.fileno() == -1


async def test_what_is_cut_off_at_any_moment_leaves_nothing() -> None:
    chance = random.Random(15)
    async with two() as (host, other), victim() as named, trio.open_nursery() as nursery:

        async def punch(text: str, initiator: bool, moment: float) -> None:
            with trio.move_on_after(moment), suppress(DialError):
                await host.punch(text, timeout=60, initiator=initiator)

        for text in (named.named(other), address(other)):
            for number in range(30):
                moment = chance.choice([0.0, 0.001, 0.01, 0.1])
                nursery.start_soon(punch, text, number % 2 == 0, moment)
        await until(lambda: len(nursery.child_tasks) == 0)
        for link in host.links():
            link.end("closed")
        for one in (host, other):
            (endpoint,) = one.swarm.quic._datagrams._endpoints  # type: ignore[union-attr]
            await until(lambda endpoint=endpoint: len(endpoint) == 0)
            assert (endpoint.newcomers, endpoint._routes, endpoint._sources) == (0, {}, {})
            await until(lambda one=one: one.swarm.links.places.taken == 0)
            await until(lambda one=one: one.swarm.links.memory.process.used == 0)


class Dialled:
    """A host that writes down when it was to punch, and fails."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def listen_addresses(self) -> list[str]:
        return []

    async def punch(self, text: str, *, timeout: float, initiator: bool) -> Link:
        self.at[text] = trio.current_time()
        raise DialError("timed out", "timeout")


@pytest.mark.parametrize(("initiator", "behind"), [(True, BEHIND), (False, 0.0)])
async def test_a_dial_over_tcp_is_ahead_of_one_over_quic(
    initiator: bool, behind: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Knocking is not: the other side's dial may come at any time."""
    host = Dialled()
    punching = Punching(cast(Host, host), cast(Connections, None), Counters(), History())
    began = trio.current_time()
    for text in (THERE, UDP_THERE):
        with pytest.raises(DialError):
            await punching._dial(text, behind=True, initiator=initiator)
    assert [at - began for at in host.at.values()] == pytest.approx([0.0, behind])
    with pytest.raises(DialError):
        await punching._dial(UDP_HERE, behind=False, initiator=True)
    assert host.at[UDP_HERE] - began == pytest.approx(behind)
