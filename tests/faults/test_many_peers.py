"""Three hundred peers, and then a stop."""

from __future__ import annotations

import signal

import pytest
import trio

from tests.harness import Daemon, Json, fabstird
from tests.support.minipeer import Connection, MiniPeer, mini_peers

pytestmark = pytest.mark.alone  # a stop is timed

PEERS = 300
STOP = 5.0  # seconds
ROOM: Json = {
    "connections.max": PEERS + 10,
    "connections.high_water": PEERS + 10,
    "connections.max_per_ip": PEERS + 10,
    "events.history": 10 * PEERS,
}


async def connected(daemon: Daemon, peers: list[MiniPeer]) -> list[Connection]:
    links: list[Connection] = []
    side_by_side = trio.CapacityLimiter(8)

    async def dial(peer: MiniPeer) -> None:
        async with side_by_side:
            links.append(await peer.dial(daemon.address("tcp")))

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(dial, peer)
    await daemon.wait_event("peer:identify", count=len(peers), timeout=120)
    return links


async def all_closed(links: list[Connection]) -> None:
    with trio.move_on_after(STOP):
        for link in links:
            await link.closed.wait()
    open_still = sum(not link.closed.is_set() for link in links)
    assert open_still == 0, f"{open_still} of {len(links)} peers have seen no end"


def assert_complete(daemon: Daemon, peers: list[MiniPeer], reason: str) -> None:
    """Each peer has come once and gone once, for this reason, before the node said that it had stopped."""
    ids = sorted(peer.peer_id for peer in peers)
    assert sorted(event["data"]["peerId"] for event in daemon.found("peer:connect")) == ids
    assert sorted(event["data"]["peerId"] for event in daemon.found("peer:disconnect", reason=reason)) == ids
    assert len(daemon.found("peer:disconnect")) == len(peers)
    assert daemon.events[-1]["type"] == "p2p:stopped"
    assert [event["seq"] for event in daemon.events] == list(range(1, len(daemon.events) + 1))


async def test_a_stop_with_three_hundred_peers_takes_seconds_and_tells_of_each() -> None:
    async with mini_peers(PEERS) as peers, fabstird(settings=ROOM) as daemon:
        links = await connected(daemon, peers)
        assert (await daemon.call("status"))["connections"] == PEERS
        began = trio.current_time()
        assert (await daemon.call("stop"))["state"] == "stopped"
        took = trio.current_time() - began
        print(f"stopped after {took:.2f} s")
        assert took < STOP
        await all_closed(links)
        await daemon.wait_event("p2p:stopped")
        assert_complete(daemon, peers, "stopped")
        assert daemon.warnings() == []
        # and it is as good as new
        await daemon.call("start")
        daemon.status = await daemon.call("status")
        assert await (await peers[0].dial(daemon.address("tcp"))).ping() < 20


@pytest.mark.parametrize("how", ["SIGTERM", "shutdown"])
async def test_the_daemon_ends_with_three_hundred_peers(how: str) -> None:
    async with mini_peers(PEERS) as peers, fabstird(settings=ROOM) as daemon:
        links = await connected(daemon, peers)
        began = trio.current_time()
        if how == "SIGTERM":
            daemon.process.send_signal(signal.SIGTERM)
        else:
            await daemon.call("shutdown")
        with trio.move_on_after(STOP):
            await daemon.process.wait()
        print(f"ended after {trio.current_time() - began:.2f} s")
        assert daemon.process.returncode == 0
        await all_closed(links)
        await daemon.wait_event("p2p:stopped")
        assert_complete(daemon, peers, "shutdown")


async def test_peers_that_read_nothing_do_not_delay_a_stop() -> None:
    """The goodbye to each has its bound, and all of them are told at once."""
    async with mini_peers(50) as peers, fabstird(settings=ROOM) as daemon:
        for link in await connected(daemon, peers):
            link.freeze()
        began = trio.current_time()
        await daemon.call("stop")
        took = trio.current_time() - began
        assert took < STOP
        await daemon.wait_event("p2p:stopped")
        assert_complete(daemon, peers, "stopped")
