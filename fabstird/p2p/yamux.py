"""Yamux, as the specification has it (hashicorp/yamux spec.md, libp2p specification yamux), in place of libp2p 0.8.1's.

That one does not enforce windows, so anybody fills the memory of the process; grants up to 16 MiB a stream after a few
small reads; gives up a write after five seconds without window; leaves half a frame on the wire when a write is
cancelled; sleeps 0.1 s at each close; and takes the machine's uptime for a round trip (ADR 8).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

from fabstird.log import get_logger
from fabstird.p2p import multistream

log = get_logger("p2p.yamux")

YAMUX = TProtocol("/yamux/1.0.0")

_HEADER = struct.Struct(">BBHII")  # version, type, flags, stream id, length
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_NORMAL, _PROTOCOL_ERROR = 0, 1

INITIAL_WINDOW = 256 * 1024  # bytes; fixed by the specification
MAX_WINDOW = 4 * 1024 * 1024  # to which a stream's window grows while it is read quickly
GROWTH = 16 * 1024 * 1024  # by which the windows of one connection may grow together
CHUNK = 64 * 1024 - _HEADER.size - 16  # bytes of data in a frame: one Noise message
MAX_STREAMS = 256  # that a peer may have open on one connection

LATE = 0.5  # seconds by which a deadline may pass unnoticed on a busy machine
FIRST_PING = 0.5  # seconds after the connection came up


@dataclass(frozen=True, slots=True)
class Liveness:
    """How often a connection is asked for a sign of life, and how long it may be silent then; seconds."""

    interval: float = 15.0
    timeout: float = 10.0


class ProtocolViolation(Exception):
    """The peer does what yamux does not allow; the connection is ended."""


class Silence(Exception):
    """Nothing was heard of the peer for as long as it may be silent."""


class Stream(IMuxedStream):
    """One stream. Reading gives what is there, at least a byte. Closing ends our side; the peer's stays readable."""

    def __init__(self, muxer: Muxer, number: int, opening: int) -> None:
        self.muxed_conn: Muxer = muxer
        self.number = number
        self.opening = opening  # SYN or ACK, for the first frame that we send on it
        self.reset_seen = False
        self.ended_there = False  # the peer sends no more
        self.ended_here = False  # we send no more
        self.inbox = bytearray()
        self.receive_window = INITIAL_WINDOW  # what the peer may still send
        self._window = INITIAL_WINDOW  # what it may send at most before we read
        self._read = 0  # bytes read since the last update
        self._updated = trio.current_time()
        self._send_window = INITIAL_WINDOW
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    @property
    def extra_window(self) -> int:
        """By how much its window has grown."""
        return self._window - INITIAL_WINDOW

    @property
    def done(self) -> bool:
        """Nothing comes or goes on it any more."""
        return self.reset_seen or (self.ended_here and self.ended_there)

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes; None and -1 stand for whatever is there. A read that is cancelled has taken nothing.

        Raises `MuxedStreamEOF` after the peer's last byte, `MuxedStreamReset` where stream or connection has been cut.
        """
        if n == 0:
            return b""
        await self._release()
        while not self.inbox:
            if self.reset_seen:
                raise MuxedStreamReset("the stream was reset")
            if self.ended_there:
                raise MuxedStreamEOF("the stream has ended")
            await self._readable.park()
        size = len(self.inbox) if n is None or n < 0 else n
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        self._read += len(data)
        return data

    async def _release(self) -> None:
        """Give the peer its window back once half of it has been read; a bigger one where that was quick."""
        if self._read < self._window // 2 or self.ended_there or self.reset_seen:
            return
        now = trio.current_time()
        quick = now - self._updated < 4 * self.muxed_conn.rtt()
        grown = self.muxed_conn.grow(self._window) if quick and self._window < MAX_WINDOW else 0
        credit, self._read, self._updated = self._read + grown, 0, now
        self._window += grown
        self.receive_window += credit
        await self.muxed_conn.send_on(self, _WINDOW_UPDATE, 0, credit)

    async def write_last(self, data: bytes) -> None:
        """Send it and end our side; in one write where it is short. The end is a frame of its own: js-libp2p's yamux
        drops the data of a frame that also ends the stream."""
        if self.ended_here or self.reset_seen or len(data) > min(self._send_window, CHUNK - _HEADER.size):
            await self.write(data)
            await self.close()
            return
        self.ended_here = True
        self._send_window -= len(data)
        end = _HEADER.pack(0, _WINDOW_UPDATE, _FIN, self.number, 0)
        await self.muxed_conn.send_on(self, _DATA, 0, len(data), data + end)
        self.muxed_conn.settle(self)

    async def write(self, data: bytes) -> None:
        """Send all of it, waiting for the peer's window as long as the caller lets it. Raises `MuxedStreamClosed`,
        `MuxedStreamReset`."""
        view = memoryview(data)
        while view:
            if self.reset_seen:
                raise MuxedStreamReset("the stream was reset")
            if self.ended_here:
                raise MuxedStreamClosed("the stream is closed for writing")
            if not self._send_window:
                await self._writable.park()
                continue
            part = view[: min(self._send_window, CHUNK)]
            view = view[len(part) :]
            self._send_window -= len(part)
            await self.muxed_conn.send_on(self, _DATA, 0, len(part), part)

    async def close(self) -> None:
        """End our side. What the peer still sends can be read."""
        if self.ended_here or self.reset_seen:
            return
        self.ended_here = True
        self._writable.unpark_all()
        await self.muxed_conn.send_on(self, _WINDOW_UPDATE, _FIN, 0)
        self.muxed_conn.settle(self)

    async def reset(self) -> None:
        """Cut the stream, both ways, at once."""
        if self.done:
            return
        self.cut()
        self.muxed_conn.settle(self)
        if self.opening != _SYN:  # else the peer does not know of it
            await self.muxed_conn.send_on(self, _WINDOW_UPDATE, _RST, 0)

    def unread(self, data: bytes) -> None:
        """Give back what was read too far."""
        self.inbox[:0] = data
        self._read -= len(data)

    def set_deadline(self, ttl: int) -> None:
        """Does nothing: callers use trio's cancel scopes."""

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxed_conn.secured_conn.get_remote_address()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await (self.reset() if error else self.close())

    # What the muxer tells it

    def received(self, data: bytes | bytearray) -> None:
        if not self.reset_seen:
            self.inbox += data
            self._readable.unpark_all()

    def granted(self, credit: int) -> None:
        self._send_window += credit
        self._writable.unpark_all()

    def ended(self) -> None:
        self.ended_there = True
        self._readable.unpark_all()

    def cut(self) -> None:
        """Reset, by the peer, by us, or because the connection is gone: what nobody has read is dropped."""
        self.reset_seen = True
        self.inbox.clear()
        self._readable.unpark_all()
        self._writable.unpark_all()


class Muxer(IMuxedConn):
    """The streams of one connection. `start` runs it; its owner closes the connection below it when that returns."""

    def __init__(self, conn: ISecureConn, peer_id: ID, liveness: Liveness, came: bytes = b"") -> None:
        self.secured_conn = conn
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.on_close: Any = None  # libp2p's SwarmConn sets it; `ended` tells the same
        self.ended = trio.Event()  # nothing is read any more
        self._came = bytearray(came)  # frames that came with the agreement on yamux
        self._initiator = conn.is_initiator
        self._next = 1 if self._initiator else 2
        self._streams: dict[int, Stream] = {}
        self._arrived: deque[Stream] = deque()
        self._serve: Callable[[Stream], None] | None = None
        self._arrival = trio.lowlevel.ParkingLot()
        self._closed = False
        self._sending = trio.Lock()
        self._grown = 0
        self._pings: dict[int, trio.Event] = {}
        self._pinged = 0
        self._rtt = 0.0
        self._liveness = liveness
        self._heard = 0.0  # when bytes last came, by trio's clock
        self._hurry = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # libp2p's interface

    async def start(self) -> None:
        """Read frames until the connection ends. Returns where the peer ended it in order.

        Raises `ProtocolViolation`, `Silence`, or what the connection below raises."""
        self.event_started.set()
        failures: list[Exception] = []

        async def until_it_ends(run: Callable[[], Awaitable[None]]) -> None:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
                failures.append(error)
            self._shut()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_it_ends, self._watch)
            await until_it_ends(self._read_frames)
        self.ended.set()
        if failures:
            raise failures[0]

    async def say_goodbye(self) -> None:
        """Tell the peer that we close; what it still sends goes on being read. The caller brings the deadline."""
        try:
            await self.send(_GO_AWAY, 0, 0, _NORMAL)
        except IOException as error:
            log.debug("no goodbye", error=str(error))

    async def close(self) -> None:
        """Tell the peer, cut every stream, close the connection. The caller brings the deadline."""
        if not self._closed:
            await self.say_goodbye()
        self._shut()
        await self.secured_conn.close()

    async def open_stream(self) -> Stream:
        if self._closed:
            raise MuxedConnUnavailable("the connection is closed")
        number, self._next = self._next, self._next + 2
        stream = self._streams[number] = Stream(self, number, _SYN)
        return stream  # its first frame tells the peer

    def serve(self, serve: Callable[[Stream], None]) -> None:
        """Call ``serve`` with each stream that the peer has opened or opens, in place of `accept_stream`."""
        self._serve = serve
        while self._arrived:
            serve(self._arrived.popleft())

    async def accept_stream(self) -> Stream:
        while not self._arrived:
            if self._closed:
                raise MuxedConnUnavailable("the connection is closed")
            await self._arrival.park()
        return self._arrived.popleft()

    @property
    def is_initiator(self) -> bool:
        return self._initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self._closed

    @property
    def is_closed(self) -> bool:
        return self._closed

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.secured_conn.get_connection_type()

    # ----------------------------------------------------------------------------------------------------------------
    # Round trips

    def rtt(self) -> float:
        """Smoothed round trip in seconds; 0 until one is known."""
        return self._rtt

    async def ping(self) -> float:
        """One round trip in seconds, which every yamux answers, whatever protocols its node speaks.

        The caller brings the deadline."""
        self._pinged += 1
        number, answered = self._pinged, trio.Event()
        self._pings[number] = answered
        sent = trio.current_time()
        try:
            await self.send(_PING, _SYN, 0, number)
            await answered.wait()
        finally:
            del self._pings[number]
        took = trio.current_time() - sent
        self._rtt = (self._rtt + took) / 2 if self._rtt else took
        return took

    def check(self) -> None:
        """Ask for a sign of life now, not at the next turn."""
        self._hurry.set()

    async def _watch(self) -> None:
        """Measure the round trip now and then, and raise `Silence` where the peer lets nothing be heard any more."""
        pause = FIRST_PING
        while True:
            with trio.move_on_after(pause):
                await self._hurry.wait()
            pause, self._hurry = self._liveness.interval, trio.Event()
            asked = trio.current_time()
            with trio.move_on_after(self._liveness.timeout) as scope:
                await self.ping()
            # A peer that is busy sending may leave a ping waiting behind its data; it is alive all the same.
            if scope.cancelled_caught and self._heard < asked:
                if trio.current_time() > asked + self._liveness.timeout + LATE:
                    pause = 0.0  # this process was frozen itself; what came meanwhile is still unread: ask again
                    continue
                raise Silence(f"nothing heard for {self._liveness.timeout:.0f} s")

    # ----------------------------------------------------------------------------------------------------------------
    # Frames

    async def send_on(self, stream: Stream, kind: int, flags: int, length: int, data: bytes | memoryview = b"") -> None:
        """Write one frame of a stream; its first one opens it, or acknowledges that the peer has."""
        await self.send(kind, flags, stream.number, length, data, stream)

    async def send(
        self,
        kind: int,
        flags: int,
        number: int,
        length: int,
        data: bytes | memoryview = b"",
        stream: Stream | None = None,
    ) -> None:
        """Write one frame, and with it what ``data`` has beyond ``length``. Cancelled while it waits for its turn,
        nothing is written; cancelled in the middle, the connection is of no use any more and is closed."""
        if self._sending.locked():
            await self._sending.acquire()
        else:
            self._sending.acquire_nowait()  # `acquire` would give up the task's turn, and this runs for each frame
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # from here on Noise counts the message as sent
            if stream is not None:
                flags, stream.opening = flags | stream.opening, 0
            frame = _HEADER.pack(0, kind, flags, number, length) + data
            try:
                await self.secured_conn.write(frame)
            except trio.Cancelled:
                self._shut()
                await self.secured_conn.close()
                raise
        finally:
            self._sending.release()

    async def _read_frames(self) -> None:
        buffer = self._came
        while True:
            while len(buffer) < _HEADER.size:
                buffer += await self._receive()
            version, kind, flags, number, length = _HEADER.unpack_from(buffer)
            del buffer[: _HEADER.size]
            if version != 0 or kind > _GO_AWAY:
                await self._refuse(f"a frame of version {version} and type {kind}")
            if kind == _GO_AWAY:
                return
            if kind == _PING:
                await self._on_ping(flags, length)
                continue
            stream = await self._stream(flags, number)
            if kind == _DATA:
                if length > (stream.receive_window if stream else MAX_WINDOW):
                    await self._refuse(f"stream {number} was sent more than its window")
                await self._body(buffer, stream, length)
            elif stream is not None:
                stream.granted(length)
            if stream is not None:
                if flags & _FIN:
                    stream.ended()
                if flags & _RST:
                    stream.cut()
                self.settle(stream)

    async def _receive(self) -> bytes:
        data: bytes = await self.secured_conn.read()
        self._heard = trio.current_time()
        return data

    async def _body(self, buffer: bytearray, stream: Stream | None, length: int) -> None:
        """Hand a frame's data on as it comes; that of a stream which is gone is dropped."""
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
        """The stream that a frame belongs to, opened by it or before; None for one that is gone or turned away."""
        if not flags & _SYN:
            return self._streams.get(number)
        if number in self._streams or number % 2 == self._next % 2 or number == 0:
            await self._refuse(f"stream {number} cannot be opened by the peer")
        if self._inbound() >= MAX_STREAMS:
            self._forget_half_closed()
        if self._inbound() >= MAX_STREAMS:
            await self.send(_WINDOW_UPDATE, _RST, number, 0)
            return None
        stream = self._streams[number] = Stream(self, number, _ACK)
        if self._serve is not None:
            self._serve(stream)
        else:
            self._arrived.append(stream)
            self._arrival.unpark_all()
        return stream

    async def _on_ping(self, flags: int, value: int) -> None:
        if flags & _SYN:
            await self.send(_PING, _ACK, 0, value)
        elif flags & _ACK and value in self._pings:
            self._pings[value].set()

    async def _refuse(self, what: str) -> None:
        with trio.move_on_after(1):
            await self.send(_GO_AWAY, 0, 0, _PROTOCOL_ERROR)
        raise ProtocolViolation(what)

    # ----------------------------------------------------------------------------------------------------------------
    # Accounts

    @property
    def buffered(self) -> int:
        """Bytes received that nobody has read yet."""
        return sum(len(stream.inbox) for stream in self._streams.values())

    def grow(self, wanted: int) -> int:
        """How much of ``wanted`` a window may grow by; the windows of a connection have a bound together."""
        allowed = min(wanted, GROWTH - self._grown)
        self._grown += allowed
        return allowed

    def settle(self, stream: Stream) -> None:
        """Forget a stream on which nothing comes or goes any more."""
        if stream.done and self._streams.pop(stream.number, None) is not None:
            self._grown -= stream.extra_window

    def _inbound(self) -> int:
        return sum(1 for number in self._streams if number % 2 != self._next % 2)

    def _forget_half_closed(self) -> None:
        """Streams that we have closed and the peer never does would fill the table; they go when it is full."""
        for stream in [stream for stream in self._streams.values() if stream.ended_here]:
            stream.cut()
            self.settle(stream)

    def _shut(self) -> None:
        """Nothing is sent or received from now on; whoever waits is told."""
        self._closed = True
        for stream in self._streams.values():
            stream.cut()
        self._streams.clear()
        self._arrived.clear()
        self._arrival.unpark_all()


async def upgrade(secured: ISecureConn, liveness: Liveness) -> Muxer:
    """Agree on yamux over a secured connection. Raises libp2p's errors of the negotiation."""
    if secured.is_initiator:
        rest = await multistream.ask(secured.read, secured.write, YAMUX)
    else:
        _, rest = await multistream.answer(secured.read, secured.write, (YAMUX,))
    return Muxer(secured, secured.get_remote_peer(), liveness, rest)
