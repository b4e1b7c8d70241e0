"""``/perf/1.0.0`` (libp2p specification, perf), by which nodes measure each other: a peer says how much it wants, sends
what it likes, ends its side, and gets what it wanted. It gives bandwidth away, so users switch it on."""

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
AT_A_TIME = 8  # measurements, of all peers together, who share them
SILENCE = 30.0  # seconds without a byte, after which one is given up
BLOCK = bytes(64 * 1024)

_SIZE = struct.Struct("!Q")


class PerfHandler(Handler):
    def __init__(self) -> None:
        super().__init__(PERF, Part(), shared=False)
        self._under_way: Places[Stream] = Places(AT_A_TIME, give_up)

    def has_room(self, link: Link) -> bool:
        return self._under_way.has_room(holder(link))

    def end(self) -> None:
        """Measurements that are under way go on."""

    async def serve(self, stream: Stream) -> None:
        self._under_way.take(stream, holder(stream.link))
        try:
            await _answer(stream)
        finally:
            self._under_way.leave(stream)


async def _answer(stream: Stream) -> None:
    """Raises `NetworkError` and `trio.TooSlowError`."""
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
        raise PeerError("it does not say how many bytes it wants")
    (left,) = _SIZE.unpack(head)
    while left:
        with trio.fail_after(SILENCE):
            await stream.write(BLOCK[:left] if left < len(BLOCK) else BLOCK)
        left -= min(left, len(BLOCK))
    await stream.close_write()
