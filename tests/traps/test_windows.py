"""A peer that sends past its window. The first test shows what stock py-libp2p 0.8.1 does, the second ours."""

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from tests.harness import until
from tests.support.minipeer import Gone, mini_peers
from tests.support.yamux import Stream

from .ours import PATIENCE, Record, address, our_host
from .stock import stock
from .stock_streams import FLOOD

WINDOW = 256 * 1024  # bytes a yamux stream may be sent before any of it is read; the yamux specification


async def test_stock_keeps_all_that_it_is_sent() -> None:
    """libp2p 0.8.1: stream_muxer/yamux/yamux.py, `Yamux.handle_incoming` warns that the window is exceeded, sets it to
    0 and goes on buffering: anybody fills the memory of the process."""
    assert (await stock("streams", "window_ignored"))["kept"] == FLOOD


async def test_ours_ends_the_connection() -> None:
    record = Record()

    async def deaf(stream: object) -> None:
        await trio.sleep_forever()

    async with our_host(record=record) as host, mini_peers(2) as [peer, bystander]:
        host.set_stream_handler("/deaf/1", deaf)
        conn, other = await peer.dial(address(host)), await bystander.dial(address(host))
        stream = await conn.open_stream("/deaf/1")
        (link,) = host.links(peer.peer_id)
        await stream.send_all(bytes(WINDOW - 64))  # what the negotiation took has not been given back
        await until(lambda: link.buffered == WINDOW - 64)
        stream.granted(1 << 30)  # granted by nobody
        with trio.fail_after(PATIENCE), pytest.raises(Gone):
            await _flood(stream)
        await until(lambda: not host.links(peer.peer_id))
        assert link.reason == "error"
        with trio.fail_after(PATIENCE):
            assert await other.ping() > 0


async def until_cut(act: Callable[..., Awaitable[object]], *args: object) -> None:
    """What a mini peer does until its connection, or the host, ends."""
    with suppress(Gone):
        await act(*args)


async def test_a_read_that_is_cancelled_loses_no_credit() -> None:
    """While another stream's write holds the turn, for a peer that reads nothing."""
    blocked, read = trio.Event(), 0

    async def shout(stream: Any) -> None:
        blocked.set()
        while True:
            await stream.write(bytes(WINDOW))

    async def hurried(stream: Any) -> None:
        nonlocal read
        while read < 3 * WINDOW:
            with trio.move_on_after(0.01):
                read += len(await stream.read())

    async with our_host() as host, mini_peers(1) as [peer]:
        host.set_stream_handler("/shout/1", shout)
        host.set_stream_handler("/hurried/1", hurried)
        conn = await peer.dial(address(host))
        loud, stream = await conn.open_stream("/shout/1"), await conn.open_stream("/hurried/1")
        await blocked.wait()
        conn.freeze_reading()
        await loud.grant(1 << 26)  # more than sockets hold
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_cut, stream.send_all, bytes(3 * WINDOW))
            nursery.start_soon(until_cut, loud.receive_all)
            await until(lambda: read >= WINDOW - 100)  # what was granted at first, while the turn is taken
            await trio.sleep(0.5)
            conn.thaw()
            await until(lambda: read >= 3 * WINDOW, within=240)
            nursery.cancel_scope.cancel()


async def test_a_ping_is_no_reason_to_read_no_more() -> None:
    """Whoever read waited for its answer, and that for whoever wrote: two sides that did so stood still for ever."""
    read = 0

    async def shout(stream: Any) -> None:
        while True:
            await stream.write(bytes(WINDOW))

    async def listen(stream: Any) -> None:
        nonlocal read
        while True:
            read += len(await stream.read(65536))

    async with our_host() as host, mini_peers(1) as [peer]:
        host.set_stream_handler("/shout/1", shout)
        host.set_stream_handler("/listen/1", listen)
        conn = await peer.dial(address(host))
        loud, stream = await conn.open_stream("/shout/1"), await conn.open_stream("/listen/1")
        conn.freeze_reading()
        await loud.grant(1 << 26)  # more than sockets hold
        await trio.sleep(0.5)
        for number in range(3):
            await conn.inject(struct.pack(">BBHII", 0, 2, 1, 0, number))  # a ping
        await stream.send_all(bytes(100_000))
        await until(lambda: read == 100_000)
        conn.thaw()


async def _flood(stream: Stream) -> None:
    while True:
        await stream.send_all(bytes(WINDOW))
