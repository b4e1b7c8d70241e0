"""One stream of a multiplexed connection, as its reader and writer see it: the bytes received and not read yet, and how
it ended. How bytes are carried is up to the multiplexer: `muxer.stream` for yamux, `quic.stream`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import trio

from fabstird.p2p.budget import Scope
from fabstird.p2p.muxer.frame import MAX_WINDOW, RESOURCE_LIMIT_EXCEEDED
from fabstird.p2p.muxer.pulse import Beat
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.wire.errors import EndOfStream, StreamClosed, StreamReset


class Reading(Protocol):
    """What the reading side of a stream needs of its connection."""

    def call_soon(self, stream: Muxed) -> None:
        """Call the stream's `on_change` once everything received is parsed: one call for many frames."""

    def take(self, size: int) -> bool: ...

    def give(self, size: int) -> None: ...


class Muxed(ABC):
    """One stream. A read returns at least one byte. Closing ends our side; the peer's side can still be read."""

    __slots__ = (
        "_read",
        "_readable",
        "_reading",
        "_writable",
        "call_is_due",
        "discarded",
        "ended_here",
        "ended_there",
        "inbox",
        "lost",
        "max_window",
        "may_grow",
        "no_room",
        "number",
        "on_change",
        "reset_code",
        "reset_seen",
    )

    def __init__(self, reading: Reading, number: int) -> None:
        self._reading = reading
        self.number = number
        self.reset_seen = False
        # why the peer reset it, 0 without a reason; None if the peer did not reset it
        self.reset_code: int | None = None
        self.no_room = False  # reset here, because there is no memory for more unread bytes
        self.lost = False  # the connection ended before the stream did
        self.ended_there = False  # the peer sends no more
        self.ended_here = False  # we send no more
        self.inbox = bytearray()  # received and not read yet
        self.max_window = MAX_WINDOW  # up to which its window may grow
        # called when something was received or has ended; must not raise
        self.on_change: Callable[[], None] | None = None
        self.call_is_due = False  # `on_change` is about to be called
        self.may_grow = False  # whether its window may grow; not before a protocol is negotiated
        self.discarded = False  # whatever still arrives is dropped
        self._read = 0  # bytes read since the peer last got credit
        self._readable: trio.lowlevel.ParkingLot | None = None  # made when somebody waits
        self._writable: trio.lowlevel.ParkingLot | None = None

    @property
    def done(self) -> bool:
        """Nothing more is sent or received on it."""
        return self.reset_seen or self.lost or (self.ended_here and self.ended_there)

    # ----------------------------------------------------------------------------------------------------------------
    # Reading

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes; None for all there are. A cancelled read takes nothing.

        Raises `EndOfStream` after the peer's last byte, `StreamReset` where the stream or its connection was cut.
        """
        if n == 0:
            return b""
        self.release()
        while not self.inbox:
            if self.ended_there and not self.reset_seen:
                raise EndOfStream("the stream has ended")
            if self.reset_seen or self.lost:
                raise StreamReset("the stream was reset")
            if self._readable is None:
                self._readable = trio.lowlevel.ParkingLot()
            await self._readable.park()
        size = len(self.inbox) if n is None else n
        data = bytes(self.inbox[:size])
        self.take_out(len(data))
        return data

    def took(self, size: int) -> None:
        """The first ``size`` bytes of the inbox have been taken."""
        self.take_out(size)
        self.release()

    def take_out(self, size: int) -> None:
        del self.inbox[:size]
        self._read += size
        self._reading.give(size)

    @abstractmethod
    def release(self) -> None:
        """Give the peer credit once half of its window was read; more where that was quick."""

    def discard(self) -> None:
        """Stop reading: drop what was received, and whatever still arrives, which its window bounds."""
        self.discarded = True
        self._drop()

    @property
    def buffered(self) -> int:
        """Bytes received that nobody has read."""
        return len(self.inbox)

    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""
        if data and not self.reset_seen:
            self._reading.give(-len(data))
            self.inbox[:0] = data
            self._read -= len(data)

    # ----------------------------------------------------------------------------------------------------------------
    # Writing

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send all of ``data``, waiting for the peer's window as long as the caller allows. Raises `StreamClosed`,
        `StreamReset`."""

    @abstractmethod
    async def write_last(self, data: bytes) -> None:
        """Send ``data`` and end our side, in one write where it is short."""

    @property
    @abstractmethod
    def writable(self) -> int:
        """Bytes that can be written now without waiting for the peer."""

    async def room(self) -> int:
        """Wait until the peer accepts bytes. Returns how many `write` can send without waiting again, which may be
        several frames. Raises as `write`."""
        while not self.writable or self.reset_seen or self.lost or self.ended_here:
            self.check_open()
            await self.until_writable()
        return self.writable

    def check_open(self) -> None:
        """Raise `StreamReset` or `StreamClosed` where nothing can be written any more."""
        if self.reset_seen or self.lost:
            raise StreamReset("the stream was reset")
        if self.ended_here:
            raise StreamClosed("the stream is closed for writing")

    async def until_writable(self) -> None:
        if self._writable is None:
            self._writable = trio.lowlevel.ParkingLot()
        await self._writable.park()

    @abstractmethod
    async def close_write(self) -> None:
        """End our side. What the peer still sends can be read."""

    async def reset(self, code: int = 0) -> None:
        """Reset the stream in both directions at once. ``code`` (32 bits) may tell the peer why (libp2p specification,
        error codes)."""
        self.cut_off(code)
        await trio.lowlevel.checkpoint_if_cancelled()

    @abstractmethod
    def cut_off(self, code: int = 0) -> None:
        """As `reset`, without waiting: the frame is queued."""

    # ----------------------------------------------------------------------------------------------------------------
    # What the connection tells it

    def received(self, data: bytes | bytearray) -> None:
        if self.reset_seen or self.discarded:
            return
        if not self._reading.take(len(data)):
            self.refuse()
            return
        self.inbox += data
        self.changed()

    def refuse(self) -> None:
        """There is no memory for more unread bytes: reset."""
        self.no_room = True
        self.cut_off(RESOURCE_LIMIT_EXCEEDED)

    def ended(self) -> None:
        self.ended_there = True
        self.changed()

    def cut(self) -> None:
        """It was reset, by the peer or here: drop what nobody has read."""
        self.reset_seen = True
        self._drop()
        self.changed()
        self.wake_writer()

    def lose(self) -> None:
        """The connection has ended. What was received before can still be read."""
        self.lost = True
        self.changed()
        self.wake_writer()

    def _drop(self) -> None:
        self._reading.give(len(self.inbox))
        self.inbox.clear()

    def wake_writer(self) -> None:
        if self._writable is not None:
            self._writable.unpark_all()

    def changed(self) -> None:
        if self._readable is not None:
            self._readable.unpark_all()
        if self.on_change is not None and not self.call_is_due:
            self.call_is_due = True
            self._reading.call_soon(self)


class Changes:
    """Streams of one connection whose `on_change` is due: one call for all that was received on each."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[Muxed] = []

    def add(self, stream: Muxed) -> None:
        self._due.append(stream)

    def tell(self) -> None:
        while self._due:
            due, self._due = self._due, []
            for stream in due:
                stream.call_is_due = False
                if stream.on_change is not None:
                    stream.on_change()


class Muxing(Protocol):
    """The streams of one connection. ``name`` is the protocol; ``goodbye`` the seconds that `say_goodbye` and what
    follows may take; ``finished`` is set when nothing more is read."""

    name: str
    goodbye: float
    finished: trio.Event
    bytes_received: int

    async def run(self, serve: Callable[[Muxed], object]) -> None:
        """Run until the connection ends, and call ``serve`` with each stream that the peer opens. Returns where the
        peer closed the connection properly."""

    async def say_goodbye(self) -> None:
        """Tell the peer that we close. The caller sets the deadline."""

    def leave(self) -> bool:
        """As `say_goodbye`, and end our side of the connection, without waiting. False where this would need a wait."""

    def open_stream(self) -> Muxed:
        """A new stream, which its first bytes announce to the peer. Raises `ConnectionLost`."""

    def handled(self, muxed: Muxed) -> None:
        """The handler of a stream that the peer opened is done with it."""

    def check(self) -> None:
        """Ping the peer now, not at the next turn."""

    def rtt(self) -> float:
        """The smoothed round trip in seconds; 0 until one is known."""

    @property
    def bytes_sent(self) -> int:
        """On the connection, the muxer's own bytes included."""

    @property
    def buffered(self) -> int:
        """Bytes received that nobody has read yet."""


class CapableConn(Pipe):
    """A connection with its own security and streams (QUIC), so it is `Secured` and `Muxing` as well."""

    protocol: str
    name: str
    goodbye: float
    peer_id: str
    key_type: str
    finished: trio.Event
    bytes_received: int
    bytes_sent: int

    @abstractmethod
    async def upgrade(self, expected: str | None, beat: Beat, memory: Scope) -> None:
        """Shake hands with ``expected``, or with any peer. The caller sets the deadline. Raises `WrongPeer`,
        `HandshakeFailed`, `ConnectionLost`, `PeerError`."""

    @abstractmethod
    async def run(self, serve: Callable[[Muxed], object]) -> None: ...

    @abstractmethod
    async def say_goodbye(self) -> None: ...

    @abstractmethod
    def leave(self) -> bool: ...

    @abstractmethod
    def open_stream(self) -> Muxed: ...

    @abstractmethod
    def handled(self, muxed: Muxed) -> None: ...

    @abstractmethod
    def check(self) -> None: ...

    @abstractmethod
    def rtt(self) -> float: ...

    @property
    @abstractmethod
    def buffered(self) -> int: ...
