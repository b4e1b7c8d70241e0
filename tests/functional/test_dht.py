"""The DHT among real daemons: peers, providers and values found, records that outlive a restart."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fabstir_client.api.errors import (
    FeatureDisabled,
    InvalidParams,
    InvalidState,
    NodeNotRunning,
    PeerNotFound,
    TooLarge,
)
from tests.harness import Daemon, asked_until, fabstird, fetch, ipc
from tests.harness import daemon as http_daemon

KAD = "/ipfs/kad/1.0.0"
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@asynccontextmanager
async def network() -> AsyncIterator[tuple[Daemon, Daemon, Daemon]]:
    """A, B and C, each with the DHT; B is the only bootstrap node of A and C."""
    async with fabstird(enable_dht=True) as b:
        known = {"enable_dht": True, "bootstrap_nodes": [b.address("tcp")]}
        async with fabstird(**known) as a, fabstird(**known) as c:
            yield a, b, c


async def know(daemon: Daemon, peers: int) -> None:
    """Wait until its routing table holds that many."""
    await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] >= peers)


async def test_three_daemons_with_one_bootstrap_node_find_each_other() -> None:
    async with network() as (a, _, c):
        await a.wait_event("peer:connect", peerId=c.peer_id)
        await c.wait_event("peer:connect", peerId=a.peer_id)
        await a.wait_event("dht:mode", mode="server")
        assert KAD in (await a.call("version"))["protocols"]


async def test_a_peer_is_found_by_those_who_know_it_and_can_then_be_dialled() -> None:
    async with fabstird(enable_dht=True) as b, fabstird(enable_dht=True, bootstrap_nodes=[b.address("tcp")]) as c:
        await know(b, 1)
        client = {"dht.mode": "client"}
        async with fabstird(settings=client, enable_dht=True) as a:
            await a.call("connect", address=b.address("tcp"))
            await know(a, 1)
            found = await a.call("dht.find_peer", peerId=c.peer_id)
            assert c.address("tcp") in found["addresses"]
            assert (await a.call("connect", address=c.peer_id))["peerId"] == c.peer_id
            with pytest.raises(PeerNotFound, match="peers of the DHT were asked"):
                await a.call("dht.find_peer", peerId=STRANGER)
            assert KAD not in (await a.call("version"))["protocols"], "a client answers nobody"


@pytest.mark.parametrize(
    ("key", "encoding"),
    [
        ("capability:llama-3", "text"),
        (b64(b"\x00\xff\x80"), "base64"),
        ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "cid"),
        (
            "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n",
            "cid",
        ),
    ],
)
async def test_a_provider_is_found_and_told_when_it_is_found(key: str, encoding: str) -> None:
    async with network() as (a, _, c):
        await know(a, 2)
        await know(c, 2)
        provided = await a.call("dht.provide", key=key, encoding=encoding)
        assert (provided["sent"], provided["confirmed"], provided["failures"]) == (2, 2, {})
        found = await c.call("dht.find_providers", key=key, encoding=encoding, queryId="mine")
        assert [one["peerId"] for one in found["providers"]] == [a.peer_id]
        assert a.address("tcp") in found["providers"][0]["addresses"]
        assert (found["queryId"], found["key"], found["complete"]) == ("mine", provided["key"], True)
        told = await c.wait_event("dht:provider", queryId="mine")
        assert (told["peerId"], told["key"]) == (a.peer_id, provided["key"])
        forgotten = await a.call("dht.forget", key=key, encoding=encoding)
        assert (forgotten["provided"], forgotten["value"]) == (True, False)


async def test_a_value_is_found_its_owners_word_before_all_others() -> None:
    async with network() as (a, _, c):
        await know(a, 2)
        await know(c, 2)
        stored = await a.call("dht.put_value", key="weather", value=b64(b"fair"))
        assert (stored["stored"], stored["failures"]) == (2, {})
        found = await c.call("dht.get_value", key="weather", queryId="w")
        assert (found["value"], found["found"], found["byOwner"]) == (b64(b"fair"), True, False)
        assert (await c.wait_event("dht:value", queryId="w"))["size"] == 4
        key = f"metadata:{a.peer_id}"
        await a.call("dht.put_value", key=key, value=b64(b"{}"))
        with pytest.raises(InvalidState, match="its owner has put another value"):
            await c.call("dht.put_value", key=key, value=b64(b"[]"))
        found = await c.call("dht.get_value", key=key)
        assert (found["value"], found["byOwner"]) == (b64(b"{}"), True)
        missing = await c.call("dht.get_value", key="nothing")
        assert (missing["found"], missing["complete"], "value" in missing) == (False, True, False)


async def test_the_routing_table_is_told_bucket_by_bucket() -> None:
    async with network() as (a, b, c):
        await know(a, 2)
        told = await a.call("dht.routing")
        peers = [peer for bucket in told["buckets"] for peer in bucket["peers"]]
        assert (told["peers"], {peer["peerId"] for peer in peers}) == (2, {b.peer_id, c.peer_id})
        shared = [bucket["sharedBits"] for bucket in told["buckets"]]
        assert shared == sorted(set(shared)), "the farthest first"
        assert not any(peer["suspect"] for peer in peers)
        assert {peer["peerId"]: peer["connected"] for peer in peers}[b.peer_id]
        assert all(abs(peer["heard"] - time.time() * 1000) < 600_000 for peer in peers)


async def test_what_the_dht_does_is_counted_and_its_failed_dials_are_not_the_users() -> None:
    async with fabstird(enable_dht=True) as b:
        bootstrap = [b.address("tcp")]
        settings = {"node.enable_dht": True, "node.bootstrap_nodes": bootstrap}
        async with fabstird(enable_dht=True, bootstrap_nodes=bootstrap) as c, http_daemon(settings) as a, ipc(a) as api:
            await api.call("start")
            await asked_until(lambda: api.call("status"), lambda status: status["state"] == "started")
            await asked_until(lambda: api.call("dht.status"), lambda status: status["peers"] >= 2)
            await know(c, 2)
            await c.call("dht.provide", key="of c")
            await c.call("stop")
            await asked_until(lambda: api.call("peers"), lambda peers: len(peers) == 1)
            await api.call("dht.provide", {"key": "weather"})
            metrics = await api.call("metrics")
            text = (await fetch(a, "GET", "/metrics")).body.decode()
    samples = {
        (one.name, *one.labels.values()): one.value
        for found in text_string_to_metric_families(text)
        for one in found.samples
    }
    assert samples["fabstird_dht_lookups_total",] >= 1
    assert samples["fabstird_dht_asked_total", "answered"] >= 1
    assert samples["fabstird_dht_asked_total", "failed"] >= 1
    assert samples["fabstird_dht_received_total", "FIND_NODE"] >= 1
    assert samples["fabstird_dht_received_total", "malformed"] == 0
    assert samples["fabstird_dht_dials_failed_total",] >= 1, "of the peer that is gone"
    assert metrics["failedConnections"] == 0


async def test_wrong_keys_and_values_say_what_is_wrong() -> None:
    async with fabstird(enable_dht=True) as daemon:
        for key, encoding, words in (
            ("", "text", "must not be empty"),
            ("x" * 600, "text", "too long"),
            ("%%", "base64", "not standard base64"),
            ("bafyfoo", "cid", "is no CID"),
            ("Qm" + "1" * 44, "cid", "is no CID"),
            ("é" * 46, "cid", "is no CID"),
        ):
            with pytest.raises(InvalidParams, match=words):
                await daemon.call("dht.find_providers", key=key, encoding=encoding)
        with pytest.raises(InvalidParams, match="encoding"):
            await daemon.call("dht.get_value", key="x", encoding="hex")
        with pytest.raises(TooLarge) as caught:
            await daemon.call("dht.put_value", key="x", value=b64(bytes(10241)))
        assert caught.value.data["configKey"] == "dht.max_value_bytes"
        assert (caught.value.data["limit"], caught.value.data["current"]) == (10240, 10241)
        with pytest.raises(InvalidParams, match="no validator for /ipns/"):
            await daemon.call("dht.put_value", key="/ipns/x", value="")
        with pytest.raises(InvalidParams, match="peerId"):
            await daemon.call("dht.find_peer", peerId="nobody")
        alone = await daemon.call("dht.provide", key="x")
        assert (alone["sent"], alone["confirmed"], alone["asked"]) == (0, 0, 0)


async def test_switched_off_it_says_so_and_speaks_no_kad() -> None:
    async with fabstird(enable_dht=False) as daemon:
        with pytest.raises(FeatureDisabled) as caught:
            await daemon.call("dht.status")
        assert caught.value.data["configKey"] == "node.enable_dht"
        assert KAD not in (await daemon.call("version"))["protocols"]
        await daemon.call("stop")
        with pytest.raises(NodeNotRunning):
            await daemon.call("dht.status")
        await daemon.call("start", config={"enableDHT": True})
        assert (await daemon.call("dht.status"))["mode"] == "client"
