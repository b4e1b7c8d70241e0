"""Trap 2 on stock py-libp2p 0.8.1: what one bad stream does to the host."""

import random
from contextlib import suppress
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from tests.support.minipeer import Gone, mini_peer
from tests.support.wire import varint

from .stock import Verdict, main
from .stock_hosts import address, stock_host

MESHSUB = TProtocol("/meshsub/1.1.0")
FLOOD = 4 * 1024 * 1024  # bytes, sixteen times yamux's first window


async def handler_raises() -> Verdict:
    """A handler of ours that raises, on a stream that a stranger opened."""

    async def handler(stream: object) -> None:
        raise ValueError("a defect in a handler")

    async with mini_peer() as peer:
        try:
            async with stock_host() as host:
                host.set_stream_handler(TProtocol("/demo/1"), handler)
                conn = await peer.dial(address(host))
                with suppress(Gone):  # the host may be gone by then
                    await conn.send_bytes("/demo/1", b"hello")
                await trio.sleep(60)  # a bound: the host is gone long before
        except BaseExceptionGroup as group:
            return {"run_ended_with": leaves(group)}
    return {"run_ended_with": []}


async def garbage_to_gossipsub() -> Verdict:
    """The library's own gossipsub handler, and 300 bytes that are no protobuf message."""
    garbage = random.Random(2).randbytes(300)
    async with mini_peer() as peer:
        try:
            async with stock_host() as host:
                router = GossipSub(protocols=[MESHSUB], degree=6, degree_low=4, degree_high=12)
                async with background_trio_service(Pubsub(host, router)):
                    conn = await peer.dial(address(host))
                    with suppress(Gone):
                        await conn.send_bytes(MESHSUB, varint(len(garbage)) + garbage)
                    await trio.sleep(60)  # as above
        except BaseExceptionGroup as group:
            return {"run_ended_with": leaves(group)}
    return {"run_ended_with": []}


async def window_ignored() -> Verdict:
    """A stream that nobody reads, and a peer that sends on it as if its window had no end."""
    deaf = trio.Event()
    accepted: list[Any] = []

    async def handler(stream: Any) -> None:
        accepted.append(stream)
        await deaf.wait()

    async with mini_peer() as peer, stock_host() as host:
        host.set_stream_handler(TProtocol("/deaf/1"), handler)
        conn = await peer.dial(address(host))
        stream = await conn.open_stream("/deaf/1")
        stream.granted(1 << 30)  # granted by nobody
        await stream.send_all(bytes(FLOOD))
        await conn.ping()  # answered after all of it has been taken in
        (muxed,) = [one.muxed_stream for one in accepted]
        kept = len(muxed.conn.stream_buffers[muxed.stream_id])
        deaf.set()
        return {"kept": kept}


def leaves(group: BaseExceptionGroup[BaseException]) -> list[str]:
    found: list[str] = []
    for each in group.exceptions:
        found += leaves(each) if isinstance(each, BaseExceptionGroup) else [type(each).__name__]
    return found


if __name__ == "__main__":
    main(globals())
