"""The daemon and a Fabstir node: what the daemon is for. The node is rust-libp2p 0.54, as the real one (README)."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import pytest
import trio

from fabstir_client.api.errors import InvalidState
from tests.harness import Daemon, asked_until, fabstird
from tests.interop.peerdriver import Peer, PeerError
from tests.interop.rustpeer import fabstir_node

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("rust")]

JOB, INFERENCE, PING, KAD = "/fabstir/job/1.0.0", "/fabstir/inference/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/kad/1.0.0"
CLAIM = {
    "JobClaim": {
        "job_id": 41,
        "host_address": "0x8ba1f109551bd432803012645ac136ddd64dba72",
        "model_commitment": "sha256:00ff",
        "estimated_completion": {"secs": 30, "nanos": 500_000_000},
    }
}
ACK = {"JobClaimAck": {"job_id": 41, "accepted": True}}
Dialler = Literal["daemon", "node"]

by = pytest.mark.parametrize("dialler", ["daemon", "node"])


async def join(daemon: Daemon, node: Peer, dialler: Dialler) -> None:
    if dialler == "daemon":
        await daemon.call("connect", address=node.address("tcp"))
    else:
        await node.call("dial", address=daemon.address("tcp"))
    await daemon.wait_event("peer:identify", peerId=node.peer_id)
    await node.wait_event("identify", peer_id=daemon.peer_id)


def b64(message: object) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


async def claim(daemon: Daemon, node: Peer) -> Any:
    """A JobClaim from the daemon, and the node's answer."""
    answer = await daemon.call("request", peerId=node.peer_id, protocol=JOB, data=b64(CLAIM), framing="u32be")
    return json.loads(base64.b64decode(answer["data"]))


async def claim_back(daemon: Daemon, node: Peer) -> None:
    """A JobClaim from the node, which a program at the daemon's API answers."""
    after = len(daemon.events)
    await daemon.call("protocol.handle", protocol=JOB, framing="u32be")

    async def serve() -> None:
        asked = await daemon.wait_event("protocol.request", after=after, protocol=JOB, peerId=node.peer_id)
        assert json.loads(base64.b64decode(asked["data"])) == CLAIM
        await daemon.call("protocol.respond", requestId=asked["requestId"], data=b64(ACK))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        answer = await node.call("request", peerId=daemon.peer_id, protocol=JOB, message=CLAIM)
        assert answer["message"] == ACK
    assert (await daemon.wait_event("protocol.ended", after=after))["outcome"] == "ended"


@by
async def test_it_is_known_for_what_it_is(dialler: Dialler) -> None:
    async with fabstird() as daemon, fabstir_node() as node:
        await join(daemon, node, dialler)
        entry = await daemon.peer(node.peer_id)
        assert entry is not None
        assert (entry["agentVersion"], entry["protocolVersion"]) == ("fabstir-llm-node/1.0.0", "/fabstir/id/1.0.0")
        assert {JOB, INFERENCE, KAD} <= set(entry["protocols"])
        assert PING not in entry["protocols"]
        with pytest.raises(InvalidState, match="does not speak"):
            await daemon.call("ping", peerId=node.peer_id)


@by
async def test_a_job_is_claimed_both_ways(dialler: Dialler) -> None:
    async with fabstird() as daemon, fabstir_node() as node:
        await join(daemon, node, dialler)
        assert await claim(daemon, node) == ACK
        seen = await node.wait_event("request", peer_id=daemon.peer_id)
        assert (seen["protocol"], seen["message"]) == (JOB, CLAIM)
        await claim_back(daemon, node)


async def test_what_a_node_does_not_answer_is_an_error_that_says_so() -> None:
    async with fabstird() as daemon, fabstir_node() as node:
        await join(daemon, node, "daemon")
        for protocol, message in ((JOB, {"Nonsense": 1}), (INFERENCE, {"Nonsense": 2})):
            with pytest.raises(InvalidState):
                await daemon.call("request", peerId=node.peer_id, protocol=protocol, data=b64(message), framing="u32be")
        assert await claim(daemon, node) == ACK, "the connection has not suffered"
        with pytest.raises(PeerError):  # nobody handles it at the daemon
            await node.call("request", peerId=daemon.peer_id, protocol=INFERENCE, message={})


async def test_a_node_comes_back_as_somebody_else() -> None:
    """At each start it has another peer id, as the real one."""
    async with fabstird() as daemon:
        async with fabstir_node() as node:
            await join(daemon, node, "daemon")
            first, address = node.peer_id, node.address("tcp")
            where = address.removesuffix(f"/p2p/{first}")
        await daemon.wait_event("peer:disconnect", peerId=first)
        async with fabstir_node(listen=[where]) as again:
            assert again.peer_id != first
            with pytest.raises(Exception, match="another peer answers there"):
                await daemon.call("connect", address=address)
            await join(daemon, again, "daemon")
            assert await claim(daemon, again) == ACK


async def stays(daemon: Daemon, node: Peer, limit: float) -> None:
    """Nothing is asked of either for twice ``limit`` (seconds), then a job is claimed on the same connection."""
    before = await daemon.peer(node.peer_id)
    await trio.sleep(2 * limit)
    assert daemon.found("peer:disconnect", peerId=node.peer_id) == []
    assert node.found("disconnect") == []
    after = await daemon.peer(node.peer_id)
    assert before is not None
    assert after is not None
    assert after["connections"][0]["openedAt"] == before["connections"][0]["openedAt"]
    assert len(daemon.found("peer:identify", peerId=node.peer_id)) == 1, "what is no news is not told"
    assert await claim(daemon, node) == ACK


@by
async def test_it_stays_connected_past_a_short_idle_limit(dialler: Dialler) -> None:
    refresh = {"connections.idle_refresh": 500}
    async with fabstird(settings=refresh) as daemon, fabstir_node(idle_timeout=6000) as node:
        await join(daemon, node, dialler)
        await stays(daemon, node, 6)


async def test_left_alone_it_closes_the_connection() -> None:
    """What the daemon does about it: nothing, where it is told not to. So the test above shows something."""
    async with fabstird(settings={"connections.idle_refresh": 0}) as daemon, fabstir_node(idle_timeout=500) as node:
        await join(daemon, node, "daemon")
        gone = await daemon.wait_event("peer:disconnect", peerId=node.peer_id, timeout=60)
        assert gone["reason"] in ("closed_by_peer", "reset")  # with RST where it has not read all yet


async def test_it_stays_connected_past_the_real_idle_limit() -> None:
    """120 s, with the daemon as it comes; one node that the daemon has dialled, and one that has dialled it."""
    async with fabstird() as daemon, fabstir_node() as one, fabstir_node() as two:
        await join(daemon, one, "daemon")
        await join(daemon, two, "node")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stays, daemon, one, 65)
            nursery.start_soon(stays, daemon, two, 65)


async def test_the_whole_way_from_a_model_to_a_claimed_job_both_ways() -> None:
    """The daemon finds a node by what it can do and gives it a job, past the node's idle limit; and the node finds the
    daemon in the same way and gives it one. Each knows nothing of the other but one address."""
    settings = {"connections.idle_refresh": 500}
    async with (
        fabstir_node(idle_timeout=6000) as node,
        fabstird(settings=settings, enable_dht=True, bootstrap_nodes=[node.address("tcp")]) as daemon,
    ):
        await daemon.wait_event("dht:mode", mode="server")
        await node.wait_event("identify", peer_id=daemon.peer_id)
        await node.call("dhtAddPeer", address=daemon.address("tcp"))  # rust-libp2p leaves it to the program whom to add
        await asked_until(lambda: routed(daemon, node), bool)

        await node.call("dhtProvide", key=key("capability:llama-3"))
        record = {"models": ["llama-3"], "pricePerToken": "340282366920938463463374607431768211456", "reputation": 70}
        await node.call("dhtPut", key=key(f"metadata:{node.peer_id}"), value=b64(record))
        await stays(daemon, node, 6)
        found = await daemon.call("fabstir.discover", model="llama-3")
        [one] = found["nodes"]
        assert (one["peerId"], one["byOwner"]) == (node.peer_id, True)
        assert one["pricePerToken"] == record["pricePerToken"], "no digit is lost"
        assert await claim(daemon, node) == ACK

        await daemon.call("fabstir.announce", capabilities=["mistral"], metadata={"models": ["mistral"]})
        providers = (await node.call("dhtFindProviders", key=key("capability:mistral")))["providers"]
        assert daemon.peer_id in [provider["peerId"] for provider in providers]
        told = await node.call("dhtGet", key=key(f"metadata:{daemon.peer_id}"))
        assert json.loads(base64.b64decode(told["value"]))["models"] == ["mistral"]
        await claim_back(daemon, node)


def key(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def routed(daemon: Daemon, node: Peer) -> bool:
    known = (await node.call("dhtPeers"))["peers"]
    return daemon.peer_id in known and (await daemon.call("dht.status"))["peers"] >= 1
