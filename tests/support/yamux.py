"""yamux: many streams with flow control over one Noise channel."""

import struct
from collections.abc import Callable
from contextlib import suppress

import trio

from .noise import Channel
from .wire import Gone, Reader, WireError

PROTOCOL = "/yamux/1.0.0"
_HEADER = struct.Struct(">BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_INITIAL_WINDOW = 256 * 1024
_CHUNK = 64 * 1024
GONE = "the connection is gone"


class StreamReset(Gone):
    """The other side reset this stream, with `code` as libp2p's error code, or the connection is gone."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class Stream:
    """One yamux stream. `protocol` is what multistream-select agreed on."""

    def __init__(self, muxer: "Muxer", number: int) -> None:
        self._muxer = muxer
        self.number = number
        self.protocol = ""
        self.reader = Reader(self._receive)
        self._inbox = bytearray()
        self._ended = False
        self._broken = ""
        self._readable = trio.Event()
        self._send_window = _INITIAL_WINDOW
        self._writable = trio.Event()
        self._unacknowledged = 0
        self._window = _INITIAL_WINDOW  # bytes that the other side may have sent and nobody has read here
        self._closed_here = False
        self.reset_code: int | None = None  # with which the other side has reset it

    async def send_all(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._broken:
                raise StreamReset(self._broken, self.reset_code)
            if not self._send_window:
                self._writable = trio.Event()
                await self._writable.wait()
                continue
            chunk = data[at : at + min(self._send_window, _CHUNK)]
            self._send_window -= len(chunk)
            at += len(chunk)
            await self._send(_DATA, 0, chunk)

    async def receive_some(self) -> bytes:
        """The next bytes; b"" after the other side's last one."""
        return await self.reader.some()

    async def receive_exactly(self, size: int) -> bytes:
        return await self.reader.exactly(size)

    async def receive_all(self) -> bytes:
        parts = []
        while part := await self.receive_some():
            parts.append(part)
        return b"".join(parts)

    async def close(self) -> None:
        """Says that nothing more will come from here; the other direction stays open."""
        if not self._closed_here and not self._broken:
            self._closed_here = True
            await self._send(_DATA, _FIN)
            self._muxer.forget_if_done(self)

    async def reset(self, code: int = 0) -> None:
        """`code` is libp2p's error code, which tells the other side why."""
        if not self._broken:
            self.break_with("reset here")
            with suppress(StreamReset):  # nobody is left to be told
                await self._send(_WINDOW, _RST, length=code)

    @property
    def done(self) -> bool:
        return bool(self._broken) or (self._ended and self._closed_here)

    async def _receive(self) -> bytes:
        while not self._inbox:
            if self._broken:
                raise StreamReset(self._broken, self.reset_code)
            if self._ended:
                return b""
            self._readable = trio.Event()
            await self._readable.wait()
        grant = self._unacknowledged + len(self._inbox)
        if grant >= _INITIAL_WINDOW // 2 and not self._ended:
            self._unacknowledged -= grant
            with suppress(StreamReset):  # what has come before the connection went is read still
                await self._send(_WINDOW, 0, length=grant)
        # Nothing is waited for behind this: whoever is cancelled has taken nothing
        data = bytes(self._inbox)
        self._inbox.clear()
        self._unacknowledged += len(data)
        return data

    async def grant(self, credit: int) -> None:
        """Lets the other side send so much more than what is read here."""
        self._window += credit
        await self._send(_WINDOW, 0, length=credit)

    async def open(self) -> None:
        """Tells the other side of it."""
        await self._send(_WINDOW, _SYN, length=0)

    async def _send(self, kind: int, flags: int, data: bytes = b"", *, length: int | None = None) -> None:
        try:
            await self._muxer.send(kind, flags, self.number, data, length=length)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # One word for it, whether its going is found by a send, a read, or before either
            self.break_with(GONE)
            raise StreamReset(GONE) from error

    # -- what the muxer's reader tells it
    def arrived(self, data: bytes) -> None:
        self._inbox += data
        if len(self._inbox) > self._window:
            raise WireError(f"stream {self.number} was sent more than its window")
        self._readable.set()

    def granted(self, credit: int) -> None:
        self._send_window += credit
        self._writable.set()

    def ended(self) -> None:
        self._ended = True
        self._readable.set()
        self._muxer.forget_if_done(self)

    def break_with(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._readable.set()
        self._writable.set()
        self._muxer.forget_if_done(self)


class Muxer:
    """Both ends of yamux. `mute` answers nothing at all: neither new streams nor pings."""

    def __init__(
        self, channel: Channel, reader: Reader, *, initiator: bool, on_stream: Callable[[Stream], None], mute: bool
    ) -> None:
        self._channel = channel
        self._reader = reader
        self._next = 1 if initiator else 2
        self._on_stream = on_stream
        self.mute = mute
        self.pinged = self.last_ping = 0  # how often the other side has sent a ping, and the last one's value
        self.streams: dict[int, Stream] = {}
        self._pings: dict[int, trio.Event] = {}
        self.told_to_go_away = False
        self.over = False  # nothing is read any more: what begins now would wait for ever

    async def send(self, kind: int, flags: int, number: int, data: bytes = b"", *, length: int | None = None) -> None:
        await self._channel.send(_HEADER.pack(0, kind, flags, number, len(data) if length is None else length) + data)

    async def open(self) -> Stream:
        stream = Stream(self, self._next)
        self._next += 2
        self.streams[stream.number] = stream
        await stream.open()
        return stream

    async def ping(self) -> float:
        """The round trip of a yamux ping, in seconds; StreamReset where the connection goes."""
        value = max(self._pings, default=0) + 1
        answered = self._pings[value] = trio.Event()
        began = trio.current_time()
        try:
            await self.send(_PING, _SYN, 0, length=value)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamReset(GONE) from error
        await answered.wait()
        if value in self._pings:
            raise StreamReset(GONE)
        return trio.current_time() - began

    async def answer_last_ping(self) -> None:
        await self.send(_PING, _ACK, 0, length=self.last_ping)

    async def go_away(self, code: int = 0) -> None:
        await self.send(_GO_AWAY, 0, 0, length=code)

    def forget_if_done(self, stream: Stream) -> None:
        if stream.done:
            self.streams.pop(stream.number, None)

    async def run(self) -> None:
        """Reads frames until the other side closes."""
        try:
            while True:
                _, kind, flags, number, length = _HEADER.unpack(await self._reader.exactly(_HEADER.size))
                if kind == _PING:
                    await self._pinged(flags, length)
                elif kind == _GO_AWAY:
                    self.told_to_go_away = True
                elif kind in (_DATA, _WINDOW):
                    data = await self._reader.exactly(length) if kind == _DATA and length else b""
                    await self._frame(kind, flags, number, data, length)
                else:
                    raise WireError(f"yamux has no frame of type {kind}")
        except EOFError:
            pass
        finally:
            self.over = True
            for stream in list(self.streams.values()):
                stream.break_with(GONE)
            for asked in self._pings.values():
                asked.set()

    async def _pinged(self, flags: int, value: int) -> None:
        if flags & _ACK:
            if (answered := self._pings.pop(value, None)) is not None:
                answered.set()
            return
        self.pinged, self.last_ping = self.pinged + 1, value
        if not self.mute:
            await self.send(_PING, _ACK, 0, length=value)

    async def _frame(self, kind: int, flags: int, number: int, data: bytes, length: int) -> None:
        if flags & _SYN:
            if number % 2 == self._next % 2 or number in self.streams:
                raise WireError(f"stream {number} cannot be opened from there")
            stream = self.streams[number] = Stream(self, number)
            if not self.mute:
                await self.send(_WINDOW, _ACK, number, length=0)
                self._on_stream(stream)
        known = self.streams.get(number)
        if known is None:
            return  # it ended here already
        if data:
            known.arrived(data)
        if kind == _WINDOW and length and not flags & _RST:
            known.granted(length)
        if flags & _RST:
            known.reset_code = length if kind == _WINDOW else 0
            known.break_with("reset by the other side")
        elif flags & _FIN:
            known.ended()
