"""One stream of yamux: its windows and its frames."""

from __future__ import annotations

from typing import Protocol

import trio

from fabstird.p2p.muxer.frame import (
    CHUNK,
    DATA,
    FIN,
    HEADER,
    INITIAL_WINDOW,
    RST,
    SYN,
    WINDOW_UPDATE,
)
from fabstird.p2p.muxer.muxed import Muxed, Reading
from fabstird.p2p.muxer.writer import Writer


class Growing(Reading, Protocol):
    """What a stream needs of its muxer."""

    def rtt(self) -> float: ...

    def grow(self, wanted: int) -> int: ...

    def settle(self, stream: Stream) -> None: ...


class Stream(Muxed):
    """One stream of yamux."""

    __slots__ = ("_muxer", "_send_window", "_updated", "_window", "_writer", "opening", "receive_window")

    def __init__(self, muxer: Growing, writer: Writer, number: int, opening: int) -> None:
        super().__init__(muxer, number)
        self._muxer = muxer
        self._writer = writer
        self.opening = opening  # SYN or ACK, for the first frame that we send
        self.receive_window = INITIAL_WINDOW  # bytes that the peer may still send
        self._window = INITIAL_WINDOW  # bytes that the peer may send before we read
        self._updated = trio.current_time()
        self._send_window = INITIAL_WINDOW

    @property
    def extra_window(self) -> int:
        """By how much its window has grown."""
        return self._window - INITIAL_WINDOW

    def release(self) -> None:
        """Give the peer credit once half of its window was read; more where that was quick. The frame is queued, not
        awaited: a cancelled read loses no credit, and no read needs a turn at writing."""
        if self._read < self._window // 2 or self.ended_there or self.reset_seen or self.lost:
            return
        now = trio.current_time()
        quick = self.may_grow and now - self._updated < 4 * self._muxer.rtt()
        grown = self._muxer.grow(self._window) if quick and self._window < self.max_window else 0
        credit, self._read, self._updated = self._read + grown, 0, now
        self._window += grown
        self.receive_window += credit
        self._writer.queue_on(self, WINDOW_UPDATE, 0, credit)

    async def write_last(self, data: bytes) -> None:
        """Send ``data`` and end our side, in one write where it is short. The end is a separate frame: js-libp2p's
        yamux drops the data of a frame that also ends the stream."""
        if self.ended_here or self.done or len(data) > min(self._send_window, CHUNK - HEADER.size):
            await self.write(data)
            await self.close_write()
            return
        end = HEADER.pack(0, WINDOW_UPDATE, FIN, self.number, 0)
        await self._send(data, end)
        self.ended_here = True
        self._muxer.settle(self)

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, waiting for the peer's window as long as the caller allows. Raises `StreamClosed`,
        `StreamReset`."""
        view = memoryview(data)
        while view:
            self.check_open()
            if not self._send_window:
                await self.until_writable()
                continue
            part = view[: min(self._send_window, CHUNK)]
            view = view[len(part) :]
            await self._send(part)

    async def _send(self, part: bytes | memoryview, end: bytes = b"") -> None:
        """Send one frame of data, and the frames in ``end``. Cancelled before its turn, it leaves the window as it
        was."""
        self._send_window -= len(part)
        try:
            await self._writer.send_on(self, DATA, 0, len(part), bytes(part) + end if end else part)
        except trio.Cancelled:
            self._send_window += len(part)
            raise

    async def room(self) -> int:
        """As `Muxed.room`, bounded by the initial window."""
        return min(await super().room(), INITIAL_WINDOW)

    async def close_write(self) -> None:
        """End our side. What the peer still sends can be read."""
        if self.ended_here or self.done:
            return
        self.ended_here = True
        self.wake_writer()
        self._writer.queue_on(self, WINDOW_UPDATE, FIN, 0, now=True)
        self._muxer.settle(self)
        await trio.lowlevel.checkpoint_if_cancelled()

    def cut_off(self, code: int = 0) -> None:
        """As `reset`, without waiting: the frame is queued."""
        if self.done:
            return
        self.cut()
        self._muxer.settle(self)
        if self.opening != SYN:  # otherwise the peer does not know the stream
            self._writer.queue_on(self, WINDOW_UPDATE, RST, code)

    @property
    def writable(self) -> int:
        """Bytes that can be written now without waiting for the peer."""
        return self._send_window

    def granted(self, credit: int) -> None:
        """The peer accepts ``credit`` more bytes."""
        self._send_window += credit
        self.wake_writer()
