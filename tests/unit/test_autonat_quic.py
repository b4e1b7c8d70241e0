"""Being dialled back over QUIC: ours as server and as client, between two hosts on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import DialError, Host, Link
from fabstird.p2p.nat import autonat_service
from fabstird.p2p.nat.autonat import AutoNat, _Server
from fabstird.p2p.nat.autonat_asking import DialBacks, _Awaited, ask_1, dial_back
from fabstird.p2p.nat.autonat_messages import LEAST_DATA
from fabstird.p2p.nat.autonat_service import AutoNatService
from fabstird.p2p.nat.dial_back_policy import at_the_asker, first_allowed
from fabstird.p2p.net.probe import Prober
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.protobuf import AutoNatMessage
from tests.traps.ours import LOOPBACK, Record, address, our_host
from tests.unit.test_punching_quic import victim
from tests.unit.test_quic import QUIC, until

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@asynccontextmanager
async def asked(server_listens: tuple[str, ...] = QUIC) -> AsyncIterator[tuple[Host, Host, Record]]:
    """Who asks, listening on QUIC, connected to a server; and what the asker was told."""
    async with (
        our_host((*QUIC, *LOOPBACK), handshake_timeout=60) as host,
        our_host(server_listens, handshake_timeout=60) as server,
    ):
        record = Record()
        host.observe(record)
        AutoNatService(server, ["noise"], Counters()).start()
        with trio.fail_after(120):
            await host.dial(address(server), timeout=60)
            yield host, server, record


def own(host: Host) -> str:
    """Bare, as `AutoNat` asks for it."""
    (found,) = [text for text in host.listen_addresses() if "quic-v1" in text]
    return found.rpartition("/p2p/")[0]


async def left_behind(host: Host) -> None:
    """Nothing is, of those who have dialled back."""
    await until(lambda: len(host.links()) == 1)
    for endpoint in host.swarm.quic._datagrams._endpoints:  # type: ignore[union-attr]
        await until(lambda endpoint=endpoint: len(endpoint) <= 1)


async def test_by_version_2_the_server_shows_that_it_got_through() -> None:
    async with asked() as (host, server, record):
        backs = DialBacks(host)
        backs.start()
        assert await backs.ask(server.peer_id, own(host)) == "reached"
        (_, probe) = record.came
        assert (probe.transport, probe.direction) == ("quic-v1", "inbound")
        assert probe.peer_id != server.peer_id, "under another peer id"
        await left_behind(host)
        assert len(server.swarm.quic._datagrams._endpoints) == 1  # type: ignore[union-attr]


async def test_by_version_1_the_address_is_told() -> None:
    async with asked() as (host, server, _):
        assert await ask_1(host, server.peer_id, own(host)) == "reached"
        await left_behind(host)


async def test_a_server_that_listens_on_no_quic_dials_nobody_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's word loads nothing."""
    monkeypatch.setattr(autonat_service, "DIAL", 0.5)
    async with asked(LOOPBACK) as (host, server, record):
        backs = DialBacks(host)
        backs.start()
        assert await backs.ask(server.peer_id, own(host)) == "refused"
        said = await dial_back(host, server.peer_id, own(host))
        assert said.status in (AutoNatMessage.E_DIAL_REFUSED, AutoNatMessage.E_DIAL_ERROR)
        assert len(record.came) == 1
        assert server.swarm.quic._datagrams is None


@pytest.mark.parametrize("version", ["1", "2"])
async def test_where_nobody_answers_it_has_failed(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autonat_service, "DIAL", 0.5)
    async with asked() as (host, server, _), victim() as nobody:
        there = nobody.named(host).rpartition("/p2p/")[0]
        if version == "1":
            assert await ask_1(host, server.peer_id, there) == "failed"
        else:
            assert await DialBacks(host).ask(server.peer_id, there) == "failed"
        assert len(server.swarm.quic._datagrams._endpoints) == 1  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------------------------
# The probe


async def test_a_probe_comes_from_another_port_under_another_name_and_leaves_nothing() -> None:
    async with our_host(QUIC, handshake_timeout=60) as host, our_host(QUIC, handshake_timeout=60) as other:
        record = Record()
        other.observe(record)
        prober = Prober(host.swarm.links, ["noise"])

        async def until_seen(_: Link) -> None:
            await until(lambda: len(record.came) > len(record.went))

        await prober.probe(parse(address(other)), until_seen)
        await until(lambda: record.went)
        descriptors = len(os.listdir("/proc/self/fd"))
        with trio.fail_after(60):
            for number in range(2, 7):
                await prober.probe(parse(address(other)), until_seen)
                await until(lambda number=number: len(record.went) == number)
        for link in record.went:
            await link.gone.wait()
            assert link.peer_id != host.peer_id
            assert parse(link.address).port != parse(address(host)).port
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert prober._quic._datagrams._endpoints == []  # type: ignore[union-attr]
        await until(lambda: host.swarm.links.memory.process.used == 0)


async def test_a_probe_of_somebody_else_fails_and_one_that_is_cut_off_leaves_nothing() -> None:
    async with (
        our_host(QUIC, handshake_timeout=60) as host,
        our_host(QUIC, handshake_timeout=60) as other,
        victim() as nobody,
    ):
        prober = Prober(host.swarm.links, ["noise"])
        with trio.fail_after(60), pytest.raises(DialError, match="another peer answers there"):
            await prober.probe(parse(f"{address(other).rpartition('/p2p/')[0]}/p2p/{host.peer_id}"))
        descriptors = len(os.listdir("/proc/self/fd"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prober.probe, parse(nobody.named(other)))
            await until(lambda: nobody.heard)
            nursery.cancel_scope.cancel()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert prober._quic._datagrams._endpoints == []  # type: ignore[union-attr]


async def test_a_dial_back_to_somebody_else_costs_less_than_the_asker_has_paid() -> None:
    """What is not answered is sent again after twice the time: in the rest of `DIAL` come no more than in the first two
    seconds."""
    async with our_host(QUIC) as host, our_host(QUIC) as other, victim() as nobody:
        prober = Prober(host.swarm.links, ["noise"])
        with trio.fail_after(60), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(prober.probe, parse(nobody.named(other)))
                await until(lambda: nobody.heard)
                await trio.sleep(2)
                scope.cancel()
        assert 1200 <= sum(nobody.heard) < LEAST_DATA / 2


# ----------------------------------------------------------------------------------------------------------------
# What decides


def test_where_the_node_speaks_quic_it_is_an_address_as_any_other() -> None:
    seen = parse("/ip4/45.32.1.1/udp/61000/quic-v1")
    listed = [parse(text).packed for text in ("/ip4/10.0.0.1/udp/4001/quic-v1", "/ip4/10.0.0.1/tcp/4001")]
    assert [str(one) for one in at_the_asker(listed, PEER, seen, quic=True)] == [
        f"/ip4/45.32.1.1/udp/4001/quic-v1/p2p/{PEER}",
        f"/ip4/45.32.1.1/tcp/4001/p2p/{PEER}",
    ]
    assert [str(one) for one in at_the_asker([], PEER, seen, quic=True)] == [f"{seen}/p2p/{PEER}"]
    public = [*listed, parse("/ip4/45.32.1.9/udp/4001/quic-v1").packed]
    for quic, found in ((True, 2), (False, None)):
        chosen = first_allowed(public, PEER, "45.32.1.1", lambda _: True, quic=quic)
        assert (chosen and chosen[0]) == found
    assert first_allowed([parse("/dns4/a.example/udp/1/quic-v1").packed], PEER, "45.32.1.1", bool, quic=True) is None


@dataclass
class Came:
    """A link that has come."""

    pipe: Any
    direction: str = "inbound"
    relayed: bool = False
    opened: float = 1.0


@pytest.mark.parametrize(
    ("wanted", "came", "fits"),
    [
        ("udp/1/quic-v1", "udp/2/quic-v1", True),
        ("udp/1/quic-v1", "tcp/2/ws", False),
        ("udp/1/quic-v1", "tcp/2", False),
        ("tcp/1", "udp/2/quic-v1", False),
        ("tcp/1/ws", "udp/2/quic-v1", False),
        ("tcp/1/tls/ws", "tcp/2/ws", True),
    ],
)
def test_a_dial_back_by_another_transport_shows_nothing(wanted: str, came: str, fits: bool) -> None:
    awaited = _Awaited(parse(f"/ip4/45.32.1.1/{wanted}"), 0.0)
    link: Any = Came(type("Pipe", (), {"remote": parse(f"/ip4/45.32.1.9/{came}")}))
    assert awaited.fits(link) is fits


@pytest.mark.parametrize(("listens", "can"), [(QUIC, True), (LOOPBACK, False)])
async def test_a_server_of_version_1_is_asked_about_quic_only_by_quic(listens: tuple[str, ...], can: bool) -> None:
    """Ours of version 0.2 dials where the connection came from instead, and says that this has failed."""
    udp, tcp = "/ip4/45.32.1.1/udp/1/quic-v1", "/ip4/45.32.1.1/tcp/1"
    async with asked(listens) as (host, server, _):
        autonat = AutoNat(host, Counters())
        for version, found in (("1", can), ("2", True)):
            one = _Server(server.peer_id, "127.0.0.1", version)  # type: ignore[arg-type]
            assert (autonat._can_say(one, udp), autonat._can_say(one, tcp)) == (found, True)
