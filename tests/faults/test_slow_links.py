"""What is slow lives, what has gone is heard to the end, and credit that was given is never lost."""

from __future__ import annotations

import base64
import os
import struct

import trio

from tests.harness import asked_until, fabstird
from tests.support.minipeer import MiniPeer, Stage, Stream, mini_peer, mini_peers
from tests.support.wire import MULTISTREAM, field, lines, varint

FRAME = struct.Struct(">BBHII")  # of yamux
SYN, FIN = 1, 4
DATA, WINDOW, GO_AWAY = 0, 1, 3
KAD = "/ipfs/kad/1.0.0"
SLOW = 24 * 1024  # bytes a second
MESSAGE = 300 * 1024
PINGS = {"connections.ping_interval": 500, "connections.ping_timeout": 3000, "api.max_request_bytes": 1 << 20}


async def test_a_peer_that_takes_its_time_to_read_is_alive() -> None:
    """Seven seconds for what we send, and the answer to our ping comes behind all of it."""
    got = b""

    async def answer(stream: Stream) -> None:
        nonlocal got
        got = await stream.receive_exactly(MESSAGE + 4)
        await stream.send_all(b"\0\0\0\4done")

    async with fabstird(settings=PINGS) as daemon, mini_peer() as peer:
        peer.handle("/slow/1", answer)
        link = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        link.crawl(SLOW)
        data = base64.b64encode(os.urandom(MESSAGE)).decode()
        with trio.fail_after(120):
            answered = await daemon.call("request", peerId=peer.peer_id, protocol="/slow/1", data=data, framing="u32be")
        assert base64.b64decode(answered["data"]) == b"done"
        assert len(got) == MESSAGE + 4
        assert daemon.found("peer:disconnect") == []


async def test_a_peer_that_takes_its_time_to_send_is_alive() -> None:
    """One Noise message of 64 KiB comes for five seconds, and nothing of it can be read before its end."""
    async with fabstird(settings=PINGS) as daemon, mini_peer() as peer:
        link = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        link.crawl(SLOW // 2)
        with trio.fail_after(120):
            for _ in range(2):
                await link.inject(FRAME.pack(0, DATA, 0, 99, 60000) + bytes(60000))  # of a stream that is gone
        assert await link.ping() < 60
        assert daemon.found("peer:disconnect") == []


async def last_words(peer: MiniPeer, address: str, protocol: str, message: bytes) -> None:
    """Everything in one segment: a stream, its protocol, the message, its end, and the end of the connection."""
    link = await peer.dial(address)
    said = lines(MULTISTREAM, protocol) + message
    frames = FRAME.pack(0, WINDOW, SYN, 77, 0) + FRAME.pack(0, DATA, 0, 77, len(said)) + said
    frames += FRAME.pack(0, WINDOW, FIN, 77, 0) + FRAME.pack(0, GO_AWAY, 0, 0, 0)
    await link.inject(frames)
    link.drop()


async def test_what_a_peer_says_before_it_goes_is_heard() -> None:
    async with mini_peers(4) as peers, fabstird(enable_dht=True, settings={"dht.mode": "server"}) as daemon:
        for number, peer in enumerate(peers):
            key = b"\x12\x20" + bytes((number,)) * 32
            provider = field(1, _peer_id_bytes(peer)) + field(2, bytes.fromhex("04c0000207060fa1"))
            message = b"\x08\x02" + field(2, key) + field(9, provider)
            await last_words(peer, daemon.address("tcp"), KAD, varint(len(message)) + message)
            await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        metrics = await asked_until(
            lambda: daemon.call("metrics"), lambda told: told["bounds"]["dhtProviders"]["current"] == len(peers)
        )
        assert metrics["streamErrors"] == 0


def _peer_id_bytes(peer: MiniPeer) -> bytes:
    key = peer.identity.public_key
    return b"\0" + bytes((len(key),)) + key


async def test_a_peer_that_holds_a_handshake_is_not_held_for_alive() -> None:
    """Progress counts where something is awaited; a peer that says nothing at all is still dead in time."""
    async with fabstird(settings=PINGS) as daemon, mini_peer() as peer:
        link = await peer.dial(daemon.address("tcp"), mute=True)
        assert link.stage is Stage.UP
        link.freeze()
        await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, reason="dead")
