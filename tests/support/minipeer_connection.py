"""A connection of a `MiniPeer`: its handshake, which may be held at each stage, and its streams."""

import os
from dataclasses import dataclass
from enum import IntEnum
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET
from struct import pack
from typing import TYPE_CHECKING

import trio

from . import noise, yamux
from .wire import MULTISTREAM, Gone, Reader, WireError, fields, lines, propose, select
from .yamux import GONE, Muxer, Stream

if TYPE_CHECKING:
    from .minipeer import MiniPeer

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"


class ConnectionLost(Gone):
    """The connection ended before it got where it was waited for; the text says how."""


class Stage(IntEnum):
    """How far a connection has come. One that is held at a stage does nothing more until it is resumed."""

    TCP = 0  # connected or accepted; not one byte has gone out
    GREETED = 1  # the multistream header has gone out, no protocol was named or agreed
    SECURITY = 2  # /noise is agreed; no Noise message has gone out
    NOISE = 3  # half-way: the first of three Noise messages has passed, the second not
    SECURED = 4  # Noise is done; no word about the muxer
    UP = 5  # yamux is agreed: a libp2p connection


@dataclass(frozen=True)
class Identified:
    """What the other side's identify message says of it."""

    peer_id: str
    agent: str
    protocol_version: str
    protocols: tuple[str, ...]
    addresses: tuple[bytes, ...]
    observed: bytes


class Relayed:
    """A stream of a relay, as the socket of a connection through it: its end is an end like a socket's."""

    def __init__(self, stream: Stream) -> None:
        self.socket = self
        self._stream = stream

    def fileno(self) -> int:
        return 0

    async def send(self, data: bytes) -> int:
        try:
            await self._stream.send_all(bytes(data))
        except Gone as error:
            raise trio.BrokenResourceError(str(error)) from error
        return len(data)

    async def receive_some(self, _: int) -> bytes:
        try:
            return await self._stream.receive_some()
        except Gone as error:
            raise trio.BrokenResourceError(str(error)) from error

    def close(self) -> None:
        """The relay's connection ends it."""


class Connection:
    """One connection of a MiniPeer, in either role."""

    def __init__(
        self,
        peer: "MiniPeer",
        stream: trio.SocketStream,
        *,
        initiator: bool,
        expect: str,
        hold: Stage | None,
        mute: bool,
    ) -> None:
        self.peer = peer
        self.initiator = initiator
        self.peer_id = ""
        self.stage = Stage.TCP
        self.closed = trio.Event()
        self.end_reason = ""
        self.asked_for: list[str] = []  # the protocols of the streams that the other side opened
        self._socket = stream
        self._reader = Reader(self._receive)
        self._expect = expect
        self._hold = hold
        self._resumed = trio.Event()
        self._mute = mute
        self._reached = {stage: trio.Event() for stage in Stage}
        self._reached[Stage.TCP].set()
        self._thawed = trio.Event()
        self._thawed.set()
        self._hearing = trio.Event()
        self._hearing.set()
        self._rate = 0  # bytes a second; 0 for as many as there are
        self._unsent = bytearray()
        self._channel: noise.Channel | None = None
        self._muxer: Muxer | None = None
        self._nursery: trio.Nursery | None = None

    # -- a connection's life
    async def reached(self, stage: Stage) -> None:
        """Returns when the connection has come that far; raises ConnectionLost if it ends before."""
        await self._reached[stage].wait()
        if self.stage < stage:
            raise ConnectionLost(self.end_reason)

    async def resume(self) -> None:
        """Lets a held connection go on, and waits until it is up."""
        self._resumed.set()
        await self.reached(Stage.UP)

    def freeze(self) -> None:
        """Reads and sends nothing from now on, as a stopped process does; the socket stays open."""
        self._thawed = trio.Event()

    def crawl(self, rate: int) -> None:
        """Reads and sends no more than so many bytes a second from now on, as over a slow link."""
        self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        self._rate = rate

    def freeze_reading(self) -> None:
        """Reads nothing until it is thawed, and goes on sending."""
        self._hearing = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()
        self._hearing.set()

    async def aclose(self) -> None:
        """Closes as a polite peer does: yamux GoAway, then the socket."""
        if self._muxer is not None and not self.closed.is_set() and self._thawed.is_set():
            with trio.move_on_after(1):
                try:
                    await self._muxer.go_away()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # gone already, which is what was wanted
        self.drop()
        await self.closed.wait()

    def drop(self) -> None:
        """Closes the socket without a word, as a killed process does."""
        self.end_reason = self.end_reason or "closed here"
        self._socket.socket.close()

    def abort(self) -> None:
        """Resets the TCP connection."""
        try:
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
        except OSError:
            pass  # closed already
        self.drop()

    async def run(self) -> None:
        """Shakes hands, then serves streams until the end. The MiniPeer's nursery runs it."""
        try:
            await self._upgrade()
            async with trio.open_nursery() as self._nursery:
                assert self._muxer is not None
                self._arrive(Stage.UP)
                await self._muxer.run()
                self._nursery.cancel_scope.cancel()
            self.end_reason = self.end_reason or "closed by the other side"
        except* (OSError, EOFError, WireError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end_reason = self.end_reason or "; ".join(f"{type(each).__name__}: {each}" for each in _leaves(error))
        finally:
            self._socket.socket.close()
            self.end_reason = self.end_reason or "cancelled"
            self.closed.set()
            for event in self._reached.values():
                event.set()
            self.peer.connections.remove(self)

    async def inject(self, data: bytes) -> None:
        """Sends bytes as they are: into the Noise channel once it stands, else to the socket."""
        if self._channel is not None:
            await self._channel.send(data)
        else:
            await self._send(data)

    async def forge(self, data: bytes) -> None:
        """Sends a message of Noise that cannot be decrypted."""
        assert self._channel is not None
        await self._channel.forge(data)

    async def end_sending(self) -> None:
        """Sends a FIN; what the other side still says is read."""
        await self._socket.send_eof()

    # -- streams
    async def open_stream(self, protocol: str | None) -> Stream:
        """A new stream that speaks `protocol`; None leaves it before multistream-select."""
        stream = await self._up().open()
        if protocol is not None:
            await propose(stream.reader, stream.send_all, protocol)
            stream.protocol = protocol
        return stream

    async def send_bytes(self, protocol: str | None, data: bytes) -> Stream:
        """Opens a stream of `protocol` and sends `data` on it as it is."""
        stream = await self.open_stream(protocol)
        await stream.send_all(data)
        return stream

    async def ping(self) -> float:
        """The round trip of one /ipfs/ping/1.0.0, in seconds."""
        stream = await self.open_stream(PING)
        sent = os.urandom(32)
        began = trio.current_time()
        await stream.send_all(sent)
        if await stream.receive_exactly(32) != sent:
            raise WireError("a ping came back changed")
        took = trio.current_time() - began
        await stream.close()
        return took

    async def muxer_ping(self) -> float:
        return await self._up().ping()

    @property
    def pinged(self) -> int:
        """How often the other side has sent a ping of yamux."""
        return self._up().pinged

    async def unmute(self) -> None:
        """A mute connection answers from now on, first of all the last ping."""
        self._up().mute = False
        await self._up().answer_last_ping()

    async def identify(self) -> Identified:
        stream = await self.open_stream(IDENTIFY)
        found = fields(await stream.receive_exactly(await stream.reader.varint()))
        await stream.close()

        def one(number: int) -> bytes:
            return found.get(number, [b""])[0]

        return Identified(
            peer_id=self.peer_id,
            agent=one(6).decode(),
            protocol_version=one(5).decode(),
            protocols=tuple(each.decode() for each in found.get(3, [])),
            addresses=tuple(found.get(2, [])),
            observed=one(4),
        )

    # -- inside
    def _up(self) -> Muxer:
        if self._muxer is None:
            raise ConnectionLost(self.end_reason or "not up yet")
        if self._muxer.over or self.closed.is_set():
            raise ConnectionLost(self.end_reason or GONE)
        return self._muxer

    def _arrive(self, stage: Stage) -> None:
        self.stage = stage
        self._reached[stage].set()

    async def _pause_at(self, stage: Stage) -> None:
        self._arrive(stage)
        if stage is self._hold:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reader.fill)  # so the other side's end is seen while nothing is said
                await self._resumed.wait()
                nursery.cancel_scope.cancel()

    async def _send(self, data: bytes) -> None:
        """Whoever is cancelled half-way leaves the rest to whoever sends next: the other side never has half a message
        with another one behind it."""
        self._unsent += data
        await self._thawed.wait()
        while self._unsent:
            try:
                sent = await self._socket.socket.send(self._unsent[: 1024 if self._rate else 65536])
            except OSError as error:
                if self._socket.socket.fileno() < 0:
                    raise trio.ClosedResourceError("closed here") from error
                raise trio.BrokenResourceError(str(error)) from error
            del self._unsent[:sent]
            if self._rate:
                await trio.sleep(sent / self._rate)

    async def _receive(self) -> bytes:
        await self._hearing.wait()
        data = bytes(await self._socket.receive_some(1024 if self._rate else 65536))
        # From here on whoever is cancelled loses what has come: nothing is waited for that need not be
        if self._rate:
            await trio.sleep(len(data) / self._rate)
        if not self._thawed.is_set():
            await self._thawed.wait()
        return data

    async def _upgrade(self) -> None:
        await self._pause_at(Stage.TCP)
        reader = self._reader
        await self._send(lines(MULTISTREAM))
        await self._pause_at(Stage.GREETED)
        if self.initiator:
            await propose(reader, self._send, noise.PROTOCOL, greeted=True)
        else:
            await select(reader, self._send, [noise.PROTOCOL], greeted=True)
        await self._pause_at(Stage.SECURITY)
        channel = self._channel = await noise.handshake(
            reader,
            self._send,
            self.peer.identity,
            initiator=self.initiator,
            halfway=lambda: self._pause_at(Stage.NOISE),
        )
        self.peer_id = channel.peer_id
        if self._expect and self._expect != channel.peer_id:
            raise WireError(f"expected {self._expect}, met {channel.peer_id}")
        await self._pause_at(Stage.SECURED)
        secured = Reader(channel.receive)
        if self.initiator:
            await propose(secured, channel.send, yamux.PROTOCOL)
        else:
            await select(secured, channel.send, [yamux.PROTOCOL])
        self._muxer = Muxer(
            channel, secured, initiator=self.initiator, on_stream=self._opened_by_the_other_side, mute=self._mute
        )

    def _opened_by_the_other_side(self, stream: Stream) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        handlers = self.peer.handlers
        try:
            stream.protocol = await select(stream.reader, stream.send_all, handlers)
            self.asked_for.append(stream.protocol)
            await handlers[stream.protocol](stream)
            await stream.close()
        except* (EOFError, Gone):  # also where a nursery of the handler's wraps it
            pass  # the other side lost interest
        except* WireError:
            await stream.reset()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found
