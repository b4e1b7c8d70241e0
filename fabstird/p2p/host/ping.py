"""Ping, both sides (libp2p specification, ping): 32 bytes, echoed."""

from __future__ import annotations

import os
import time
from collections import Counter

import trio

from fabstird.p2p.host.opening import StreamError
from fabstird.p2p.muxer.frame import RESOURCE_LIMIT_EXCEEDED
from fabstird.p2p.net.link import cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.wire.frames import exactly

PING = "/ipfs/ping/1.0.0"
SIZE = 32  # bytes
AT_ONCE = 8  # streams of one peer; js-libp2p accepts two
PATIENCE = 10.0  # seconds between two pings of a peer, and for it to read our answer


class Answers:
    """The handler of `PING`: any number of pings, one after another, on up to `AT_ONCE` streams of a peer."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()  # streams, by peer

    async def answer(self, stream: Stream) -> None:
        if self._open[stream.peer_id] >= AT_ONCE:
            await cut(stream, RESOURCE_LIMIT_EXCEEDED)
            return
        self._open[stream.peer_id] += 1
        try:
            await _answer(stream)
        finally:
            self._open -= Counter((stream.peer_id,))  # which drops peers without streams


async def _answer(stream: Stream) -> None:
    try:
        while first := await _next(stream):
            with trio.fail_after(PATIENCE):
                await stream.write(first + await exactly(stream, SIZE - len(first)))
        await stream.close_write()
    except trio.TooSlowError:
        await cut(stream)  # it pings no more


async def _next(stream: Stream) -> bytes:
    with trio.fail_after(PATIENCE):
        return await stream.receive_some(SIZE)


async def ask(stream: Stream) -> float:
    """Measure one round trip in milliseconds on a stream of `PING`. The caller sets the deadline. Raises
    `StreamError`."""
    payload = os.urandom(SIZE)
    started = time.perf_counter()
    await stream.write(payload)
    echoed = await exactly(stream, SIZE)
    elapsed = time.perf_counter() - started
    if echoed != payload:
        raise StreamError(f"{stream.peer_id} answered the ping with other bytes")
    return elapsed * 1000
