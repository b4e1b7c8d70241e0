"""Two daemons behind two NATs: relayed at first, then direct, or told why not."""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio

from fabstir_client.api.errors import PeerNotFound
from tests.functional.local_streams import opened
from tests.harness import Daemon, fabstird
from tests.harness.launch import environment
from tests.harness.waiting import asked_until
from tests.network.laboratory import Kind, internet

pytestmark = pytest.mark.usefixtures("nat")

LISTEN = ["/ip4/0.0.0.0/tcp/4001"]
QUIC = ["/ip4/0.0.0.0/udp/4001/quic-v1"]
SOON = 60.0  # seconds, on a machine that is busy with other things
MIB = 1024 * 1024
ECHO = "/echo/1.0.0"


@asynccontextmanager
async def two_homes(
    one: Kind, other: Kind, *, public: int = 1, listen: list[str] = LISTEN
) -> AsyncIterator[tuple[Daemon, Daemon, Daemon]]:
    """Of the public daemons the first is the relay, and all are bootstrap nodes of those at home. All listen in the
    same way, and are known to the others by the first of its addresses."""
    with internet(one, other, public=public) as (outside, inside):
        async with AsyncExitStack() as stack:
            served = {"relay.serve": True, "dht.mode": "server"}
            begin = partial(fabstird, listen_addresses=listen, enable_dht=True)
            out = [await stack.enter_async_context(begin(prefix=at.run, settings=served)) for at in outside]
            places = [listen[0].replace("0.0.0.0", at.address) for at in outside]
            nodes = [f"{place}/p2p/{node.peer_id}" for place, node in zip(places, out, strict=True)]
            home = partial(begin, settings={"relay.nodes": nodes[:1]}, bootstrap_nodes=nodes)
            one_home, other_home = [await stack.enter_async_context(home(prefix=at.run)) for at in inside]
            for daemon in (one_home, other_home):  # from where each is seen, all of them have said
                for node in out:
                    await daemon.wait_event("peer:identify", peerId=node.peer_id)
            yield one_home, other_home, out[0]


async def found_by_dht(daemon: Daemon, peer: Daemon) -> list[str]:
    """Where the DHT says that a peer is, once it does: the peer has to tell the relay first where it can be reached."""

    async def ask() -> list[str]:
        try:
            return list((await daemon.call("dht.find_peer", peerId=peer.peer_id))["addresses"])
        except PeerNotFound:
            return []

    return await asked_until(ask, bool, within=SOON)


async def summary(daemon: Daemon, peer: Daemon) -> str:
    """What `fabstir explain` begins with."""
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", "explain", peer.peer_id]
    done = await trio.run_process(command, capture_stdout=True, env=environment())
    return done.stdout.decode().splitlines()[0]


async def transports(daemon: Daemon, peer: Daemon) -> list[str]:
    entry = await daemon.peer(peer.peer_id)
    return [one["transport"] for one in entry["connections"]] if entry is not None else []


async def test_two_daemons_behind_nats_find_each_other_and_move_100_mebibytes_directly() -> None:
    async with two_homes("cone", "cone") as (caller, called, relay):
        await called.circuit(relay, within=SOON)
        (address,) = await found_by_dht(caller, called)
        assert address == f"/ip4/45.32.1.1/tcp/4001/p2p/{relay.peer_id}/p2p-circuit/p2p/{called.peer_id}"
        await caller.call("connect", address=called.peer_id)
        for one, other, place in ((caller, called, "45.32.1.3"), (called, caller, "45.32.1.2")):
            path = await one.wait_event("peer:path", peerId=other.peer_id, timeout=SOON)
            assert path["from"] == f"/ip4/45.32.1.1/tcp/4001/p2p/{relay.peer_id}/p2p-circuit/p2p/{other.peer_id}"
            assert path["to"] == f"/ip4/{place}/tcp/4001/p2p/{other.peer_id}"
            await asked_until(partial(transports, one, other), lambda found: found == ["tcp"], within=SOON)

        await called.call("protocol.handle", protocol=ECHO, mode="stream")
        sent, came = hashlib.sha256(), hashlib.sha256()
        async with opened(caller, called, ECHO) as (here, there):

            async def send() -> None:
                piece = random.Random(15).randbytes(MIB)
                for _ in range(100):
                    sent.update(piece)
                    await here.send(piece)
                await here.end()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                size = 0
                while data := await there.some():
                    came.update(data)
                    size += len(data)
        assert size == 100 * MIB
        assert came.digest() == sent.digest()

        assert (await relay.call("metrics"))["bytesReceived"] < MIB, "the relay has carried nothing of it"
        for one, other, way in ((caller, called, "outbound"), (called, caller, "inbound")):
            assert re.fullmatch(
                rf"connected, {way}, since .* at /ip4/45\.32\.1\.[23]/tcp/4001/p2p/{other.peer_id}; "
                rf"direct by hole punching, \d+ ms after the connection at .*/p2p-circuit/p2p/{other.peer_id}",
                await summary(one, other),
            )
            assert one.found("peer:disconnect") == []
            assert one.warnings() == []


async def stays_relayed(daemon: Daemon, peer: Daemon) -> str:
    """Why, once it is known."""

    async def reasons() -> list[str]:
        timeline = (await daemon.call("peer.explain", target=peer.peer_id))["timeline"]
        return [entry["detail"] for entry in timeline if entry["what"] == "stays_relayed"]

    (reason,) = await asked_until(reasons, bool, within=SOON)
    told = await summary(daemon, peer)
    assert told.startswith("connected, inbound, since ")
    assert told.endswith(f"/p2p-circuit/p2p/{peer.peer_id}; it stays relayed: {reason}")
    return reason


async def test_what_cannot_be_punched_stays_relayed_and_says_why() -> None:
    """Two observers show that both NATs are symmetric. What it takes longer to find out is in `nat_table`."""
    async with two_homes("symmetric", "symmetric", public=2) as (caller, called, relay):
        await called.circuit(relay, within=SOON)
        await found_by_dht(caller, called)
        await caller.call("connect", address=called.peer_id)
        reason = await stays_relayed(called, caller)
        assert reason == "both NATs show their nodes to each peer at another port (symmetric)"
        assert (await caller.call("ping", peerId=called.peer_id))["rtt"] > 0
        entry = await caller.peer(called.peer_id)
        assert entry is not None
        assert [one["relay"] for one in entry["connections"]] == [relay.peer_id]
        told = {one["address"]: one for one in (await called.call("addresses"))["reachability"]}
        assert told[entry["connections"][0]["address"]]["from"] == ["relay"]
        listened = told[f"/ip4/10.0.2.2/tcp/4001/p2p/{called.peer_id}"]
        assert (listened["from"], listened["reachable"], listened["confirmedBy"]) == (["interface"], "unknown", 0)


async def test_over_quic_the_direct_connection_takes_the_relayed_ones_place_and_goes_on() -> None:
    """One dials, and the other knocks: neither is let in else."""
    async with two_homes("cone", "cone", listen=QUIC) as (caller, called, relay):
        address = await called.circuit(relay, within=SOON)
        assert address == f"/ip4/45.32.1.1/udp/4001/quic-v1/p2p/{relay.peer_id}/p2p-circuit/p2p/{called.peer_id}"
        await caller.call("connect", address=address)
        for one, other, place in ((caller, called, "45.32.1.3"), (called, caller, "45.32.1.2")):
            path = await one.wait_event("peer:path", peerId=other.peer_id, timeout=SOON)
            assert (
                path["from"] == f"/ip4/45.32.1.1/udp/4001/quic-v1/p2p/{relay.peer_id}/p2p-circuit/p2p/{other.peer_id}"
            )
            assert path["to"] == f"/ip4/{place}/udp/4001/quic-v1/p2p/{other.peer_id}"
            await asked_until(partial(transports, one, other), lambda found: found == ["quic-v1"], within=SOON)
        carried = (await relay.call("metrics"))["bytesReceived"]
        await called.call("protocol.handle", protocol=ECHO, mode="stream")
        piece = random.Random(15).randbytes(MIB)
        async with opened(caller, called, ECHO) as (here, there), trio.open_nursery() as nursery:
            nursery.start_soon(here.send, piece)
            came = b""
            while len(came) < MIB:
                came += await there.some()
        assert hashlib.sha256(came).digest() == hashlib.sha256(piece).digest()
        assert (await relay.call("metrics"))["bytesReceived"] < carried + MIB // 4, "the relay has carried none of it"
        for one, other, way in ((caller, called, "outbound"), (called, caller, "inbound")):
            assert re.fullmatch(
                rf"connected, {way}, since .* at /ip4/45\.32\.1\.[23]/udp/4001/quic-v1/p2p/{other.peer_id}; "
                rf"direct by hole punching, \d+ ms after the connection at .*/p2p-circuit/p2p/{other.peer_id}",
                await summary(one, other),
            )
            assert one.found("peer:disconnect") == []
            assert one.warnings() == []
