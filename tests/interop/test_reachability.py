"""A daemon behind a NAT, reached through a go relay (circuit relay v2), and what it knows of how it can be reached
(AutoNAT). The NAT is the test's own: network namespaces and nftables."""

from __future__ import annotations

import shutil

import pytest
import trio

from fabstir_client.errors import DialFailed
from fabstird.identity import Identity
from tests.conftest import leave_out
from tests.faults.cable import behind_a_nat
from tests.interop.daemon import Daemon, fabstird, parsed
from tests.interop.gopeer import go_peer
from tests.interop.peerdriver import Peer

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("nat", "go")]

LISTEN = ["/ip4/0.0.0.0/tcp/4001"]
SOON = 60.0  # seconds; a dial into a NAT takes go-libp2p 15 of them to give up, on a machine that is busy or not
SEED = "11" * 32  # of a relay that is restarted
RELAY = Identity.from_seed(bytes.fromhex(SEED)).peer_id


@pytest.fixture(scope="session")
def nat(pytestconfig: pytest.Config, root: None) -> None:
    if shutil.which("nft") is None:
        leave_out(pytestconfig, "root", "there is no `nft` here (package nftables)")


async def circuit(daemon: Daemon, relay: Peer) -> str:
    """The daemon's address at the relay, once it has one."""
    for _ in range(int(SOON * 10)):
        addresses = await daemon.call("addresses")
        for address in addresses["announced"]:
            if f"/p2p/{relay.peer_id}/p2p-circuit" in address:
                return str(address)
        await trio.sleep(0.1)  # then look again
    raise AssertionError(f"no reservation within {SOON} s: {addresses}{daemon.last_words()}")


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
                fabstird(prefix=home.run, settings={"relay.nodes": [at]}, listen_addresses=LISTEN) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN, dial_timeout=2000) as daemon,
                go_peer(listen=LISTEN, prefix=elsewhere.run) as peer,
            ):
                # not directly: neither at its own address nor at its router's
                for address in ("/ip4/10.0.0.2/tcp/4001", "/ip4/45.32.1.1/tcp/4001"):
                    with pytest.raises(DialFailed):
                        await daemon.call("connect", address=f"{address}/p2p/{hidden.peer_id}")
                address = await circuit(hidden, relay)

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
        settings = {"relay.nodes": ["/ip4/45.32.1.2/tcp/4001/p2p/" + RELAY]}
        retrying = {"retry_delay": 100, "keepalive_interval": 300, "dial_timeout": 2000}
        async with (
            fabstird(prefix=home.run, settings=settings, listen_addresses=LISTEN, **retrying) as hidden,
            fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
        ):
            for number in range(1, 3):  # a relay that was away is used again when it is back
                async with go_peer(listen=LISTEN, relay="server", seed=SEED, prefix=relaying.run) as relay:
                    address = await circuit(hidden, relay)
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
                fabstird(prefix=home.run, settings={"relay.nodes": nodes}, listen_addresses=LISTEN) as hidden,
                fabstird(prefix=here.run, listen_addresses=LISTEN) as daemon,
            ):
                address = await circuit(hidden, relay)
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
            for entry in entries:
                if not entry["address"].startswith(address):
                    assert entry["state"] == "unknown", "nobody can say anything of a private one"
            assert daemon.warnings() == []


async def dial_back_of(daemon: Daemon, server: Peer, address: str) -> bool:
    """Returns once the server has told how its dial went; whether it got through."""
    for _ in range(int(SOON * 10)):
        for entry in map(parsed, daemon.log):
            if entry["event"] == "dialled back" and (entry["server"], entry["asked"]) == (server.peer_id, address):
                return bool(entry["status"] == 0)
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
                address = await circuit(hidden, first)
                assert await state(hidden, "/ip4/45.32.1.1/tcp/4001") == "unknown", "it was tried, in vain"
                assert await state(hidden, address.rpartition("/p2p/")[0]) == "relayed"
                await daemon.call("connect", address=address)
                assert (await daemon.call("ping", peerId=hidden.peer_id))["rtt"] > 0
                assert hidden.warnings() == []
