"""The writing side of a yamux connection: one frame after the other, and control frames along with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from fabstird.p2p.muxer.frame import ACK, HEADER, PING
from fabstird.p2p.security.secured import Secured
from fabstird.p2p.wire.errors import ConnectionLost, StreamReset

MAX_PONGS = 64  # that wait; a peer that does not read its pongs gets no more


class Sending(Protocol):
    """What a writer needs to know of a stream."""

    number: int
    opening: int  # flags of the first frame that we send on it; 0 once it is sent

    @property
    def done(self) -> bool:
        """Nothing more is sent or received on it."""


class Writer:
    """Writes frames. Whoever has data waits for its turn; control frames are queued and go out with the next turn.

    Args:
        conn: The connection below.
        broken: Called when a write was cancelled half-way: the connection is of no use any more.
    """

    __slots__ = ("_broken", "_conn", "_control", "_flushing", "_pongs", "_sending", "bytes_sent", "tasks")

    def __init__(self, conn: Secured, broken: Callable[[], None]) -> None:
        self._conn = conn
        self._broken = broken
        self._sending = trio.Lock()
        self._control = bytearray()  # frames that go out with the next turn
        self._pongs = 0  # of those frames
        self._flushing = False
        self.bytes_sent = 0
        self.tasks: trio.Nursery | None = None  # to flush in; None while nothing is to be queued

    @property
    def waiting(self) -> int:
        """Bytes of control frames that are queued."""
        return len(self._control)

    @property
    def is_free(self) -> bool:
        """Nobody writes or waits to, so that a frame can be sent at once."""
        return self._conn.writes_now and not self._flushing and not self._sending.locked()

    async def send_on(
        self, stream: Sending, kind: int, flags: int, length: int, data: bytes | memoryview = b""
    ) -> None:
        """Write one frame of a stream. Its first frame opens the stream, or acknowledges that the peer has. Raises
        `StreamReset`, `ConnectionLost`."""
        await self.send(kind, flags, stream.number, length, data, stream)

    async def send(
        self,
        kind: int,
        flags: int,
        number: int,
        length: int,
        data: bytes | memoryview = b"",
        stream: Sending | None = None,
    ) -> None:
        """Write one frame, and any further frames that ``data`` has beyond ``length``. Cancelled while it waits for its
        turn, it writes nothing; cancelled half-way, it closes the connection."""
        if self._sending.locked():
            await self._sending.acquire()
        else:
            self._sending.acquire_nowait()  # `acquire` would give up the task's turn, and this runs for each frame
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # from here on Noise counts the message as sent
            if stream is not None:
                if stream.done:
                    raise StreamReset("the stream was reset")
                flags, stream.opening = flags | stream.opening, 0
            await self._write(self._queued() + HEADER.pack(0, kind, flags, number, length) + data)
        finally:
            self._sending.release()

    def queue_on(self, stream: Sending, kind: int, flags: int, length: int, *, now: bool = False) -> None:
        """Queue a frame without data of a stream. Nobody waits for it, so a cancellation cannot lose it."""
        flags, stream.opening = flags | stream.opening, 0
        self.queue(kind, flags, stream.number, length, now=now)

    def queue(self, kind: int, flags: int, number: int, length: int, *, now: bool = False) -> None:
        """Queue a frame without data. ``now``: send all that is queued, unless that needs a wait."""
        if self.tasks is None:
            return
        self._control += HEADER.pack(0, kind, flags, number, length)
        if now:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self.tasks.start_soon(self._flush)

    def pong(self, value: int) -> None:
        """Answer a ping, at the next `flush` or turn."""
        if self._pongs < MAX_PONGS and self.tasks is not None:
            self._pongs += 1
            self._control += HEADER.pack(0, PING, ACK, 0, value)

    def flush(self) -> None:
        """Send what is queued. Where the kernel takes it at once, as it nearly always does, no task is needed."""
        if self.tasks is None or self._flushing or not self._control:
            return
        if not self._sending.locked() and self._conn.writes_now:
            self.bytes_sent += len(self._control)
            try:
                self._conn.write_now(self._queued())
            except ConnectionLost:
                return  # the reader learns of it too
        if self._control or self._conn.owing:
            self._flushing = True
            self.tasks.start_soon(self._flush)

    def _queued(self) -> bytes:
        frames = bytes(self._control)
        self._control.clear()
        self._pongs = 0
        return frames

    async def _flush(self) -> None:
        """Write what is queued, unless a frame with data takes it along first."""
        try:
            while (self._control or self._conn.owing) and self.tasks is not None:
                async with self._sending:
                    await self._write(self._queued())
        except ConnectionLost:
            pass  # the reader learns of it too
        finally:
            self._flushing = False

    async def _write(self, frames: bytes) -> None:
        self.bytes_sent += len(frames)
        try:
            await self._conn.write(frames)
        except trio.Cancelled:
            self._broken()
            await self._conn.close()
            raise
