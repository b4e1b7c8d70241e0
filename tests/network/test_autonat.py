"""AutoNAT in an Internet of network namespaces: what daemons behind NATs learn of their addresses, and tell the DHT.
And who asks to be dialled elsewhere has to pay for it."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio

from tests.faults.cable import Machine, entered
from tests.harness import Daemon, Json, asked_until, fabstird
from tests.harness.launch import environment
from tests.network.laboratory import internet
from tests.support import autonat
from tests.support.autonat import Answer, DataWanted, begin_2, dial_data, next_2, nonce_of
from tests.support.minipeer import Connection, MiniPeer, mini_peers
from tests.support.yamux import Stream, StreamReset

pytestmark = pytest.mark.usefixtures("nat")

PATIENCE = 90.0  # seconds
PORT = 4001
PIECE = 4096
KEY = "autonat"


async def dialled(peer: MiniPeer, source: Machine, to: Machine, peer_id: str) -> Connection:
    with entered(source):
        return await peer.dial(f"/ip4/{to.address}/tcp/{PORT}/p2p/{peer_id}")


async def wanted(stream: Stream) -> int:
    """The bytes that the daemon wants before it dials."""
    said = await next_2(stream)
    assert isinstance(said, DataWanted)
    assert said.index == 0
    assert 30_000 <= said.size <= 100_000
    return said.size


async def test_a_dial_to_elsewhere_costs_more_than_it_is_worth() -> None:
    """Where the data has come, the address is dialled; where it does not come, or comes in crumbs, nobody is."""
    nonces: list[int] = []
    cut: list[str] = []

    async def take(stream: Stream) -> None:
        nonces.append(await nonce_of(stream))
        await stream.send_all(b"\0")

    with internet(public=3) as ([here, asking, elsewhere], _):
        listen = [f"/ip4/0.0.0.0/tcp/{PORT}"]
        async with fabstird(prefix=here.run, listen_addresses=listen) as daemon, mini_peers(4) as peers:
            honest = peers[0]
            honest.handle(autonat.DIAL_BACK, take)
            with entered(elsewhere):
                at = (await honest.listen(elsewhere.address)).rpartition("/p2p/")[0]
            links = [await dialled(peer, asking, here, daemon.peer_id) for peer in peers]
            began = trio.current_time()

            async def pays() -> None:
                stream = await begin_2(links[0], at, nonce=11)
                size = await wanted(stream)
                for _ in range(0, size, PIECE):
                    await stream.send_all(dial_data(PIECE))
                assert await next_2(stream) == Answer(autonat.V2_OK, 0, autonat.V2_DIALLED)
                assert nonces == [11]

            async def does_not(link: Connection, name: str, *messages: bytes) -> None:
                stream = await begin_2(link, at, nonce=12)
                await wanted(stream)
                for message in messages:
                    await stream.send_all(message)
                with pytest.raises(StreamReset):
                    await next_2(stream)
                cut.append(name)

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pays)
                    nursery.start_soon(does_not, links[1], "crumbs", dial_data(PIECE), dial_data(99))
                    nursery.start_soon(does_not, links[2], "something else", b"\x02\x0a\x00")
                    nursery.start_soon(does_not, links[3], "a part", *[dial_data(PIECE)] * 7)
                assert sorted(cut) == ["a part", "crumbs", "something else"]
                assert cut[-1] == "a part", "whoever is slow has time"
                assert nonces == [11]

                # twelve such dials a minute are all that anybody gets, whoever they are for
                more = 0
                while isinstance(said := await next_2(stream := await begin_2(links[more % 4], at)), DataWanted):
                    more += 1
                    await stream.reset()
                assert said == Answer(autonat.V2_REJECTED, 0, 0)
                assert 8 <= more <= 8 + 12 * (trio.current_time() - began) // 60
            await honest.accepted()
            with trio.move_on_after(1) as waiting:
                await honest.accepted()
            assert waiting.cancelled_caught, "dialled for nothing"
            assert daemon.errors == []


async def state(daemon: Daemon, address: str) -> Json:
    """How an address of the daemon's stands."""
    told = await daemon.call("addresses")
    found = [one for one in told["reachability"] if one["address"] == f"{address}/p2p/{daemon.peer_id}"]
    return dict(found[0]) if found else {"reachable": "not told"}


async def becomes(daemon: Daemon, address: str, reachable: str) -> Json:
    return await asked_until(
        partial(state, daemon, address), lambda found: found["reachable"] == reachable, within=PATIENCE
    )


async def doctor(daemon: Daemon) -> tuple[str, str]:
    """What `fabstir doctor` finds of how the node is reached."""
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", "doctor", "--json"]
    done = await trio.run_process(command, capture_stdout=True, env=environment(), check=False)
    (finding,) = [one for one in json.loads(done.stdout)["findings"] if one["check"] == "reach"]
    return str(finding["state"]), str(finding["text"])


async def test_what_is_behind_a_nat_a_firewall_and_a_forwarded_port() -> None:
    """Two public daemons are the servers; each of three at home learns how it stands, and the DHT hears of addresses
    that are good for something."""
    listen = [f"/ip4/0.0.0.0/tcp/{PORT}"]
    with internet("cone", "firewall", "forwarding", public=2) as (outside, inside):
        async with AsyncExitStack() as stack:
            begin = partial(fabstird, listen_addresses=listen, enable_dht=True)
            served = {"dht.mode": "server"}
            public = [await stack.enter_async_context(begin(prefix=at.run, settings=served)) for at in outside]
            nodes = [
                f"/ip4/{at.address}/tcp/{PORT}/p2p/{node.peer_id}" for at, node in zip(outside, public, strict=True)
            ]
            homes = [await stack.enter_async_context(begin(prefix=at.run, bootstrap_nodes=nodes)) for at in inside]
            hidden, walled, forwarded = homes
            router, wall, router_with_port = "45.32.1.3", "45.33.2.2", "45.32.1.5"
            at_router, at_wall, at_port = (f"/ip4/{ip}/tcp/{PORT}" for ip in (router, wall, router_with_port))

            found = await becomes(hidden, at_router, "unreachable")
            assert (found["from"], found["state"], found["confirmedBy"]) == (["observed"], "unknown", 0)
            found = await becomes(walled, at_wall, "unreachable")
            assert (found["from"], found["state"], found["confirmedBy"]) == (["interface"], "unknown", 0)
            found = await becomes(forwarded, at_port, "reachable")
            assert (found["from"], found["state"]) == (["observed"], "reachable")
            assert found["confirmedBy"] >= 2

            assert await doctor(hidden) == ("warning", f"nobody gets through to {at_router}")
            assert (await doctor(forwarded))[1].endswith(f"servers have reached {at_port}")
            announced = {daemon: (await daemon.call("addresses"))["announced"] for daemon in homes}
            assert not any(router in address for address in announced[hidden])
            assert not any(wall in address for address in announced[walled])
            assert f"{at_port}/p2p/{forwarded.peer_id}" in announced[forwarded]
            for daemon in homes:
                await daemon.call("dht.provide", key=KEY)

            async def told() -> dict[str, list[str]]:
                """Where the DHT says that those who provide are."""
                providers = (await public[0].call("dht.find_providers", key=KEY))["providers"]
                return {one["peerId"]: one["addresses"] for one in providers}

            heard = await asked_until(
                told, lambda known: {one.peer_id for one in homes} <= known.keys(), within=PATIENCE
            )
            assert f"{at_port}/p2p/{forwarded.peer_id}" in heard[forwarded.peer_id]
            assert heard[hidden.peer_id] == []
            assert all(daemon.errors == [] for daemon in (*public, *homes))


async def test_over_quic_two_servers_find_a_public_address_reachable() -> None:
    listen = [f"/ip4/0.0.0.0/udp/{PORT}/quic-v1"]
    with internet(public=3) as ([*serving, here], _):
        async with AsyncExitStack() as stack:
            begin = partial(fabstird, listen_addresses=listen)
            servers = [await stack.enter_async_context(begin(prefix=at.run)) for at in serving]
            nodes = [
                f"/ip4/{at.address}/udp/{PORT}/quic-v1/p2p/{server.peer_id}"
                for at, server in zip(serving, servers, strict=True)
            ]
            daemon = await stack.enter_async_context(begin(prefix=here.run, bootstrap_nodes=nodes))
            found = await becomes(daemon, f"/ip4/{here.address}/udp/{PORT}/quic-v1", "reachable")
            assert found["confirmedBy"] == 2
            assert all(one.errors == [] for one in (*servers, daemon))
