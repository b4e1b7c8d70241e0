"""Bootstrap nodes against real sockets: the cycle's counts and delays, and everything that can be wrong with a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from tests.harness import Daemon, Json, fabstird
from tests.support.ports import refusing_port

STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture
def dead() -> Iterator[str]:
    """A bootstrap node at a port where nobody listens."""
    with refusing_port() as port:
        yield f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"


@asynccontextmanager
async def silent_node() -> AsyncIterator[str]:
    """A bootstrap node that accepts and then says nothing."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _say_nothing, [listener])
        yield f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{STRANGER}"
        nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def story(daemon: Daemon, address: str) -> list[tuple[str, Json]]:
    """What the daemon told of one bootstrap address, in order."""
    return [(event["type"], event["data"]) for event in daemon.events if event["data"].get("address") == address]


async def test_a_refused_node_is_retried_with_doubling_delays_and_then_given_up(dead: str) -> None:
    async with fabstird(bootstrap_nodes=[dead], max_retries=3, retry_delay=100) as daemon:
        await daemon.wait_event("connection:failed", address=dead)
        told = story(daemon, dead)
        assert told == [
            ("error", {"type": "BOOTSTRAP_CONNECTION_FAILED", "address": dead, "message": "connection refused"}),
            *(
                (
                    "connection:retry",
                    {"address": dead, "attempt": n, "maxRetries": 3, "delay": delay, "error": "connection refused"},
                )
                for n, delay in ((1, 100), (2, 200), (3, 400))
            ),
            (
                "connection:failed",
                {"address": dead, "attempts": 4, "reason": "Max retries exceeded", "error": "connection refused"},
            ),
        ]
        metrics = await daemon.call("metrics")
        assert (metrics["failedConnections"], metrics["retries"], metrics["successfulConnections"]) == (4, 3, 0)
        times = [event["time"] for event in daemon.events if event["data"].get("address") == dead][1:]
        waited = [later - earlier for earlier, later in pairwise(times)]
        assert all(wait >= delay - 1 for wait, delay in zip(waited, (100, 200, 400), strict=True)), waited
        await daemon.whole_log()
        assert story(daemon, dead) == told, "a cycle that has failed is over: a stop has nothing to cut off"


async def test_without_retries_the_first_failure_is_the_last(dead: str) -> None:
    async with fabstird(bootstrap_nodes=[dead], max_retries=0, retry_delay=0) as daemon:
        failed = await daemon.wait_event("connection:failed", address=dead)
        assert failed["attempts"] == 1
        assert [kind for kind, _ in story(daemon, dead)] == ["error", "connection:failed"]


async def test_a_failed_cycle_begins_afresh_after_the_keepalive_interval(dead: str) -> None:
    async with fabstird(bootstrap_nodes=[dead], max_retries=1, retry_delay=1, keepalive_interval=50) as daemon:
        await daemon.wait_event("connection:failed", count=2, address=dead)
        kinds = [kind for kind, _ in story(daemon, dead)]
        assert kinds[:6] == ["error", "connection:retry", "connection:failed"] * 2


async def test_start_waits_for_no_dial_and_the_dial_timeout_ends_a_silent_one() -> None:
    async with silent_node() as silent, fabstird(auto_start=True, bootstrap_nodes=[]) as daemon:
        await daemon.call("stop")
        config = {"bootstrapNodes": [silent], "dialTimeout": 1000, "maxRetries": 1, "retryDelay": 10}
        status = await daemon.call("start", config=config)
        assert status["state"] == "started"
        early = [event for event in daemon.events if event["seq"] <= status["head"]]
        assert not [event for event in early if event["data"].get("address") == silent], "it waits for no dial's end"
        await daemon.wait_event("connection:failed", address=silent)
        assert {data.get("error", data.get("message")) for _, data in story(daemon, silent)} == {
            "timed out after 1000 ms"
        }


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER[:-1]}", "cannot be decoded"),
        ("/ip4/127.0.0.1/tcp/4001/p2p/QmInvalid", "cannot be decoded"),
        (f"/ip4/127.0.0.1/udp/4001/quic/p2p/{STRANGER}", "no transport"),
        (f"/ip4/999.0.0.1/tcp/4001/p2p/{STRANGER}", "is not a multiaddr"),
        (f"/dns4/nowhere.invalid/tcp/4001/p2p/{STRANGER}", "cannot resolve nowhere.invalid"),
    ],
)
async def test_an_unusable_node_goes_through_the_whole_cycle(address: str, words: str) -> None:
    async with fabstird(bootstrap_nodes=[address], max_retries=2, retry_delay=1) as daemon:
        failed = await daemon.wait_event("connection:failed", address=address)
        assert failed["attempts"] == 3
        assert words in failed["error"]
        kinds = [kind for kind, _ in story(daemon, address)]
        assert kinds == ["error", "connection:retry", "connection:retry", "connection:failed"]


async def test_a_lying_node_is_retried_and_reported_and_never_connected() -> None:
    async with fabstird() as other:
        lie = other.address("tcp").replace(other.peer_id, STRANGER)
        async with fabstird(bootstrap_nodes=[lie], max_retries=1, retry_delay=1) as daemon:
            failed = await daemon.wait_event("connection:failed", address=lie)
            assert failed["error"] == "another peer answers there: its peer id is not the one that was dialled"
            events = await daemon.whole_log()
            assert not [event for event in events if event["type"].startswith("peer:")]


async def test_the_node_itself_as_its_bootstrap_node_is_reported() -> None:
    async with fabstird() as daemon:
        own = daemon.address("tcp")
        await daemon.call("stop")
        await daemon.call("start", config={"bootstrapNodes": [own], "maxRetries": 0})
        failed = await daemon.wait_event("connection:failed", address=own)
        assert failed["error"] == "that is this node's own peer id"


async def test_stop_cuts_off_a_wait_and_nothing_follows(dead: str) -> None:
    async with fabstird(bootstrap_nodes=[dead], retry_delay=60000) as daemon:
        await daemon.wait_event("connection:retry", address=dead)
        events = await daemon.whole_log()
        assert [kind for kind, _ in story(daemon, dead)] == ["error", "connection:retry", "connection:cancelled"]
        assert daemon.found("connection:cancelled")[0]["data"] == {"address": dead, "attempts": 1}
        assert events[-1]["type"] == "p2p:stopped"


async def test_stop_cuts_off_a_dial_and_each_address_is_told_once() -> None:
    async with silent_node() as one, silent_node() as two, fabstird(bootstrap_nodes=[one, one, two]) as daemon:
        assert (await daemon.call("status"))["bootstrapNodes"] == [one, two], "the same entry twice is one"
        events = await daemon.whole_log()
        cancelled = [event["data"] for event in events if event["type"] == "connection:cancelled"]
        assert sorted(cancelled, key=lambda data: data["address"]) == sorted(
            [{"address": one, "attempts": 1}, {"address": two, "attempts": 1}], key=lambda data: data["address"]
        )
        assert events[-1]["type"] == "p2p:stopped"


async def test_two_addresses_of_one_peer_are_one_peer() -> None:
    async with fabstird() as other:
        both = [other.address("tcp"), other.address("ws")]
        async with fabstird(bootstrap_nodes=both, retry_delay=10) as daemon:
            await daemon.wait_event("peer:identify", peerId=other.peer_id)
            entry = await daemon.peer(other.peer_id)
            assert entry is not None
            assert entry["bootstrap"] is True
            await daemon.whole_log()
            assert len(daemon.found("peer:connect")) == 1
            assert len(daemon.found("peer:disconnect", reason="stopped")) == 1
            assert not [kind for address in both for kind, _ in story(daemon, address) if kind != "peer:connect"]


async def test_a_bootstrap_peer_that_leaves_is_dialled_again() -> None:
    async with fabstird() as other, fabstird(bootstrap_nodes=[other.address("tcp")], retry_delay=20) as daemon:
        await daemon.wait_event("peer:connect", peerId=other.peer_id)
        await other.wait_event("peer:connect", peerId=daemon.peer_id)
        await other.call("disconnect", peerId=daemon.peer_id)
        await daemon.wait_event("peer:disconnect", peerId=other.peer_id, reason="closed_by_peer")
        await daemon.wait_event("peer:connect", count=2, peerId=other.peer_id)


async def test_a_bootstrap_peer_that_a_user_disconnects_stays_away_for_the_keepalive_interval() -> None:
    async with fabstird() as other:
        address = other.address("tcp")
        settings: Json = {"bootstrap_nodes": [address], "retry_delay": 1, "keepalive_interval": 300}
        async with fabstird(**settings) as daemon:
            await daemon.wait_event("peer:connect", peerId=other.peer_id)
            assert await daemon.call("disconnect", peerId=other.peer_id) == {"peerId": other.peer_id, "closed": 1}
            await daemon.wait_event("peer:connect", count=2, peerId=other.peer_id)
            left = daemon.found("peer:disconnect", peerId=other.peer_id, reason="closed")[0]
            back = daemon.found("peer:connect", peerId=other.peer_id)[1]
            assert back["time"] - left["time"] >= 299


async def test_one_dead_node_disturbs_neither_the_other_nor_the_callers(dead: str) -> None:
    async with fabstird() as other:
        nodes = [dead, other.address("ws")]
        async with fabstird(bootstrap_nodes=nodes, max_retries=1, retry_delay=50) as daemon:
            await daemon.wait_event("peer:connect", peerId=other.peer_id)
            await daemon.wait_event("connection:failed", address=dead)
            (peer,) = await daemon.call("peers")
            assert peer["peerId"] == other.peer_id
            (connection,) = peer["connections"]
            assert connection["transport"] == "ws"
            assert connection["security"] == "/noise"
            assert connection["muxer"] == "/yamux/1.0.0"
