"""js-libp2p with itself: the peer program, its protocol and its driver are known good before the daemon meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Literal

import pytest
import trio

from tests.interop import jspeer
from tests.interop.jspeer import js_peer
from tests.interop.peerdriver import Peer, PeerError, PeerGone, PeerTimeout

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("js")]

BOTH = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
IDENTIFY, PING, ECHO = "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/fabstir-interop/echo/1.0.0"
TRANSPORTS = ["tcp", "ws"]
Transport = Literal["tcp", "ws"]


async def test_ready_says_who_and_where() -> None:
    async with js_peer(listen=BOTH, seed="01" * 32) as peer:
        assert peer.implementation.startswith("js-libp2p/2.")
        assert peer.runtime.startswith("node/22.")
        assert all(address.endswith(f"/p2p/{peer.peer_id}") for address in peer.addresses)
        assert "/ws/" not in peer.address("tcp")
        assert "/ws/" in peer.address("ws")
        assert await peer.call("addresses") == {"peerId": peer.peer_id, "addresses": peer.addresses}
        first = peer.peer_id
    async with js_peer(seed="01" * 32) as again, js_peer() as other:
        assert again.peer_id == first
        assert other.peer_id != first


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_peers(transport: Transport) -> None:
    async with js_peer(listen=BOTH, agent_version="alice/1") as alice, js_peer(agent_version="bob/2") as bob:
        dialled = await bob.call("dial", address=alice.address(transport))
        assert dialled["peerId"] == alice.peer_id
        assert dialled["direction"] == "outbound"
        await alice.wait_event("connect", peer_id=bob.peer_id)
        await bob.wait_event("connect", peer_id=alice.peer_id)

        told = await bob.wait_event("identify", peer_id=alice.peer_id)
        assert told["agentVersion"] == "alice/1"
        assert {IDENTIFY, PING, ECHO} <= set(told["protocols"])
        assert told["observedAddr"].startswith("/ip4/127.0.0.1/tcp/")
        assert (await alice.wait_event("identify", peer_id=bob.peer_id))["agentVersion"] == "bob/2"
        known = await bob.call("peerInfo", peerId=alice.peer_id)
        assert (await bob.call("identify", peerId=alice.peer_id))["protocols"] == known["protocols"]

        for peer, other, direction in ((alice, bob, "inbound"), (bob, alice, "outbound")):
            (entry,) = await peer.call("peers")
            assert entry["peerId"] == other.peer_id
            assert entry["connectionCount"] == 1
            (connection,) = entry["connections"]
            assert connection["direction"] == direction
            assert connection["encryption"] == "/noise"
            assert connection["multiplexer"] == "/yamux/1.0.0"
            assert 0 < (await peer.call("ping", peerId=other.peer_id))["rtt"] < 10_000
            for size in (0, 1, 300_000):
                assert (await peer.call("echo", peerId=other.peer_id, bytes=size))["bytes"] == size

        assert (await alice.call("disconnect", peerId=bob.peer_id))["closed"] == 1
        await bob.wait_event("disconnect", peer_id=alice.peer_id)
        await alice.wait_event("disconnect", peer_id=bob.peer_id)
        assert await bob.call("peers") == []


async def test_a_killed_peer_is_missed_and_reaped() -> None:
    async with js_peer(listen=BOTH) as alice, js_peer() as bob:
        await bob.call("dial", address=alice.address("tcp"))
        await bob.wait_event("connect", peer_id=alice.peer_id)
        alice.kill()
        assert await alice.wait_closed() == -signal.SIGKILL
        await bob.wait_event("disconnect", peer_id=alice.peer_id)
        with pytest.raises(PeerGone, match="-9"):
            await alice.call("peers")


async def test_a_peer_serves_only_the_protocols_it_was_given() -> None:
    async with js_peer(listen=BOTH, protocols=[IDENTIFY, "/own/1"]) as alice, js_peer() as bob:
        await bob.call("dial", address=alice.address("tcp"))
        told = await bob.wait_event("identify", peer_id=alice.peer_id)
        assert sorted(told["protocols"]) == [IDENTIFY, "/own/1"]
        assert (await bob.call("echo", peerId=alice.peer_id, bytes=10, protocol="/own/1"))["bytes"] == 10
        with pytest.raises(PeerError, match="UnsupportedProtocolError"):
            await bob.call("ping", peerId=alice.peer_id)
        with pytest.raises(PeerError, match="UnsupportedProtocolError"):
            await bob.call("echo", peerId=alice.peer_id, bytes=10)


async def test_errors_in_words_and_the_peer_lives_on() -> None:
    async with js_peer() as peer, js_peer(listen=BOTH) as other:
        with pytest.raises(PeerError, match='unknown command "fly"'):
            await peer.call("fly")
        with pytest.raises(PeerError, match='"address" must be a string'):
            await peer.call("dial")
        with pytest.raises(PeerError, match="not connected"):
            await peer.call("ping", peerId=other.peer_id)
        with pytest.raises(PeerError, match="has not been identified"):
            await peer.call("peerInfo", peerId=other.peer_id)
        with pytest.raises(PeerError, match="ECONNREFUSED"):
            await peer.call("dial", address=f"/ip4/127.0.0.1/tcp/1/p2p/{other.peer_id}")
        assert await peer.call("peers") == []


async def test_waits_are_bounded() -> None:
    async with js_peer() as peer:
        with pytest.raises(PeerTimeout, match=r"no connect from js peer within 0\.05 s"):
            await peer.wait_event("connect", timeout=0.05)
        assert await peer.exit() == 0
        with pytest.raises(PeerGone, match="status 0"):
            await peer.call("peers")
        with pytest.raises(PeerGone):
            await peer.wait_event("connect")


async def test_a_peer_that_cannot_start_says_why() -> None:
    with pytest.raises(PeerGone, match="Protocol nonsense was unknown"):
        async with js_peer(listen=["/nonsense/1"]):
            pytest.fail("it started")


async def test_nothing_is_left_running_whatever_ends_the_context() -> None:
    started: list[Peer] = []

    async def fail() -> None:
        async with js_peer() as peer:
            started.append(peer)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with trio.CancelScope() as scope:
        async with js_peer() as peer:
            started.append(peer)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(started) == 2
    for peer in started:
        with pytest.raises(ProcessLookupError):  # neither running nor a zombie
            os.kill(peer.pid, 0)


def test_end_of_input_ends_the_peer_and_stdout_is_the_protocol_only() -> None:
    node, script = jspeer.ensure_installed()
    # the options may be the first line, too
    done = subprocess.run(
        [node, script], input='{"listen": []}\nnot json\n', capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ready, error = map(json.loads, done.stdout.splitlines())
    assert ready["event"] == "ready"
    assert error["id"] is None
    assert "not valid JSON" in error["error"]
