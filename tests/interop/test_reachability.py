"""A daemon behind a NAT, reached through a go relay (circuit relay v2), and what it knows of how it can be reached
(AutoNAT). The NAT is the test's own: network namespaces and nftables."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from fabstir_client.api.errors import DialFailed
from fabstird.identity import Identity
from tests.faults.cable import Machine, behind_a_nat
from tests.harness import Daemon, Json, asked_until, fabstird
from tests.interop.conftest import REPORT
from tests.interop.gopeer import go_peer
from tests.interop.jspeer import js_peer
from tests.interop.peerdriver import Peer
from tests.interop.peers import START
from tests.interop.rustpeer import rust_peer
from tests.interop.versions import LATEST_JS
from tests.network.laboratory import internet

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("nat", "go")]

LISTEN = ["/ip4/0.0.0.0/tcp/4001"]
QUIC = ["/ip4/0.0.0.0/udp/4001/quic-v1"]
over = pytest.mark.parametrize("listen", [LISTEN, QUIC], ids=["TCP", "QUIC"])
punching = pytest.mark.parametrize("implementation", ["go", "rust"], indirect=True)
SOON = 60.0  # seconds; a dial into a NAT takes go-libp2p 15 of them to give up, on a machine that is busy or not
RELAYED = {"nat.hole_punching": False}  # for tests of what stays so
SEED = "11" * 32  # of a relay that is restarted
RELAY = Identity.from_seed(bytes.fromhex(SEED)).peer_id


async def withdrawn(daemon: Daemon) -> None:
    """Returns once it announces no relay any more."""
    for _ in range(int(SOON * 10)):
        addresses = await daemon.call("addresses")
        if not any("p2p-circuit" in address for address in addresses["announced"]):
            return
        await trio.sleep(0.1)  # then look again
    raise AssertionError(f"still announced after {SOON} s: {addresses}{daemon.last_words()}")


async def test_a_daemon_behind_a_nat_is_reached_through_a_relay() -> None:
    with behind_a_nat(3) as (home, (relaying, here, elsewhere)):
        async with go_peer(listen=LISTEN, relay="server", prefix=relaying.run) as relay:
            (at,) = [address for address in relay.addresses if relaying.address in address]
            async with (
                fabstird(prefix=home.run, settings={"relay.nodes": [at], **RELAYED}, listen_addresses=LISTEN) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN, dial_timeout=2000) as daemon,
                go_peer(listen=LISTEN, prefix=elsewhere.run) as peer,
            ):
                # not directly: neither at its own address nor at its router's
                for address in ("/ip4/10.0.0.2/tcp/4001", "/ip4/45.32.1.1/tcp/4001"):
                    with pytest.raises(DialFailed):
                        await daemon.call("connect", address=f"{address}/p2p/{hidden.peer_id}")
                address = await hidden.circuit(relay, within=SOON)

                connected = await daemon.call("connect", address=address)
                assert connected["address"] == address
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                await hidden.wait_event("peer:identify", peerId=daemon.peer_id)
                entry = await hidden.peer(daemon.peer_id)
                assert entry is not None
                (connection,) = entry["connections"]
                assert connection["transport"] == "p2p-circuit"
                assert connection["direction"] == "inbound"
                assert connection["address"].endswith(f"/p2p/{relay.peer_id}/p2p-circuit/p2p/{daemon.peer_id}")

                await peer.call("dial", address=address)
                await hidden.wait_event("peer:connect", peerId=peer.peer_id)
                assert (await peer.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                assert (await hidden.call("ping", peerId=peer.peer_id))["rtt"] > 0

                await daemon.call("disconnect", peerId=hidden.peer_id)
                gone = await hidden.wait_event("peer:disconnect", peerId=daemon.peer_id)
                assert gone["reason"] == "closed_by_peer"
                for one in (hidden, daemon):
                    assert one.warnings() == []


async def test_the_relay_s_end_ends_what_it_carries() -> None:
    with behind_a_nat(2) as (home, (relaying, here)):
        settings = {"relay.nodes": ["/ip4/45.32.1.2/tcp/4001/p2p/" + RELAY], **RELAYED}
        retrying = {"retry_delay": 100, "keepalive_interval": 300, "dial_timeout": 2000}
        async with (
            fabstird(prefix=home.run, settings=settings, listen_addresses=LISTEN, **retrying) as hidden,
            fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
        ):
            for number in range(1, 3):  # a relay that was away is used again when it is back
                async with go_peer(listen=LISTEN, relay="server", seed=SEED, prefix=relaying.run) as relay:
                    address = await hidden.circuit(relay, within=SOON)
                    await daemon.call("connect", address=address)
                    await hidden.wait_event("peer:connect", count=number, peerId=daemon.peer_id)
                    relay.kill()
                    for one, other in ((hidden, daemon), (daemon, hidden)):
                        gone = await one.wait_event("peer:disconnect", count=number, peerId=other.peer_id)
                        assert gone["reason"] in ("reset", "closed_by_peer")
                await withdrawn(hidden)
                with pytest.raises(DialFailed):
                    await daemon.call("connect", address=address)


async def test_a_relay_s_limit_is_told_as_the_reason() -> None:
    """5 s for each connection, as `tests/interop/README.md` has it. The daemons renew what the relay lets them keep."""
    with behind_a_nat(2) as (home, (relaying, here)):
        async with go_peer(listen=LISTEN, relay="limited", prefix=relaying.run) as relay:
            nodes = [reached_at(relay, relaying.address)]
            async with (
                fabstird(
                    prefix=home.run, settings={"relay.nodes": nodes, **RELAYED}, listen_addresses=LISTEN
                ) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
            ):
                address = await hidden.circuit(relay, within=SOON)
                await daemon.call("connect", address=address)
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                for one, other in ((daemon, hidden), (hidden, daemon)):
                    gone = await one.wait_event("peer:disconnect", peerId=other.peer_id, timeout=SOON)
                    assert gone["reason"] == "limit"
                    assert len(one.found("peer:disconnect")) == 1, "the connection to the relay itself stays"
                assert address in (await hidden.call("addresses"))["announced"], "the reservation stays, too"
                for one in (hidden, daemon):
                    assert one.warnings() == []


async def state(daemon: Daemon, address: str) -> str:
    """Of an address (without peer id), in ``addresses()``."""
    entries = (await daemon.call("addresses"))["reachability"]
    found = [entry["state"] for entry in entries if entry["address"] == f"{address}/p2p/{daemon.peer_id}"]
    assert len(found) <= 1, entries
    return str(found[0]) if found else "not told"


async def becomes(daemon: Daemon, address: str, wanted: str) -> None:
    for _ in range(int(SOON * 10)):
        if (now := await state(daemon, address)) == wanted:
            return
        await trio.sleep(0.1)  # then look again
    raise AssertionError(f"{address} is still {now} after {SOON} s{daemon.last_words()}")


async def test_an_address_is_reachable_when_several_servers_have_dialled_it() -> None:
    with behind_a_nat(3) as (_, (here, one, another)):
        address = f"/ip4/{here.address}/tcp/4001"
        async with (
            fabstird(prefix=here.run, settings={"log.level": "debug"}, listen_addresses=LISTEN) as daemon,
            go_peer(listen=LISTEN, autonat="server", prefix=one.run) as first,
            go_peer(listen=LISTEN, autonat="server", prefix=another.run) as second,
        ):
            assert await state(daemon, address) == "unknown"
            await daemon.call("connect", address=reached_at(first, one.address))
            assert await dial_back_of(daemon, first, address), daemon.last_words()
            assert await state(daemon, address) == "unknown", "one server's word is not enough"
            await daemon.call("connect", address=reached_at(second, another.address))
            await becomes(daemon, address, "reachable")
            entries = (await daemon.call("addresses"))["reachability"]
            (entry,) = [one for one in entries if one["address"].startswith(address)]
            assert (entry["reachable"], entry["confirmedBy"]) == ("reachable", 2)
            assert "interface" in entry["from"]
            for entry in entries:
                if not entry["address"].startswith(address):
                    assert entry["state"] == "unknown", "nobody can say anything of a private one"
            assert daemon.warnings() == []


async def verified_by(asker: Peer) -> list[str]:
    """Its own addresses that others have confirmed to it."""
    return list((await asker.call("verified"))["addresses"])


async def dial_back_of(daemon: Daemon, server: Peer, address: str) -> bool:
    """Returns once the server has told how its dial went; whether it got through."""
    for _ in range(int(SOON * 10)):
        for entry in daemon.entries:
            if entry["event"] == "dialled back" and (entry["server"], entry["asked"]) == (server.peer_id, address):
                return bool(entry["outcome"] == "reached")
        await trio.sleep(0.1)  # then look again
    raise AssertionError(f"not dialled back within {SOON} s{daemon.last_words()}")


def reached_at(peer: Peer, ip: str) -> str:
    (address,) = [address for address in peer.addresses if f"/{ip}/" in address]
    return address


async def test_a_daemon_that_finds_itself_behind_a_nat_asks_a_bootstrap_node_to_relay() -> None:
    with behind_a_nat(3) as (home, (one, another, here)):
        async with (
            go_peer(listen=LISTEN, autonat="server", relay="server", prefix=one.run) as first,
            go_peer(listen=LISTEN, autonat="server", prefix=another.run) as second,
            fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
        ):
            nodes = [reached_at(first, one.address), reached_at(second, another.address)]
            async with fabstird(prefix=home.run, listen_addresses=LISTEN, bootstrap_nodes=nodes) as hidden:
                address = await hidden.circuit(first, within=SOON)
                assert await state(hidden, "/ip4/45.32.1.1/tcp/4001") == "unknown", "it was tried, in vain"
                entries = (await hidden.call("addresses"))["reachability"]
                (tried,) = [one for one in entries if one["address"].startswith("/ip4/45.32.1.1/tcp/4001/")]
                assert (tried["reachable"], tried["confirmedBy"]) == ("unreachable", 0)
                assert await state(hidden, address.rpartition("/p2p/")[0]) == "relayed"
                await daemon.call("connect", address=address)
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                assert hidden.warnings() == []


def _says(verdict: str, told: Json) -> bool:
    return bool(told["reachability"] == verdict)


async def test_go_learns_from_daemons_how_it_stands() -> None:
    """By both versions of AutoNAT: one go peer that can be reached, and one behind the NAT."""
    with behind_a_nat(3) as (home, (here, one, another)):
        address = f"/ip4/{here.address}/tcp/4001"
        async with (
            fabstird(prefix=one.run, listen_addresses=LISTEN) as first,
            fabstird(prefix=another.run, listen_addresses=LISTEN) as second,
            go_peer(listen=LISTEN, autonat="client", prefix=here.run) as peer,
            go_peer(listen=LISTEN, autonat="client", prefix=home.run) as hidden,
        ):
            for daemon, machine in ((first, one), (second, another)):
                at = f"/ip4/{machine.address}/tcp/4001/p2p/{daemon.peer_id}"
                for asker in (peer, hidden):
                    await asker.call("dial", address=at)
            await peer.wait_event(
                "checked", where=lambda told: told["reachable"] == [address], timeout=SOON
            )  # version 2
            for asker, verdict in ((peer, "Public"), (hidden, "Private")):  # version 1
                is_it = partial(_says, verdict)
                await asker.wait_event("reachability", where=is_it, timeout=SOON)
            assert first.errors == second.errors == []


@pytest.mark.usefixtures("rust")
async def test_rust_asks_a_daemon_and_a_daemon_asks_rust() -> None:
    """By version 2."""
    with behind_a_nat(3) as (_, (here, one, another)):
        address = f"/ip4/{here.address}/tcp/4001"
        async with (
            fabstird(prefix=here.run, settings={"log.level": "debug"}, listen_addresses=LISTEN) as daemon,
            rust_peer(listen=LISTEN, autonat="server", prefix=one.run) as server,
            rust_peer(listen=LISTEN, autonat="client", prefix=another.run) as asker,
        ):
            await asker.call("dial", address=f"{address}/p2p/{daemon.peer_id}")
            own = f"/ip4/{another.address}/tcp/4001"
            await asker.wait_event("checked", where=lambda told: told["reachable"] == [own], timeout=SOON)
            await daemon.call("connect", address=f"/ip4/{one.address}/tcp/4001/p2p/{server.peer_id}")
            assert await dial_back_of(daemon, server, address), daemon.last_words()
            assert daemon.errors == []


@pytest.mark.usefixtures("js")
async def test_js_asks_a_daemon_which_does_not_ask_it() -> None:
    """By version 1. js-libp2p dials nobody back that it is connected to: it takes that connection, and closes it."""
    with behind_a_nat(2) as (_, (here, there)):
        async with (
            fabstird(prefix=here.run, settings={"log.level": "debug"}, listen_addresses=LISTEN) as daemon,
            js_peer(listen=LISTEN, autonat=1, prefix=there.run) as asker,
        ):
            own = f"/ip4/{there.address}/tcp/4001"
            verified = partial(verified_by, asker)

            assert own not in await verified()
            await asker.call("dial", address=f"/ip4/{here.address}/tcp/4001/p2p/{daemon.peer_id}")
            await asked_until(verified, lambda known: own in known, within=SOON)
            assert daemon.found("peer:disconnect") == []
            assert [line for line in daemon.log if "dialled back" in line] == []
            assert daemon.errors == []


@pytest.mark.usefixtures("js")
@pytest.mark.skipif(not os.environ.get(REPORT), reason="installs another js-libp2p: `make interop` runs it")
async def test_js_asks_a_daemon_and_a_daemon_asks_js() -> None:
    """By version 2, which begins with js-libp2p 3."""
    with behind_a_nat(3) as (_, (here, one, another)):
        address = f"/ip4/{here.address}/tcp/4001"
        async with (
            fabstird(prefix=here.run, settings={"log.level": "debug"}, listen_addresses=LISTEN) as daemon,
            js_peer(listen=LISTEN, autonat=2, made_from=LATEST_JS, prefix=one.run) as server,
            js_peer(listen=LISTEN, autonat=2, made_from=LATEST_JS, prefix=another.run) as asker,
        ):
            own = f"/ip4/{another.address}/tcp/4001"
            verified = partial(verified_by, asker)

            assert own not in await verified()
            await asker.call("dial", address=f"{address}/p2p/{daemon.peer_id}")
            await asked_until(verified, lambda known: own in known, within=SOON)
            await daemon.call("connect", address=f"/ip4/{one.address}/tcp/4001/p2p/{server.peer_id}")
            assert await dial_back_of(daemon, server, address), daemon.last_words()
            assert daemon.errors == []


async def test_go_behind_a_nat_is_reached_through_a_daemon() -> None:
    """The daemon is the relay; go reserves a place at it, and another daemon and another go reach it there."""
    with behind_a_nat(3) as (home, (relaying, here, elsewhere)):
        settings = {"relay.serve": True}
        async with fabstird(prefix=relaying.run, settings=settings, listen_addresses=LISTEN) as relay:
            at = f"/ip4/{relaying.address}/tcp/4001/p2p/{relay.peer_id}"
            async with (
                go_peer(listen=LISTEN, relayVia=[at], prefix=home.run) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
                go_peer(listen=LISTEN, prefix=elsewhere.run) as peer,
            ):

                async def reserved() -> list[str]:
                    told = await hidden.call("addresses")
                    return [one for one in told["addresses"] if f"/p2p/{relay.peer_id}/p2p-circuit" in one]

                (address, *_) = await asked_until(reserved, bool, within=SOON)
                assert address.startswith(f"/ip4/{relaying.address}/tcp/4001/")
                assert (await daemon.call("connect", address=address))["address"] == address
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                await peer.call("dial", address=address)
                await hidden.wait_event("connect", peer_id=peer.peer_id)
                assert (await hidden.call("ping", peerId=peer.peer_id))["rtt"] > 0
                bounds = (await relay.call("metrics"))["bounds"]
                assert bounds["relayServedReservations"]["current"] == 1
                assert bounds["relayServedCircuits"]["current"] == 2
                hidden.kill()
                await daemon.wait_event("peer:disconnect", peerId=hidden.peer_id)


async def test_a_daemon_behind_a_nat_is_reached_by_go_through_a_daemon() -> None:
    with behind_a_nat(2) as (home, (relaying, here)):
        settings = {"relay.serve": True, "relay.circuit_bytes": 0}
        async with fabstird(prefix=relaying.run, settings=settings, listen_addresses=LISTEN) as relay:
            nodes = {"relay.nodes": [f"/ip4/{relaying.address}/tcp/4001/p2p/{relay.peer_id}"], **RELAYED}
            async with (
                fabstird(prefix=home.run, settings=nodes, listen_addresses=LISTEN) as hidden,
                go_peer(listen=LISTEN, prefix=here.run) as peer,
            ):
                address = await hidden.circuit(relay, within=SOON)
                await peer.call("dial", address=address)
                await hidden.wait_event("peer:identify", peerId=peer.peer_id)
                assert (await peer.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                assert (await hidden.call("ping", peerId=peer.peer_id))["rtt"] > 0


async def test_who_comes_through_the_relay_and_can_be_reached_is_dialled_back() -> None:
    """A stream that is open goes on, new ones take the direct connection, and the relayed one closes after it."""
    with behind_a_nat(3) as (home, (relaying, here, elsewhere)):
        settings = {"relay.serve": True}
        async with fabstird(prefix=relaying.run, settings=settings, listen_addresses=LISTEN) as relay:
            nodes = {"relay.nodes": [f"/ip4/{relaying.address}/tcp/4001/p2p/{relay.peer_id}"]}
            async with (
                fabstird(prefix=home.run, settings=nodes, listen_addresses=LISTEN) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
                go_peer(listen=LISTEN, prefix=elsewhere.run) as peer,
            ):
                address = await hidden.circuit(relay, within=SOON)
                await daemon.call("connect", address=address)
                await peer.call("dial", address=address)
                for other, machine in ((daemon.peer_id, here), (peer.peer_id, elsewhere)):
                    path = await hidden.wait_event("peer:path", peerId=other, timeout=SOON)
                    assert path["from"].endswith(f"/p2p/{relay.peer_id}/p2p-circuit/p2p/{other}")
                    assert path["to"] == f"/ip4/{machine.address}/tcp/4001/p2p/{other}"
                    assert 0 < path["took"] < SOON * 1000

                    def is_direct(entry: Json | None) -> bool:
                        return entry is not None and [one["transport"] for one in entry["connections"]] == ["tcp"]

                    await asked_until(partial(hidden.peer, other), is_direct, within=SOON)
                    assert hidden.found("peer:disconnect", peerId=other) == []
                path = await daemon.wait_event("peer:path", peerId=hidden.peer_id)
                assert path["from"] == address
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                assert (await peer.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                told = await hidden.call("peer.explain", target=daemon.peer_id)
                assert "direct" in [entry["what"] for entry in told["timeline"]]


async def test_who_tells_no_address_that_can_be_reached_stays_relayed_and_it_is_told() -> None:
    with behind_a_nat(2) as (home, (relaying, here)):
        async with fabstird(prefix=relaying.run, settings={"relay.serve": True}, listen_addresses=LISTEN) as relay:
            nodes = {"relay.nodes": [f"/ip4/{relaying.address}/tcp/4001/p2p/{relay.peer_id}"]}
            private = ["/ip4/10.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001", "/dns4/localhost/tcp/4001"]
            async with (
                fabstird(prefix=home.run, settings=nodes, listen_addresses=LISTEN) as hidden,
                fabstird(
                    prefix=here.run,
                    settings={"nat.hole_punching": False},
                    listen_addresses=LISTEN,
                    announce_addresses=private,
                ) as daemon,
            ):
                address = await hidden.circuit(relay, within=SOON)
                await daemon.call("connect", address=address)
                await hidden.wait_event("peer:identify", peerId=daemon.peer_id)
                # whatever else it tells later
                await daemon.call("protocol.handle", protocol="/another/1")
                await hidden.wait_event("peer:identify", count=2, peerId=daemon.peer_id)
                timeline = (await hidden.call("peer.explain", target=daemon.peer_id))["timeline"]
                assert [one["detail"] for one in timeline if one["what"] == "stays_relayed"] == [
                    "it tells no address that can be dialled"
                ]
                metrics = await hidden.call("metrics")
                assert metrics["failedConnections"] == 0


@asynccontextmanager
async def two_homes_and_a_relay(listen: list[str]) -> AsyncIterator[tuple[Machine, Machine, Daemon, str]]:
    """Two machines, each behind a NAT of its own, and a daemon that relays, with its address."""
    with internet("cone", "cone") as ((outside,), (one, other)):
        async with fabstird(prefix=outside.run, settings={"relay.serve": True}, listen_addresses=listen) as relay:
            yield one, other, relay, f"{listen[0].replace('0.0.0.0', outside.address)}/p2p/{relay.peer_id}"


async def becomes_direct(daemon: Daemon, peer: Peer, listen: list[str], router: str) -> None:
    """By a hole that was punched to the peer's router; each reaches the other, and the daemon says how it came."""
    path = await daemon.wait_event("peer:path", peerId=peer.peer_id, timeout=SOON)
    assert path["to"] == f"{listen[0].replace('0.0.0.0', router)}/p2p/{peer.peer_id}"
    assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
    assert (await peer.call("ping", peerId=daemon.peer_id))["rtt"] > 0
    told = await daemon.call("peer.explain", target=peer.peer_id)
    assert "; direct by hole punching, " in told["summary"]


@over
@punching
async def test_a_peer_punches_a_hole_to_a_daemon_that_it_has_called(implementation: str, listen: list[str]) -> None:
    async with (
        two_homes_and_a_relay(listen) as (one, other, relay, at),
        fabstird(prefix=other.run, settings={"relay.nodes": [at]}, listen_addresses=listen) as called,
        START[implementation](listen=listen, holePunching=True, prefix=one.run) as caller,
    ):
        address = await called.circuit(relay, within=SOON)
        await caller.call("dial", address=at)
        await caller.wait_event("identify", peer_id=relay.peer_id, timeout=SOON)  # which tells it where it is seen
        await caller.call("dial", address=address)
        await becomes_direct(called, caller, listen, "45.32.1.2")


@over
@punching
async def test_a_daemon_punches_a_hole_to_a_peer_that_it_has_called(implementation: str, listen: list[str]) -> None:
    async with (
        two_homes_and_a_relay(listen) as (one, other, relay, at),
        START[implementation](listen=listen, holePunching=True, relayVia=[at], prefix=other.run) as called,
        fabstird(prefix=one.run, bootstrap_nodes=[at], listen_addresses=listen) as caller,
    ):

        async def reserved() -> list[str]:
            told = await called.call("addresses")
            return [text for text in told["addresses"] if f"/p2p/{relay.peer_id}/p2p-circuit" in text]

        (address, *_) = await asked_until(reserved, bool, within=SOON)

        def offers_it(entry: Json | None) -> bool:  # it does so once a peer has told where it is seen
            return entry is not None and "/libp2p/dcutr" in entry["protocols"]

        if implementation == "go":  # rust offers it on relayed connections alone
            await asked_until(partial(relay.peer, called.peer_id), offers_it, within=SOON)
        await called.wait_event("identify", peer_id=relay.peer_id, timeout=SOON)
        await caller.wait_event("peer:identify", peerId=relay.peer_id, timeout=SOON)
        await caller.call("connect", address=address)
        await becomes_direct(caller, called, listen, "45.32.1.3")
