"""``/perf/1.0.0`` (libp2p specification, perf), which measures the throughput between two nodes: a peer says how many
bytes it wants, sends as many as it likes, ends its side, and receives the bytes. It gives bandwidth away, so it is off
by default."""

from __future__ import annotations

import struct

import trio

from fabstird.p2p.net.link import Link
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.streams.handlers import Handler
from fabstird.p2p.streams.owner import Part
from fabstird.p2p.streams.peer_stream import give_up
from fabstird.p2p.streams.places import Places, holder
from fabstird.p2p.wire.errors import EndOfStream, PeerError

PERF = "/perf/1.0.0"
AT_A_TIME = 8  # measurements under way, over all peers
SILENCE = 30.0  # seconds without a byte after which a measurement is given up
BLOCK = bytes(64 * 1024)

_SIZE = struct.Struct("!Q")


class PerfHandler(Handler):
    def __init__(self) -> None:
        super().__init__(PERF, Part(), shared=False)
        self._under_way: Places[Stream] = Places(AT_A_TIME, give_up)

    def has_room(self, link: Link) -> bool:
        return self._under_way.has_room(holder(link))

    def end(self) -> None:
        """Stop; measurements under way continue."""

    async def serve(self, stream: Stream) -> None:
        self._under_way.take(stream, holder(stream.link))
        try:
            await _answer(stream)
        finally:
            self._under_way.leave(stream)


async def _answer(stream: Stream) -> None:
    """Serve one measurement. Raises `NetworkError`, `trio.TooSlowError`."""
    head = b""
    while True:
        with trio.fail_after(SILENCE):
            try:
                data = await stream.read()
            except EndOfStream:
                break
        if len(head) < _SIZE.size:
            head += data[: _SIZE.size - len(head)]
    if len(head) < _SIZE.size:
        raise PeerError("the stream ended before the number of bytes wanted")
    (left,) = _SIZE.unpack(head)
    while left:
        with trio.fail_after(SILENCE):
            await stream.write(BLOCK[:left] if left < len(BLOCK) else BLOCK)
        left -= min(left, len(BLOCK))
    await stream.close_write()
