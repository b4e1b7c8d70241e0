"""One stream of a QUIC connection: its window follows its reader, and a write waits until the peer takes it."""

from __future__ import annotations

from typing import Protocol

import trio
from aioquic.quic.stream import QuicStream

from fabstird.p2p.muxer.frame import INITIAL_WINDOW
from fabstird.p2p.muxer.muxed import Muxed, Reading
from fabstird.p2p.quic import halves
from fabstird.p2p.wire.errors import StreamReset

SEND_BUFFER = 512 * 1024  # bytes of one stream that the peer has not acknowledged


class Carrier(Reading, Protocol):
    """What a stream needs of the connection that it belongs to."""

    def rtt(self) -> float: ...

    def grow(self, wanted: int) -> int: ...

    def settle(self, stream: Stream) -> None: ...

    def spare(self) -> int:
        """Bytes that may be written now, on all its streams together."""

    def waits(self, stream: Stream) -> None:
        """Wake it when the peer has taken something."""

    def send_soon(self) -> None:
        """There is something to send."""


class Stream(Muxed):
    """``half`` is the engine's stream. Of what has come in order, what nobody has read is the inbox; ``held`` counts
    also what has come out of order, and the gaps before it."""

    __slots__ = ("_carrier", "_offset", "_updated", "_window", "half", "held", "stopped")

    def __init__(self, carrier: Carrier, half: QuicStream, number: int) -> None:
        super().__init__(carrier, number)
        self._carrier = carrier
        self.half = half
        self.held = 0
        self.stopped = False  # the peer takes no more
        self._offset = 0  # bytes read
        self._window = INITIAL_WINDOW  # what the peer may send at most before we read
        self._updated = trio.current_time()

    @property
    def extra_window(self) -> int:
        """By how much its window has grown."""
        return self._window - INITIAL_WINDOW

    # ----------------------------------------------------------------------------------------------------------------
    # Reading

    def take_out(self, size: int) -> None:
        self._offset += size
        self.held -= size
        super().take_out(size)

    def unread(self, data: bytes) -> None:
        if data and not self.reset_seen:
            self._offset -= len(data)
            self.held += len(data)
        super().unread(data)

    def release(self) -> None:
        """Tell the peer that it may send more, once half of its window has been read; twice as much where that was
        quick."""
        if self._read < self._window // 2 or self.ended_there or self.reset_seen or self.lost or self.discarded:
            return
        now = trio.current_time()
        quick = self.may_grow and now - self._updated < 4 * self._carrier.rtt()
        grown = self._carrier.grow(self._window) if quick and self._window < self.max_window else 0
        self._window += grown
        self._read, self._updated = 0, now
        self.half.max_stream_data_local = max(self.half.max_stream_data_local, self._offset + self._window)
        self._carrier.send_soon()

    def discard(self) -> None:
        super().discard()
        self.ended_there = self.ended_there or not halves.receives(self.half)

    def _drop(self) -> None:
        halves.drop(self.half)
        self._carrier.give(self.held)
        self.held = 0
        self.inbox.clear()

    def grown(self, size: int) -> None:
        """So much more has come, or will with what lies before it."""
        if self.reset_seen or self.discarded:
            return
        if not self._carrier.take(size):
            self.refuse()
            return
        self.held += size

    def received(self, data: bytes | bytearray) -> None:
        """What follows on what had come before, and was counted by `grown`."""
        if not (self.reset_seen or self.discarded):
            self.inbox += data
            self.changed()

    # ----------------------------------------------------------------------------------------------------------------
    # Writing

    @property
    def writable(self) -> int:
        """Bytes that the peer takes now: a write of no more does not wait for it."""
        if not halves.writes(self.half):
            return 0
        return max(0, min(halves.allowed(self.half), SEND_BUFFER - halves.owed(self.half), self._carrier.spare()))

    def check_open(self) -> None:
        if self.stopped and not self.done:
            raise StreamReset("the peer reads no more of the stream")
        super().check_open()

    async def room(self) -> int:
        """As `Muxed.room`; no more than the peer takes in one go."""
        return min(await super().room(), INITIAL_WINDOW)

    async def until_writable(self) -> None:
        self._carrier.waits(self)
        await super().until_writable()

    async def write(self, data: bytes) -> None:
        """Send all of it, waiting for the peer's window as long as the caller lets it. Raises `StreamClosed`,
        `StreamReset`."""
        view = memoryview(data)
        await trio.lowlevel.checkpoint_if_cancelled()
        while view:
            self.check_open()
            room = self.writable
            if not room:
                await self.until_writable()
                continue
            part, view = view[:room], view[room:]
            halves.write(self.half, bytes(part))
            self._carrier.send_soon()
            if view:
                await trio.lowlevel.checkpoint()

    async def write_last(self, data: bytes) -> None:
        """Send it and end our side, in one datagram where it is short."""
        if self.ended_here or self.done or self.stopped or len(data) > self.writable:
            await self.write(data)
            await self.close_write()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ended_here = True
        halves.write(self.half, data, last=True)
        self._carrier.send_soon()
        self._carrier.settle(self)

    async def close_write(self) -> None:
        """End our side. What the peer still sends can be read."""
        if self.ended_here or self.done:
            return
        self.ended_here = True
        self.wake_writer()
        if halves.writes(self.half):
            halves.write(self.half, b"", last=True)
        self._carrier.send_soon()
        self._carrier.settle(self)
        await trio.lowlevel.checkpoint_if_cancelled()

    def cut_off(self, code: int = 0) -> None:
        """As `reset`; the peer is told when there is a turn."""
        if self.done:
            return
        halves.stop(self.half, code)
        halves.forget(self.half)
        self.cut()
        self._carrier.settle(self)
        self._carrier.send_soon()

    # ----------------------------------------------------------------------------------------------------------------
    # What the connection tells it

    def cut_by_peer(self, code: int) -> None:
        """The peer has reset its half: libp2p has no other reset than that of both."""
        self.reset_code = code
        halves.stop(self.half, code)
        halves.forget(self.half)
        self.cut()
        self._carrier.settle(self)

    def stopped_by_peer(self, code: int) -> None:
        """The peer reads no more. What it still sends can be read."""
        self.stopped = self.ended_here = True
        halves.forget(self.half)
        self.wake_writer()
        self._carrier.settle(self)

    def took_some(self) -> None:
        """The peer has acknowledged something, or widened its window."""
        if self.writable:
            self.wake_writer()
        else:
            self._carrier.waits(self)
