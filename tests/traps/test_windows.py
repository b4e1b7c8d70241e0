"""A peer that sends past its window. The first test shows what stock py-libp2p 0.8.1 does, the second ours."""

import pytest
import trio

from tests.support.minipeer import StreamReset, mini_peers
from tests.support.waiting import until
from tests.support.yamux import Stream

from .ours import Record, address, our_host
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
        await until(lambda: link.muxed_conn.buffered == WINDOW - 64)
        stream.granted(1 << 30)  # granted by nobody
        with trio.fail_after(5), pytest.raises((StreamReset, trio.BrokenResourceError, trio.ClosedResourceError)):
            await _flood(stream)
        await until(lambda: not host.links(peer.peer_id))
        assert link.reason == "error"
        with trio.fail_after(5):
            assert await other.ping() > 0


async def _flood(stream: Stream) -> None:
    while True:
        await stream.send_all(bytes(WINDOW))
