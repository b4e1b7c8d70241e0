"""Yamux (hashicorp/yamux, spec.md; libp2p specification, yamux): the streams of one connection.

It is our own because that of libp2p 0.8.1 does not enforce windows, so any peer could fill the memory (ADR 1).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.budget import Scope
from fabstird.p2p.muxer.frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    MAX_WINDOW,
    NO_ERROR,
    NORMAL,
    PING,
    PROTOCOL_ERROR,
    RESOURCE_LIMIT_EXCEEDED,
    RST,
    SYN,
    WINDOW_UPDATE,
)
from fabstird.p2p.muxer.muxed import Changes, Muxed
from fabstird.p2p.muxer.pulse import Beat, Pulse
from fabstird.p2p.muxer.stream import Stream
from fabstird.p2p.muxer.writer import Writer
from fabstird.p2p.security.secured import Secured
from fabstird.p2p.wire import multistream
from fabstird.p2p.wire.errors import ConnectionLost, PeerError
from fabstird.turn import Turn

log = get_logger("p2p.yamux")

YAMUX = "/yamux/1.0.0"

MAX_STREAMS = 256  # that a peer may have open on one connection, those still being handled included
OPENED, AT_ONCE = 2000.0, 256.0  # streams that a peer may open on one connection, a second and at once
MAX_CONTROL = 64 * 1024  # bytes of queued control frames for a peer that does not read
TURN = 256  # frames of all connections handled in a turn of the loop
OPENING = 8  # a frame that opens a stream counts as this many
LINGER = 10.0  # seconds that a peer has to end its side of a stream after the handler has ended
LAST_WORDS = 1.0  # seconds to finish what is under way when the peer says goodbye
GROWTH = 8 * 1024 * 1024  # bytes by which all windows of one connection may grow; less than it may keep unread


class ProtocolViolation(PeerError):
    """The peer violates the yamux protocol; its connection is closed."""


class Muxer:
    """The streams of one connection. `run` serves it; its owner closes the connection below when `run` returns."""

    name = YAMUX
    goodbye = 0.25  # what was written is the kernel's, which goes on sending it

    __slots__ = (
        "_came",
        "_changes",
        "_closed",
        "_conn",
        "_failure",
        "_finished",
        "_grown",
        "_handled",
        "_inbound",
        "_initiator",
        "_memory",
        "_next",
        "_opened",
        "_opened_at",
        "_parting",
        "_pulse",
        "_serve",
        "_streams",
        "_tasks",
        "_turn",
        "_writer",
        "bytes_received",
        "finished",
    )

    def __init__(self, conn: Secured, beat: Beat, memory: Scope, turn: Turn, came: bytes = b"") -> None:
        self._conn = conn
        self._turn = turn
        self._memory = memory
        self.finished = trio.Event()  # nothing more is read
        self._came = bytearray(came)  # frames that arrived with the negotiation of yamux
        self._initiator = conn.is_initiator
        self._next = 1 if self._initiator else 2
        self._streams: dict[int, Stream] = {}
        self._serve: Callable[[Muxed], object] | None = None
        self._inbound = 0  # streams that the peer has opened
        self._handled = 0  # of these, with a handler still running
        self._finished: dict[int, float] = {}  # streams whose handler has ended, and when the peer must have ended them
        self._opened, self._opened_at = AT_ONCE, 0.0  # streams that the peer may open now, and since when
        self._closed = False
        self._parting = False  # the peer has said goodbye
        self._writer = Writer(conn, self._shut)
        self._tasks: trio.Nursery | None = None
        self._failure: Exception | None = None  # the error that ends it
        self._grown = 0
        self._pulse = Pulse(self, conn, beat)
        self._changes = Changes()
        self.bytes_received = 0

    @property
    def bytes_sent(self) -> int:
        """On the connection, frames' headers included."""
        return self._writer.bytes_sent

    # ----------------------------------------------------------------------------------------------------------------
    # Its life

    async def run(self, serve: Callable[[Muxed], object]) -> None:
        """Read frames until the connection ends, and call ``serve`` with each stream that the peer opens. Returns where
        the peer closed it properly.

        Raises `ProtocolViolation`, `Silence`, or what the connection below raises.
        """
        self._serve = serve
        try:
            async with trio.open_nursery() as nursery:
                self._tasks = self._writer.tasks = nursery
                self._pulse.begin()
                try:
                    await self._read()
                except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
                    self._failure = self._failure or error
                finally:  # also where its owner cancels it
                    self._pulse.end()
                    self._changes.tell()
                    self._shut()
                nursery.cancel_scope.cancel()
        finally:
            self._tasks = self._writer.tasks = None
            self.finished.set()
        if self._failure is not None:
            raise self._failure

    async def say_goodbye(self) -> None:
        """Tell the peer that we close; what it still sends is read. The caller sets the deadline."""
        try:
            await self._writer.send(GO_AWAY, 0, 0, NORMAL)
        except ConnectionLost as error:
            log.debug("no goodbye", error=str(error))

    def leave(self) -> bool:
        """As `say_goodbye`, and end our side of the connection, without waiting. False where this would need a wait."""
        if self._closed or self._tasks is None or not self._writer.is_free:
            return False
        self._writer.queue(GO_AWAY, 0, 0, NORMAL, now=True)
        self._writer.tasks = None
        self._conn.finish_now()
        return True

    def open_stream(self) -> Stream:
        """A new stream, which its first frame announces to the peer. Raises `ConnectionLost`."""
        if self._closed or self._parting:
            raise ConnectionLost("the connection is closed")
        number, self._next = self._next, self._next + 2
        stream = self._streams[number] = Stream(self, self._writer, number, SYN)
        return stream

    def rtt(self) -> float:
        """The smoothed round trip in seconds; 0 until one is known."""
        return self._pulse.rtt

    def check(self) -> None:
        """Ping the peer now, not at the next turn."""
        self._pulse.hurry()

    # What `Pulse` calls

    def ask_for_life(self, number: int) -> None:
        """Send a ping."""
        self._writer.queue(PING, SYN, 0, number, now=True)

    def each_turn(self) -> None:
        """Reset streams that the peer should have ended by now."""
        if not self._finished:
            return
        now = trio.current_time()
        for number in [number for number, until in self._finished.items() if until <= now]:
            if (stream := self._streams.get(number)) is not None:
                stream.cut_off()
            self._finished.pop(number, None)

    def fail(self, error: Exception) -> None:
        """End the connection: `run` raises ``error``."""
        if self._failure is None:
            self._failure = error
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # ----------------------------------------------------------------------------------------------------------------
    # Frames

    async def _read(self) -> None:
        buffer = self._came
        while not (self._parting and not self._streams):
            while len(buffer) < HEADER.size:
                buffer += await self._receive()
            if self._turn.spend():
                await trio.lowlevel.checkpoint()
            if self._writer.waiting > MAX_CONTROL:
                await self._refuse("the peer does not read what it asks for")
            version, kind, flags, number, length = HEADER.unpack_from(buffer)
            del buffer[: HEADER.size]
            if version != 0 or kind > GO_AWAY:
                await self._refuse(f"a frame of version {version} and type {kind}")
            if kind == GO_AWAY:
                self._parting = True
                assert self._tasks is not None
                self._tasks.cancel_scope.deadline = trio.current_time() + LAST_WORDS
                continue
            if kind == PING:
                self._on_ping(flags, length)
                continue
            stream = await self._stream(flags, number)
            if kind == DATA:
                if length > (stream.receive_window if stream else MAX_WINDOW):
                    await self._refuse(f"stream {number} was sent more than its window")
                await self._body(buffer, stream, length)
            elif stream is not None and not flags & RST:
                stream.granted(length)
            if stream is not None:
                if flags & FIN:
                    stream.ended()
                if flags & RST:
                    stream.reset_code = length if kind == WINDOW_UPDATE else NO_ERROR
                    stream.cut()
                self.settle(stream)

    async def _receive(self) -> bytes:
        self._changes.tell()
        self._writer.flush()
        data = await self._conn.read()
        self._pulse.heard = trio.current_time()
        self.bytes_received += len(data)
        return data

    def call_soon(self, stream: Muxed) -> None:
        """Call the stream's `on_change` once everything received is parsed: one call for many frames."""
        self._changes.add(stream)
        if self._closed:
            self._changes.tell()

    async def _body(self, buffer: bytearray, stream: Stream | None, length: int) -> None:
        """Pass a frame's data on as it arrives; data for a closed stream is dropped."""
        if stream is not None:
            stream.receive_window -= length
        while length:
            if not buffer:
                buffer += await self._receive()
            part = bytes(buffer[:length])
            del buffer[:length]
            length -= len(part)
            if stream is not None:
                stream.received(part)

    async def _stream(self, flags: int, number: int) -> Stream | None:
        """The stream of a frame, opened by it or earlier; None for one that is closed or refused."""
        if not flags & SYN:
            return self._streams.get(number)
        if number in self._streams or number % 2 == self._next % 2 or number == 0:
            await self._refuse(f"stream {number} cannot be opened by the peer")
        await self._pace()
        if self._inbound >= MAX_STREAMS:
            self._forget_half_closed()
        if max(self._inbound, self._handled) >= MAX_STREAMS:
            self._writer.queue(WINDOW_UPDATE, RST, number, RESOURCE_LIMIT_EXCEEDED)
            return None
        stream = self._streams[number] = Stream(self, self._writer, number, ACK)
        self._inbound += 1
        self._handled += 1
        assert self._serve is not None  # frames are read by `run` alone
        self._serve(stream)
        self._turn.spend(OPENING - 1)
        return stream

    async def _pace(self) -> None:
        """Slow down a peer that opens more than `OPENED` streams a second: a stream costs it next to nothing, and us
        much."""
        now = trio.current_time()
        self._opened = min(AT_ONCE, self._opened + (now - self._opened_at) * OPENED) - 1
        self._opened_at = now
        if self._opened < 0:
            self._changes.tell()
            self._writer.flush()
            await trio.sleep_until(now - self._opened / OPENED)

    def handled(self, stream: Muxed) -> None:
        """The handler of a stream that the peer opened is done with it. Unread bytes are dropped. A stream that neither
        side has ended is reset; one that only the peer has yet to end gets `LINGER`."""
        self._handled -= 1
        if stream.done:
            return
        stream.discard()
        if stream.ended_here:
            self._finished[stream.number] = trio.current_time() + LINGER
        else:
            stream.cut_off()

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self._writer.pong(value)
        elif flags & ACK:
            self._pulse.answered(value)

    async def _refuse(self, what: str) -> None:
        with trio.move_on_after(1):
            await self._writer.send(GO_AWAY, 0, 0, PROTOCOL_ERROR)
        raise ProtocolViolation(what)

    # ----------------------------------------------------------------------------------------------------------------
    # Accounts

    @property
    def buffered(self) -> int:
        """Bytes received that nobody has read yet."""
        return sum(stream.buffered for stream in self._streams.values())

    def take(self, size: int) -> bool:
        """Reserve memory for received bytes; False where there is none."""
        return self._memory.take(size)

    def give(self, size: int) -> None:
        """Return memory of bytes that were read or dropped."""
        self._memory.give(size)

    def grow(self, wanted: int) -> int:
        """How much of ``wanted`` a window may grow by. All windows of a connection share a bound."""
        allowed = min(wanted, GROWTH - self._grown)
        self._grown += allowed
        return allowed

    def settle(self, stream: Stream) -> None:
        """Remove a stream that is done."""
        if stream.done and self._streams.pop(stream.number, None) is not None:
            self._grown -= stream.extra_window
            self._finished.pop(stream.number, None)
            self._inbound -= stream.number % 2 != self._next % 2
            if self._parting and not self._streams and self._tasks is not None:
                self._tasks.cancel_scope.cancel()

    def _forget_half_closed(self) -> None:
        """Reset streams that we have ended and the peer has not, when the table is full."""
        for stream in [stream for stream in self._streams.values() if stream.ended_here]:
            stream.cut_off()

    def _shut(self) -> None:
        """Send and receive nothing from now on, and wake whoever waits."""
        self._closed = True
        self._writer.tasks = None
        for stream in list(self._streams.values()):
            stream.lose()
        self._streams.clear()


async def upgrade(secured: Secured, beat: Beat, memory: Scope, turn: Turn) -> Muxer:
    """Negotiate yamux on a secured connection. ``turn`` is shared by all connections. Raises `NegotiationError`,
    `ConnectionLost`."""
    if secured.is_initiator:
        rest = await multistream.ask(secured.read, secured.write, YAMUX)
    else:
        _, rest = await multistream.answer(secured.read, secured.write, (YAMUX,))
    return Muxer(secured, beat, memory, turn, rest)
