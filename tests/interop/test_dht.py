"""The DHT with go-libp2p, rust-libp2p and js-libp2p, both ways. And what the Fabstir node and the SDK put there."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from tests.harness import Daemon, asked_until, environment, fabstird
from tests.interop.peerdriver import Peer
from tests.interop.peers import START, across
from tests.interop.rustpeer import fabstir_node

pytestmark = pytest.mark.interop

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
MODEL = "llama-3"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def multihash(data: bytes) -> bytes:
    return b"\x12\x20" + sha256(data).digest()


MULTIHASH = b64(multihash(b"llm-inference/" + MODEL.encode()))


@asynccontextmanager
async def pair(implementation: str) -> AsyncIterator[tuple[Daemon, Peer]]:
    """The daemon and a server of the DHT, which know each other as servers."""
    async with START[implementation](listen=LISTEN, dht="server") as peer, fabstird(enable_dht=True) as daemon:
        await daemon.call("connect", address=peer.address("tcp"))
        await know(daemon, peer)
        yield daemon, peer


async def know(daemon: Daemon, peer: Peer) -> None:
    """Wait until both have each other in their routing tables."""
    await daemon.wait_event("dht:mode", mode="server")
    if peer.implementation.startswith("rust"):  # it leaves to the program whom to add
        await peer.call("dhtAddPeer", address=daemon.address("tcp"))
    await servers(daemon, 1)
    await asked_until(lambda: peer.call("dhtPeers"), lambda known: daemon.peer_id in known["peers"])


async def servers(daemon: Daemon, count: int) -> None:
    """Wait until its routing table holds that many."""
    await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] >= count)


@across
async def test_the_daemon_provides_and_the_peer_finds_it(implementation: str) -> None:
    async with pair(implementation) as (daemon, peer):
        provided = await daemon.call("dht.provide", key=MULTIHASH, encoding="base64")
        # rust-libp2p leaves whoever asks out of its answer (kad/src/behaviour.rs, provider_peers)
        confirmed = 0 if implementation == "rust" else 1
        assert (provided["sent"], provided["confirmed"], provided["failures"]) == (1, confirmed, {})
        found = await peer.call("dhtFindProviders", key=MULTIHASH)
        assert daemon.peer_id in [one["peerId"] for one in found["providers"]]


@across
async def test_the_peer_provides_and_the_daemon_finds_it(implementation: str) -> None:
    async with pair(implementation) as (daemon, peer):
        await peer.call("dhtProvide", key=MULTIHASH)
        found = await daemon.call("dht.find_providers", key=MULTIHASH, encoding="base64", queryId="q")
        [provider] = found["providers"]
        assert provider["peerId"] == peer.peer_id
        assert peer.address("tcp") in provider["addresses"]
        assert (await daemon.wait_event("dht:provider", queryId="q"))["peerId"] == peer.peer_id


@across
async def test_values_both_ways(implementation: str) -> None:
    async with pair(implementation) as (daemon, peer):
        stored = await daemon.call("dht.put_value", key="from the daemon", value=b64(b"one"))
        assert (stored["stored"], stored["failures"]) == (1, {})
        assert (await peer.call("dhtGet", key=b64(b"from the daemon")))["value"] == b64(b"one")
        await peer.call("dhtPut", key=b64(b"from the peer"), value=b64(b"two"))
        found = await daemon.call("dht.get_value", key="from the peer")
        assert (found["found"], found["value"]) == (True, b64(b"two"))


@across
async def test_a_third_one_is_found_both_ways(implementation: str) -> None:
    async with pair(implementation) as (daemon, peer), fabstird(enable_dht=True) as third:
        await third.call("connect", address=daemon.address("tcp"))
        await third.wait_event("dht:mode", mode="server")
        await servers(daemon, 2)
        found = await peer.call("dhtFindPeer", peerId=third.peer_id)
        bare = third.address("tcp").removesuffix(f"/p2p/{third.peer_id}")
        assert bare in [address.removesuffix(f"/p2p/{third.peer_id}") for address in found["addresses"]]
        found = await third.call("dht.find_peer", peerId=peer.peer_id)
        assert peer.address("tcp") in found["addresses"]


@across
async def test_a_client_is_not_taken_for_a_server(implementation: str) -> None:
    start = START[implementation]
    client = {"dht.mode": "client"}
    async with start(listen=LISTEN, dht="server") as peer, fabstird(settings=client, enable_dht=True) as daemon:
        await daemon.call("connect", address=peer.address("tcp"))
        await servers(daemon, 1)
        told = await peer.call("identify", peerId=daemon.peer_id)
        assert "/ipfs/kad/1.0.0" not in told["protocols"]
        stored = await daemon.call("dht.put_value", key="k", value=b64(b"v"))
        assert (stored["stored"], stored["failures"]) == (1, {})
        assert daemon.peer_id not in (await peer.call("dhtPeers"))["peers"]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Short: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        yield Path(folder)


@pytest.mark.usefixtures("rust", "js")
async def test_discover_finds_what_a_fabstir_node_and_a_js_peer_put_there(data_dir: Path) -> None:
    async with (
        fabstir_node() as node,
        START["js"](listen=LISTEN, dht="server") as sdk,
        fabstird(data_dir, enable_dht=True) as daemon,
    ):
        for peer in (node, sdk):
            await daemon.call("connect", address=peer.address("tcp"))
            await know(daemon, peer)
        await servers(daemon, 2)
        key = b64(b"capability:" + MODEL.encode())
        await node.call("dhtProvide", key=key)
        told = {"models": [MODEL], "pricePerToken": "2", "reputation": 70}
        await node.call("dhtPut", key=b64(b"metadata:" + node.peer_id.encode()), value=b64(json.dumps(told).encode()))
        await sdk.call("dhtProvide", key=MULTIHASH)
        await sdk.call("dhtPut", key=b64(b"metadata:" + sdk.peer_id.encode()), value=b64(b'{"reputation":90}'))
        found = await daemon.call("fabstir.discover", model=MODEL)
        assert [one["peerId"] for one in found["nodes"]] == [sdk.peer_id, node.peer_id]
        assert (found["nodes"][1]["pricePerToken"], found["nodes"][1]["byOwner"]) == ("2", True)
        assert found["malformed"] == 0
        command = [sys.executable, "-m", "fabstir_client", "--data-dir", str(data_dir), "discover", MODEL]
        printed = (await trio.run_process(command, capture_stdout=True, env=environment())).stdout.decode()
        assert [line.split()[0] for line in printed.splitlines()[:3]] == ["NODE", sdk.peer_id, node.peer_id]
