"""Port mapping with routers that are made here, on loopback: a good one, and some that are not."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from fabstir_client.api.types import NatMapped, NatUnmapped, PortMapping
from fabstird.events import Entry, EventLog
from fabstird.p2p.host.host import Host
from fabstird.p2p.nat.portmap import igd, natpmp
from fabstird.p2p.nat.portmap import mapper as mapper_module
from fabstird.p2p.nat.portmap import router as router_module
from fabstird.p2p.nat.portmap.mapper import PortMapper
from fabstird.p2p.nat.portmap.mappings import LAST_PAUSE, LEASE
from fabstird.p2p.nat.portmap.router import MAX_STRAYS, Router, Silent, ask
from tests.harness import until

HERE = ipaddress.ip_address("127.0.0.1")
OUTSIDE = ipaddress.ip_address("45.32.1.1")
OWN = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
SECRET = bytes(32)

Answers = Callable[[bytes], Iterator[bytes]]


class ListeningHost:
    """As much of a host as port mapping asks for."""

    peer_id = OWN

    def __init__(self, *listening: str) -> None:
        self.listening = list(listening)
        self.mapped: list[str] = []

    def listen_addresses(self) -> list[str]:
        return self.listening

    def set_mapped_addresses(self, addresses: list[str]) -> None:
        self.mapped = addresses


class Gateway:
    """A router that speaks NAT-PMP as RFC 6886 has it, and refuses PCP by its version."""

    def __init__(self, external: str = "45.32.1.1", lease: int = 1200) -> None:
        self.external = ipaddress.IPv4Address(external)
        self.lease = lease
        self.mapped: dict[int, int] = {}  # of TCP
        self.mapped_udp: dict[int, int] = {}

    def __call__(self, question: bytes) -> Iterator[bytes]:
        if question[0] != natpmp.VERSION:
            yield struct.pack(">BBHI", 0, 0x80 | question[1], 1, 9)
        elif question[1] == 0:
            yield struct.pack(">BBHI4s", 0, 0x80, 0, 9, self.external.packed)
        else:
            port, wish, lease = struct.unpack_from(">HHI", question, 4)
            mapped = self.mapped if question[1] == 2 else self.mapped_udp
            if lease:
                mapped[port] = wish
            else:
                mapped.pop(port, None)
            yield struct.pack(">BBHIHHI", 0, 0x80 | question[1], 0, 9, port, wish, min(lease, self.lease))


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[Router]:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((str(HERE), 0))

        async def serve() -> None:
            while True:
                question, who = await sock.recvfrom(2048)
                for answer in answers(question):
                    await sock.sendto(answer, who)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            port = sock.getsockname()[1]
            yield Router(HERE, HERE, port, search_port=port)
            nursery.cancel_scope.cancel()


class Mapping:
    """A mapper that runs, and what it has told."""

    def __init__(self, host: ListeningHost, router: Router | None) -> None:
        self.host = host
        self.router = router
        self.events = EventLog(100)
        self.told: list[Any] = []
        self.events.tap(self._tell)
        self.mapper = PortMapper(cast(Host, host), self.events, SECRET, find=lambda: self.router)

    def _tell(self, entry: Entry) -> None:
        self.told.append(entry.data)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.mapper.run)
            yield
            nursery.cancel_scope.cancel()

    async def stands(self, state: str) -> PortMapping:
        await until(lambda: self.mapper.standing().state == state)
        return self.mapper.standing()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not answer is not waited for for long."""
    monkeypatch.setattr(router_module, "WAITS", (0.05, 0.05))
    monkeypatch.setattr(igd, "SEARCH_AT", (0.0,))
    monkeypatch.setattr(igd, "SEARCH", 0.1)
    monkeypatch.setattr(mapper_module, "GOODBYE", 0.2)


LISTENER = f"/ip4/127.0.0.1/tcp/4001/p2p/{OWN}"


async def test_each_listener_is_mapped_and_given_back() -> None:
    gateway = Gateway()
    host = ListeningHost(LISTENER, f"/ip4/127.0.0.1/tcp/4002/ws/p2p/{OWN}", f"/ip4/10.0.0.1/tcp/4003/p2p/{OWN}")
    async with answering(gateway) as router:
        mapping = Mapping(host, router)
        async with mapping.running():
            assert await mapping.stands("mapped") == PortMapping(state="mapped", gateway=str(HERE), method="nat-pmp")
            assert gateway.mapped == {4001: 4001, 4002: 4002}
            assert host.mapped == ["/ip4/45.32.1.1/tcp/4001", "/ip4/45.32.1.1/tcp/4002/ws"]
            assert mapping.mapper.bounds() == {"portMappings": (2, 16)}
        assert gateway.mapped == {}
    assert host.mapped == []
    addresses = [f"/ip4/45.32.1.1/tcp/4001/p2p/{OWN}", f"/ip4/45.32.1.1/tcp/4002/ws/p2p/{OWN}"]
    assert [type(one) for one in mapping.told] == [NatMapped, NatMapped, NatUnmapped, NatUnmapped]
    assert [one.address for one in mapping.told] == 2 * addresses
    assert {(one.protocol, one.method) for one in mapping.told} == {("tcp", "nat-pmp")}


async def test_a_udp_port_is_mapped_beside_a_tcp_port_of_the_same_number() -> None:
    gateway = Gateway()
    host = ListeningHost(LISTENER, f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{OWN}")
    async with answering(gateway) as router:
        mapping = Mapping(host, router)
        async with mapping.running():
            await mapping.stands("mapped")
            assert gateway.mapped == gateway.mapped_udp == {4001: 4001}
            assert host.mapped == ["/ip4/45.32.1.1/tcp/4001", "/ip4/45.32.1.1/udp/4001/quic-v1"]
            assert mapping.mapper.bounds() == {"portMappings": (2, 16)}
            host.listening.pop()
            mapping.mapper.network_changed()
            await until(lambda: host.mapped == ["/ip4/45.32.1.1/tcp/4001"])
            host.listening.append(f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{OWN}")
            mapping.mapper.network_changed()
            await until(lambda: len(host.mapped) == 2)
        assert gateway.mapped == gateway.mapped_udp == {}
    kinds = [(type(one), one.protocol) for one in mapping.told]
    assert kinds[:4] == [(NatMapped, "tcp"), (NatMapped, "udp"), (NatUnmapped, "udp"), (NatMapped, "udp")]
    assert sorted(protocol for _, protocol in kinds[4:]) == ["tcp", "udp"]


async def test_a_router_that_maps_tcp_alone_says_so_of_the_other() -> None:
    gateway = Gateway()

    def answers(question: bytes) -> Iterator[bytes]:
        if question[:2] == b"\0\1":
            yield struct.pack(">BBHIHHI", 0, 0x81, 5, 9, 0, 0, 0)
        else:
            yield from gateway(question)

    async with answering(answers) as router:
        mapping = Mapping(ListeningHost(LISTENER, f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{OWN}"), router)
        async with mapping.running():
            reason = (await mapping.stands("mapped")).reason or ""
            assert reason.startswith("port 4001 (UDP) not mapped: ")
            assert "nat-pmp: it does not map UDP" in reason
            assert mapping.host.mapped == ["/ip4/45.32.1.1/tcp/4001"]


async def test_who_listens_on_loopback_alone_or_has_no_router_asks_nobody() -> None:
    asked: list[bytes] = []

    def answers(question: bytes) -> Iterator[bytes]:
        asked.append(question)
        yield from ()

    async with answering(answers) as router:
        elsewhere = replace(router, local=ipaddress.ip_address("192.168.1.2"))
        for mapping in (Mapping(ListeningHost(LISTENER), elsewhere), Mapping(ListeningHost(LISTENER), None)):
            async with mapping.running():
                assert (await mapping.stands("idle")).reason
            assert mapping.told == []
    assert asked == []


async def test_another_router_is_asked_as_soon_as_the_network_is_another() -> None:
    async with answering(Gateway()) as first, answering(Gateway("45.32.1.9")) as second:
        mapping = Mapping(ListeningHost(LISTENER), first)
        async with mapping.running():
            await mapping.stands("mapped")
            mapping.router = second
            mapping.mapper.network_changed()
            await until(lambda: mapping.host.mapped == ["/ip4/45.32.1.9/tcp/4001"])
            mapping.router = None
            mapping.mapper.network_changed()
            await mapping.stands("idle")
            assert mapping.host.mapped == []
    assert [type(one) for one in mapping.told] == [NatMapped, NatUnmapped, NatMapped, NatUnmapped]


async def test_a_router_that_has_moved_is_noticed_at_the_renewal() -> None:
    gateway = Gateway()
    async with answering(gateway) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            await mapping.stands("mapped")
            gateway.external = ipaddress.IPv4Address("45.32.1.9")
            mapping.mapper.network_changed()
            await until(lambda: mapping.host.mapped == ["/ip4/45.32.1.9/tcp/4001"])
    assert [one.address.split("/")[2] for one in mapping.told] == ["45.32.1.1", "45.32.1.1", "45.32.1.9", "45.32.1.9"]


async def test_a_router_with_a_private_address_outside_is_told_as_such() -> None:
    async with answering(Gateway("100.64.7.7")) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            reason = (await mapping.stands("mapped")).reason
    assert reason == "the router has a private address outside, 100.64.7.7, and another router lies behind it"


# --------------------------------------------------------------------------------------------------------------------
# Routers that are not as they should be


@pytest.mark.parametrize(
    ("gateway", "words"),
    [
        (Gateway("127.0.0.1"), "127.0.0.1, which leads nowhere"),
        (Gateway("0.0.0.0"), "no external address at present"),
        (Gateway("239.1.2.3"), "239.1.2.3, which leads nowhere"),
        (Gateway(lease=1), "grants 1 s"),
        (Gateway(lease=0), "grants 0 s"),
    ],
)
async def test_what_makes_no_sense_is_not_believed(gateway: Gateway, words: str, quick: None) -> None:
    async with answering(gateway) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            standing = await mapping.stands("refused")
    assert standing.reason is not None
    assert words in standing.reason
    assert (mapping.told, mapping.host.mapped) == ([], [])
    assert gateway.mapped == {}, "what is not believed is given back"


async def test_a_stop_gives_back_what_the_router_has_mapped_and_not_told_yet() -> None:
    gateway = Gateway()
    heard = trio.Event()

    def answers(question: bytes) -> Iterator[bytes]:
        told = list(gateway(question))
        if gateway.mapped:
            heard.set()
        else:
            yield from told

    async with answering(answers) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            await heard.wait()
            assert gateway.mapped == {4001: 4001}
        assert gateway.mapped == {}
    assert mapping.told == []


async def test_a_router_that_says_nothing_is_given_up_and_keeps_no_stop(quick: None) -> None:
    silent = False
    gateway = Gateway()

    def answers(question: bytes) -> Iterator[bytes]:
        if not silent:
            yield from gateway(question)

    async with answering(answers) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            await mapping.stands("mapped")
            silent = True
            mapping.mapper.network_changed()
            await until(lambda: mapping.mapper.standing().reason)
            standing = mapping.mapper.standing()
            assert standing.state == "mapped", "the lease holds"
            assert standing.reason == (
                "port 4001 not renewed: nat-pmp: the router does not answer; pcp: the router does not answer; "
                "upnp: the router does not answer"
            )
            began = trio.current_time()
        assert trio.current_time() - began < 10
        assert isinstance(mapping.told[-1], NatUnmapped)

        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            reason = (await mapping.stands("refused")).reason
    silence = "the router does not answer"
    assert reason == f"pcp: {silence}; nat-pmp: {silence}; upnp: {silence}"


async def test_a_port_that_nobody_listens_on_is_known_at_once() -> None:
    async with answering(Gateway()) as router:
        pass
    with pytest.raises(Silent, match="does not speak it"):
        await ask(router, natpmp.ADDRESS_REQUEST, natpmp.read_address)


async def test_a_flood_of_something_else_is_not_read_for_ever() -> None:
    sent = 0

    def answers(question: bytes) -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10 * MAX_STRAYS):
            sent += 1
            yield bytes(2000)

    async with answering(answers) as router:
        with pytest.raises(Silent, match="something else"):
            await ask(router, natpmp.ADDRESS_REQUEST, natpmp.read_address)


async def test_the_answer_of_another_host_is_not_heard(quick: None) -> None:
    """It knows the port that was asked from, and says what the router would."""
    with (
        trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as router,
        trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as other,
    ):
        await router.bind(("127.0.0.1", 0))
        await other.bind(("127.0.0.2", 0))
        port = router.getsockname()[1]

        async def forge() -> None:
            while True:
                _, who = await router.recvfrom(100)
                await other.sendto(next(Gateway("45.99.9.9")(natpmp.ADDRESS_REQUEST)), who)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forge)
            with pytest.raises(Silent, match="does not answer"):
                await ask(Router(HERE, HERE, port), natpmp.ADDRESS_REQUEST, natpmp.read_address)
            nursery.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------------------------
# In the course of hours, by a clock that jumps


@pytest.fixture
def hours() -> trio.testing.MockClock:
    """Jumps to the next due time once nothing has happened for a while: what is sent on loopback is there at once."""
    return trio.testing.MockClock(autojump_threshold=0.05)


async def test_a_lease_is_renewed_at_half_time_ends_with_a_dead_router_and_comes_back_with_it(
    hours: trio.testing.MockClock,
) -> None:
    rounds: list[float] = []
    dead = False
    gateway = Gateway()

    def answers(question: bytes) -> Iterator[bytes]:
        if question[:2] == b"\0\2":
            rounds.append(trio.current_time())
        if not dead:
            yield from gateway(question)

    async with answering(answers) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            await trio.sleep(4 * LEASE / 2 + 60)
            assert [round(later - earlier, -1) for earlier, later in pairwise(rounds)] == 4 * [LEASE / 2]
            assert [type(one) for one in mapping.told] == [NatMapped], "a renewal is not told"

            dead = True
            await trio.sleep(LEASE / 2 + 60)
            assert mapping.host.mapped, "its lease has not ended yet"
            assert mapping.mapper.standing().reason
            await trio.sleep(LEASE / 2)
            assert mapping.mapper.standing().state == "refused"
            assert mapping.host.mapped == []
            assert [type(one) for one in mapping.told] == [NatMapped, NatUnmapped]

            dead = False
            await trio.sleep(LAST_PAUSE + 60)
            assert mapping.mapper.standing() == PortMapping(state="mapped", gateway=str(HERE), method="nat-pmp")
        assert [type(one) for one in mapping.told] == [NatMapped, NatUnmapped, NatMapped, NatUnmapped]
        assert gateway.mapped == {}


async def test_after_a_sleep_of_the_machine_the_router_is_asked(
    hours: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router does not sleep, and has forgotten the lease."""
    gateway = Gateway()
    async with answering(gateway) as router:
        mapping = Mapping(ListeningHost(LISTENER), router)
        async with mapping.running():
            await trio.sleep(1)
            gateway.mapped.clear()
            await trio.sleep(LEASE / 4)
            assert gateway.mapped == {}
            slept = mapper_module.time_asleep() + 8 * 3600
            monkeypatch.setattr(mapper_module, "time_asleep", lambda: slept)
            await trio.sleep(2 * mapper_module.AWAKE)
            assert gateway.mapped == {4001: 4001}
