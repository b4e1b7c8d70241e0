"""TLS with each implementation, dialled by either: a daemon as it is by default, a peer that speaks nothing else."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
import trio

from tests.harness import Daemon, fabstird
from tests.interop.peerdriver import Peer, PeerError
from tests.interop.peers import START, across

pytestmark = pytest.mark.interop

ECHO = "/fabstir-interop/echo/1.0.0"
MIB = 1024 * 1024
TCP = ["/ip4/127.0.0.1/tcp/0"]
WIDE = {"api.max_request_bytes": 4 * MIB}  # room for 1 MiB in base64


async def echoes(daemon: Daemon, peer: Peer) -> None:
    """1 MiB there and back, on streams that either side opens."""
    data = os.urandom(MIB)
    answer = await daemon.call(
        "request", peerId=peer.peer_id, protocol=ECHO, data=base64.b64encode(data).decode(), framing="none"
    )
    assert hashlib.sha256(base64.b64decode(answer["data"])).digest() == hashlib.sha256(data).digest()
    await daemon.call("protocol.handle", protocol=ECHO, framing="none")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.echo, peer.peer_id)
        assert (await peer.call("echo", peerId=daemon.peer_id, bytes=MIB))["bytes"] == MIB


async def is_secured_by_tls(daemon: Daemon, peer: Peer) -> None:
    entry = await daemon.peer(peer.peer_id)
    assert entry is not None
    (connection,) = entry["connections"]
    (seen,) = (await peer.call("peers"))[0]["connections"]
    assert (connection["security"], connection["muxer"]) == ("/tls/1.0.0", "/yamux/1.0.0")
    assert seen["encryption"] == "/tls/1.0.0"


@across
async def test_the_daemon_dials_a_peer_that_speaks_tls(implementation: str) -> None:
    async with START[implementation](listen=TCP, security=["tls"]) as peer, fabstird(settings=WIDE) as daemon:
        await daemon.call("connect", address=peer.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        await is_secured_by_tls(daemon, peer)
        await echoes(daemon, peer)
        await daemon.call("disconnect", peerId=peer.peer_id)
        await peer.wait_event("disconnect", peer_id=daemon.peer_id)


@across
async def test_a_peer_that_speaks_tls_dials_the_daemon(implementation: str) -> None:
    async with START[implementation](security=["tls"]) as peer, fabstird(settings=WIDE, listen_addresses=TCP) as daemon:
        await peer.call("dial", address=daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        await is_secured_by_tls(daemon, peer)
        await echoes(daemon, peer)
        assert (await peer.call("disconnect", peerId=daemon.peer_id))["closed"] == 1
        gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        assert gone["reason"] in ("closed_by_peer", "reset")  # go and js may close with RST (README)


@across
async def test_where_tls_is_switched_off_it_is_not_spoken(implementation: str) -> None:
    async with (
        START[implementation](listen=TCP, security=["tls"]) as peer,
        fabstird(security=["noise"], listen_addresses=TCP) as daemon,
    ):
        with pytest.raises(PeerError):
            await peer.call("dial", address=daemon.address("tcp"))
        with pytest.raises(Exception, match="speaks no protocol in common"):
            await daemon.call("connect", address=peer.address("tcp"))
