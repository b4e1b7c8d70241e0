"""The peers of the three implementations among themselves: known good before the daemon meets them."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import asked_until
from tests.interop import cache, gopeer, rustpeer
from tests.interop.peerdriver import Peer, PeerError
from tests.interop.peers import IMPLEMENTATIONS, START, across

pytestmark = pytest.mark.interop

ALL = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/udp/0/quic-v1"]
TRANSPORTS = ["tcp", "ws", "quic-v1"]
IDENTIFY, PING, ECHO, KAD = "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/fabstir-interop/echo/1.0.0", "/ipfs/kad/1.0.0"
# The multihash (sha2-256) of "llm-inference/llama-3": every library takes a multihash for a provider's key.
KEY = base64.b64encode(bytes.fromhex("1220") + hashlib.sha256(b"llm-inference/llama-3").digest()).decode()


@across
async def test_ready_says_who_and_where(implementation: str) -> None:
    start = START[implementation]
    async with start(listen=ALL, seed="01" * 32) as peer:
        assert peer.implementation.startswith(f"{implementation}-libp2p/")
        assert all(address.endswith(f"/p2p/{peer.peer_id}") for address in peer.addresses)
        for transport in TRANSPORTS:
            assert peer.address(transport)
        first = peer.peer_id
        assert first == "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"  # every library agrees on a seed
    async with start() as other:
        assert other.peer_id != first


@pytest.mark.parametrize("transport", TRANSPORTS)
@across
async def test_with_itself(implementation: str, transport: str) -> None:
    start = START[implementation]
    async with start(listen=ALL, agent_version="alice/1") as alice, start(agent_version="bob/2") as bob:
        dialled = await bob.call("dial", address=alice.address(transport))
        assert dialled["peerId"] == alice.peer_id
        assert dialled["direction"] == "outbound"
        await alice.wait_event("connect", peer_id=bob.peer_id)
        told = await bob.wait_event("identify", peer_id=alice.peer_id)
        assert told["agentVersion"] == "alice/1"
        assert {IDENTIFY, PING, ECHO} <= set(told["protocols"])
        assert (await bob.call("identify", peerId=alice.peer_id))["agentVersion"] == "alice/1"
        assert (await bob.call("peerInfo", peerId=alice.peer_id))["agentVersion"] == "alice/1"
        assert (await bob.call("ping", peerId=alice.peer_id))["rtt"] > 0
        assert (await alice.call("echo", peerId=bob.peer_id, bytes=1 << 20))["bytes"] == 1 << 20
        (entry,) = await alice.call("peers")
        assert (entry["peerId"], entry["connectionCount"]) == (bob.peer_id, 1)
        assert entry["connections"][0]["direction"] == "inbound"
        assert (await bob.call("disconnect", peerId=alice.peer_id))["closed"] == 1
        await alice.wait_event("disconnect", peer_id=bob.peer_id)
        assert await alice.call("peers") == []
        assert await bob.exit() == 0


@across
async def test_what_it_refuses(implementation: str) -> None:
    async with START[implementation](listen=["/ip4/127.0.0.1/tcp/0"]) as peer:
        for command, arguments in (
            ("nonsense", {}),
            ("dial", {"address": "not an address"}),
            ("dial", {"address": peer.address("tcp").replace("/tcp/", "/udp/")}),
            ("ping", {"peerId": peer.peer_id}),
            ("echo", {"peerId": peer.peer_id, "bytes": -1}),
            ("dhtGet", {"key": KEY}),
        ):
            with pytest.raises(PeerError):
                await peer.call(command, **arguments)
    with pytest.raises(Exception, match="status 1"):
        async with START[implementation](notAnOption=True):
            pass


async def meet(one: Peer, two: Peer) -> None:
    await one.call("dial", address=two.address("tcp"))
    await one.wait_event("identify", peer_id=two.peer_id)
    await two.wait_event("identify", peer_id=one.peer_id)


async def knows(peer: Peer, other: Peer) -> bool:
    return other.peer_id in (await peer.call("dhtPeers"))["peers"]


async def finds(peer: Peer, provider: Peer) -> bool:
    providers = (await peer.call("dhtFindProviders", key=KEY))["providers"]
    return provider.peer_id in [found["peerId"] for found in providers]


@pytest.mark.parametrize(("putter", "getter"), list(itertools.product(IMPLEMENTATIONS, repeat=2)))
async def test_dht(putter: str, getter: str, request: pytest.FixtureRequest) -> None:
    for name in (putter, getter):
        request.getfixturevalue(name)
    async with (
        START[putter](listen=ALL[:1], dht="server") as one,
        START[getter](listen=ALL[:1], dht="server") as two,
    ):
        await meet(one, two)
        await two.call("dhtAddPeer", address=one.address("tcp"))
        await one.call("dhtAddPeer", address=two.address("tcp"))
        await asked_until(lambda: knows(one, two), bool)
        value = base64.b64encode(json.dumps({"by": one.peer_id}).encode()).decode()
        key = base64.b64encode(f"metadata:{one.peer_id}".encode()).decode()
        await one.call("dhtPut", key=key, value=value)
        assert (await two.call("dhtGet", key=key))["value"] == value
        await one.call("dhtProvide", key=KEY)
        await asked_until(lambda: finds(two, one), bool)  # a provider's record is sent without an answer


async def test_dht_finds_the_third(js: None, go: None, rust: None) -> None:
    async with (
        START["go"](listen=ALL[:1], dht="server") as middle,
        START["rust"](listen=ALL[:1], dht="server") as one,
        START["js"](listen=ALL[:1], dht="server") as two,
    ):
        for peer in (one, two):
            await meet(peer, middle)
            await peer.call("dhtAddPeer", address=middle.address("tcp"))
        await asked_until(lambda: knows(middle, one), bool)
        await asked_until(lambda: knows(middle, two), bool)
        for peer, other in ((one, two), (two, one)):
            assert (await peer.call("dhtFindPeer", peerId=other.peer_id))["addresses"]


async def test_fabstir_nodes(rust: None) -> None:
    async with rustpeer.fabstir_node() as alice, rustpeer.fabstir_node() as bob:
        await meet(bob, alice)
        told = await bob.call("peerInfo", peerId=alice.peer_id)
        assert told["agentVersion"] == "fabstir-llm-node/1.0.0"
        assert told["protocolVersion"] == "/fabstir/id/1.0.0"
        assert {KAD, "/fabstir/inference/1.0.0", "/fabstir/job/1.0.0"} <= set(told["protocols"])
        assert PING not in told["protocols"]
        claim = {"JobClaim": {"job_id": 7, "host_address": "0x1", "model_commitment": [1, 2]}}
        answer = await bob.call("request", peerId=alice.peer_id, protocol="/fabstir/job/1.0.0", message=claim)
        assert answer["message"] == {"JobClaimAck": {"job_id": 7, "accepted": True}}
        assert (await alice.wait_event("request", peer_id=bob.peer_id))["message"] == claim


async def test_a_fabstir_node_closes_what_is_idle(rust: None) -> None:
    async with rustpeer.fabstir_node() as alice, rustpeer.fabstir_node(idle_timeout=500) as bob:
        await bob.call("dial", address=alice.address("tcp"))
        await alice.wait_event("disconnect", peer_id=bob.peer_id)


def test_no_lock_file_names_an_address() -> None:
    cargo, checksums = (
        (folder / name).read_text() for folder, name in ((rustpeer.HERE, "Cargo.lock"), (gopeer.HERE, "go.sum"))
    )
    assert cargo == rustpeer.without_registry(cargo)
    assert "://" not in cargo
    assert "://" not in checksums
    assert cargo.count("checksum = ") > 300
    whole = rustpeer.with_registry(cargo, "a registry")
    assert whole.count('source = "a registry"\nchecksum = ') == cargo.count("checksum = ")
    assert rustpeer.without_registry(whole) == cargo


def test_a_machine_without_toolchains_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gopeer.GoMissing, match="go not found"):
        gopeer.ensure_built()
    with pytest.raises(rustpeer.RustMissing, match="cargo and rustc and cc not found"):
        rustpeer.ensure_built()


def test_an_old_go_is_said_to_be_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(gopeer.GoMissing, match=r"go is go1\.19\.8; the peer needs 1\.26 or newer"):
        gopeer.ensure_built()


@pytest.mark.parametrize("name", ["go", "rust"])
def test_a_failed_build_leaves_nothing_and_says_why(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / {"go": "go", "rust": "cargo"}[name]
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\ncase $1 in env) echo go1.99.0; exit ;; --version) exit ;; esac\n"
        'echo "the build broke here"\nexit 7\n'
    )
    for needed in ("rustc", "cc"):
        (tmp_path / "bin" / needed).symlink_to("/bin/true")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ensure = {"go": gopeer.ensure_built, "rust": rustpeer.ensure_built}[name]
    with pytest.raises(RuntimeError, match="ended with 7:\nthe build broke here"):
        ensure()
    assert [path for path in (tmp_path / "fabstir-interop").glob(f"{name}-*") if ".new-" not in path.name] == []


def test_a_build_that_takes_too_long_ends_with_all_that_it_began(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock, another = os.open(path, os.O_CREAT | os.O_RDWR), os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(subprocess.TimeoutExpired):
        cache.run(["sh", "-c", "sleep 600 & wait"], tmp_path, lock, 2.0)
    os.close(lock)
    deadline = time.monotonic() + 60
    while True:
        try:
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as the next build will ask for it
            break
        except BlockingIOError:
            assert time.monotonic() < deadline, "what the build began still holds the lock"
            time.sleep(0.05)  # then look again
    os.close(another)


def test_the_program_is_the_one_of_these_sources(rust: None, go: None) -> None:
    for ensure in (rustpeer.ensure_built, gopeer.ensure_built):
        first, second = ensure(), ensure()
        assert first == second
        done = subprocess.run([first, '{"nonsense":1}'], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "nonsense" in done.stderr
