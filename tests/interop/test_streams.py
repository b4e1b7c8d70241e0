"""Streams between a program at the daemon and each other implementation, opened by either: ends, resets, back-pressure,
16 MiB both ways at once, 200 at a time, and libp2p's perf."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from tests.functional.local_streams import WAIT, Local, listed, local, outcome
from tests.harness import Daemon, fabstird
from tests.interop.peerdriver import Peer, PeerTimeout
from tests.interop.peers import START, across

pytestmark = pytest.mark.interop

ECHO, PERF = "/fabstir-interop/echo/1.0.0", "/perf/1.0.0"
DIGEST, HOLD, RESET, SINK = (f"/fabstir-interop/{name}/1.0.0" for name in ("digest", "hold", "reset", "sink"))
SERVED = ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", ECHO, DIGEST, HOLD, PERF, RESET, SINK]
TCP = ["/ip4/127.0.0.1/tcp/0"]
MINE = "/fabstir-interop/mine/1.0.0"  # what the daemon's program handles
MIB = 1024 * 1024
HALF = 64 * 1024  # bytes, which no window holds up
STALLED = 1.0  # seconds in which nothing is taken any more
MOST = 4 * MIB  # that both sides and the kernel together may hold of what nobody reads
SLOW = 60.0


@asynccontextmanager
async def meeting(implementation: str, **settings: Any) -> AsyncIterator[tuple[Daemon, Peer]]:
    """The two, connected, with the protocol of the daemon's program handled."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    async with (
        START[implementation](listen=TCP, protocols=SERVED) as peer,
        fabstird(settings=own, listen_addresses=TCP) as daemon,
    ):
        await daemon.call("connect", address=peer.address("tcp"))
        await peer.wait_event("connect", peer_id=daemon.peer_id)
        await daemon.call("protocol.handle", protocol=MINE, mode="stream", backlog=256, acceptTimeout=60000)
        yield daemon, peer


@asynccontextmanager
async def opened(daemon: Daemon, peer: Peer, protocol: str) -> AsyncIterator[Local]:
    async with local(daemon.path) as end:
        await end.call("stream.open", {"peerId": peer.peer_id, "protocol": protocol})
        yield end


@asynccontextmanager
async def accepted(daemon: Daemon, count: int) -> AsyncIterator[Local]:
    """The stream that the peer was the ``count``-th to open."""
    told = await daemon.wait_event("stream.incoming", count=count, timeout=WAIT)
    async with local(daemon.path) as end:
        await end.call("stream.accept", {"streamId": told["streamId"]})
        yield end


async def released(peer: Peer) -> dict[str, Any]:
    """What the peer tells of the stream that it holds. What it is about to hold, no release before that lets go."""
    with trio.fail_after(SLOW):
        while True:
            await peer.call("release")
            with suppress(PeerTimeout):
                return await peer.wait_event("stream", where=lambda told: told["protocol"] == HOLD, timeout=5)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def exchange(daemon: Daemon, peer: Peer, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
    """The peer's command of that name, while the body answers it; what it said is there afterwards."""
    said: dict[str, Any] = {}

    async def run() -> None:
        said.update(await peer.call("exchange", peerId=daemon.peer_id, protocol=MINE, timeout=SLOW, **arguments))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield said


@across
async def test_each_side_ends_by_itself(implementation: str) -> None:
    data = os.urandom(HALF)
    async with meeting(implementation) as (daemon, peer):
        async with opened(daemon, peer, DIGEST) as end:  # the opener ends first, and is answered after that
            await end.send(data)
            await end.end()
            assert (await end.rest()).hex() == sha256(data)
        assert await outcome(daemon, end.id) == "ended"
        async with opened(daemon, peer, SINK) as end:  # the other one ends first, and is sent something after that
            assert await end.rest() == b""
            await end.send(data)
            await end.end()
            told = await peer.wait_event("stream", peer_id=daemon.peer_id)
            assert (told["bytes"], told["sha256"], told["reset"]) == (HALF, sha256(data), False)
        assert await outcome(daemon, end.id) == "ended"

        for count, first in enumerate((None, "read"), 1):  # the same two, on streams that the peer opens
            back, order = os.urandom(HALF), {"first": first} if first else {}
            async with exchange(daemon, peer, bytes=HALF, **order) as said, accepted(daemon, count) as end:
                if first:
                    await end.send(back)
                    await end.end()
                    came = await end.rest()
                else:
                    came = await end.rest()
                    await end.send(back)
                    await end.end()
            assert said == {"sent": sha256(came), "bytes": HALF, "sha256": sha256(back), "reset": False}
            closed = await daemon.wait_event("stream.closed", streamId=end.id)
            assert closed == {"streamId": end.id, "outcome": "ended", "bytesIn": HALF, "bytesOut": HALF}


@across
async def test_a_reset_is_told_to_the_other_side(implementation: str) -> None:
    async with meeting(implementation) as (daemon, peer):
        async with opened(daemon, peer, HOLD) as end:  # what we reset
            await end.send(b"so much")
            await daemon.call("stream.reset", streamId=end.id)
            assert await outcome(daemon, end.id) == "reset"
        assert (await released(peer))["reset"]
        async with opened(daemon, peer, RESET) as end:  # what the peer resets
            await end.send(b"so much")
            assert await end.rest() == b""
            assert await outcome(daemon, end.id) == "peer_reset"

        # the peer opens, and we reset; rust sees that where it writes, not where it reads (README)
        async with exchange(daemon, peer, bytes=10, first="read") as said, accepted(daemon, 1) as end:
            await daemon.call("stream.reset", streamId=end.id)
        assert said["reset"]
        async with exchange(daemon, peer, bytes=10, end="reset"), accepted(daemon, 2) as end:  # the peer does both
            assert len(await end.exactly(10)) == 10
            await end.send(b"?")
            closed = await daemon.wait_event("stream.closed", streamId=end.id)
            assert closed["outcome"] == "peer_reset"


@across
async def test_sixteen_mebibytes_both_ways_at_once(implementation: str) -> None:
    data = os.urandom(16 * MIB)
    async with meeting(implementation) as (daemon, peer):
        async with opened(daemon, peer, ECHO) as end, trio.open_nursery() as nursery:

            async def send() -> None:
                await end.send(data)
                await end.end()

            nursery.start_soon(send)
            with trio.fail_after(SLOW):
                assert sha256(await end.rest()) == sha256(data)

        async def echo() -> None:
            async with accepted(daemon, 1) as end:
                while part := await end.some():
                    await end.send(part)
                await end.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            await peer.call("echo", peerId=daemon.peer_id, protocol=MINE, bytes=16 * MIB, timeout=SLOW)


@across
async def test_what_nobody_reads_is_not_sent(implementation: str) -> None:
    async with meeting(implementation) as (daemon, peer):
        async with opened(daemon, peer, HOLD) as end:
            end.shrink()
            sent = hashlib.sha256()
            size = 0
            block = os.urandom(4096)
            while size < MOST:
                with trio.move_on_after(STALLED) as scope:
                    await trio.lowlevel.wait_writable(end.stream.socket)
                if scope.cancelled_caught:
                    break
                written = os.write(end.stream.socket.fileno(), block)
                sent.update(block[:written])
                size += written
            assert size < MOST, "it is taken though nobody reads"
            await end.end()
            told = await released(peer)
            assert (told["bytes"], told["sha256"], told["reset"]) == (size, sent.hexdigest(), False)

        async with exchange(daemon, peer, bytes=16 * MIB) as said, accepted(daemon, 1) as end:
            await trio.sleep(STALLED / 2)  # it fills whatever there is
            assert (await listed(daemon, end.id))["bytesIn"] < MOST
            await end.end()
            with trio.fail_after(SLOW):
                came = await end.rest()
        assert (len(came), sha256(came)) == (16 * MIB, said["sent"])


@across
async def test_two_hundred_streams_at_once(implementation: str) -> None:
    async with meeting(implementation, streams__max_open_per_peer=256) as (daemon, peer):
        async with AsyncExitStack() as stack:
            ends = [await stack.enter_async_context(opened(daemon, peer, ECHO)) for _ in range(200)]
            assert (await daemon.call("metrics"))["bounds"]["streams"]["current"] == 200
            for at, end in enumerate(ends):
                await end.send(bytes([at]))
            for at, end in enumerate(ends):
                assert await end.exactly(1) == bytes([at])
            for end in ends:
                await end.end()
                assert await end.rest() == b""

        async def echo(count: int) -> None:
            async with accepted(daemon, count) as end:
                await end.send(await end.rest())
                await end.end()

        async with trio.open_nursery() as nursery:
            for count in range(1, 201):
                nursery.start_soon(echo, count)
            said = await peer.call("streams", peerId=daemon.peer_id, protocol=MINE, count=200, timeout=SLOW)
        assert said == {"count": 200}


@across
async def test_perf_measures_in_both_directions(implementation: str) -> None:
    async with meeting(implementation, streams__perf=True) as (daemon, peer):
        said = await peer.call("perf", peerId=daemon.peer_id, upload=MIB, download=2 * MIB, timeout=SLOW)
        assert said["upload"] > 0
        assert said["download"] > 0
        async with opened(daemon, peer, PERF) as end:
            await end.send((2 * MIB).to_bytes(8, "big") + bytes(MIB))
            await end.end()
            assert await end.rest() == bytes(2 * MIB)
