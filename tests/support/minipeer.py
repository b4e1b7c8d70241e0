"""A small libp2p peer on trio, for tests and benches: multistream-select, Noise XX, yamux, identify, ping; both roles.

It is not fabstird and shares no code with it or with py-libp2p, so it can say what neither would: stop half-way in a
handshake, accept and stay silent, send any bytes on any protocol. Needs trio and cryptography only.

    async with mini_peer() as peer:
        conn = await peer.dial("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW…")
        print(conn.peer_id, await conn.identify(), await conn.ping())
        await conn.send_bytes("/meshsub/1.1.0", os.urandom(300))

        held = await peer.dial(address, hold=Stage.NOISE)        # stays there, open, until held.resume()
        address = await peer.listen(hold=Stage.TCP)              # accepts, never says a byte
        address = await peer.listen(mute=True)                   # shakes hands, then answers nothing
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from socket import SO_LINGER, SOL_SOCKET
from struct import pack

import trio

from . import noise, yamux
from .wire import (
    MULTISTREAM,
    Identity,
    ProtocolRefused,
    Reader,
    WireError,
    field,
    fields,
    lines,
    propose,
    select,
    varint,
)
from .yamux import Muxer, Stream, StreamReset

__all__ = [
    "Connection",
    "ConnectionLost",
    "Identified",
    "Identity",
    "MiniPeer",
    "ProtocolRefused",
    "Stage",
    "Stream",
    "StreamReset",
    "WireError",
    "mini_peer",
    "mini_peers",
]

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"

Handler = Callable[[Stream], Awaitable[None]]


class ConnectionLost(Exception):
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

    def thaw(self) -> None:
        self._thawed.set()

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
        if self._muxer is None or self.closed.is_set():
            raise ConnectionLost(self.end_reason or "not up yet")
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
        await self._thawed.wait()
        await self._socket.send_all(data)

    async def _receive(self) -> bytes:
        data = bytes(await self._socket.receive_some(65536))
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
        except (EOFError, StreamReset):
            pass  # the other side lost interest
        except WireError:
            await stream.reset()


class MiniPeer:
    """An identity that dials and listens. `mini_peer()` makes one with its own nursery."""

    def __init__(self, nursery: trio.Nursery, *, identity: Identity | None = None, agent: str = "minipeer/1") -> None:
        self._nursery = nursery
        self.identity = identity or Identity()
        self.agent = agent
        self.addresses: list[str] = []
        self.connections: list[Connection] = []
        self.handlers: dict[str, Handler] = {IDENTIFY: self._answer_identify, PING: _answer_ping}
        self._arrivals, self._arrived = trio.open_memory_channel[Connection](1024)
        self._listening: list[trio.CancelScope] = []

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    def handle(self, protocol: str, handler: Handler) -> None:
        """Serves `protocol`; the stream is closed when the handler returns."""
        self.handlers[protocol] = handler

    async def dial(
        self, address: str, *, hold: Stage | None = None, mute: bool = False, source: str | None = None
    ) -> Connection:
        """Connects to `/ip4/…/tcp/…[/p2p/…]` and returns when the connection is up, or at the stage that holds it.

        `source` is the IP address that it comes from."""
        host, port, expect = parse_address(address)
        stream = await trio.open_tcp_stream(host, port, local_address=source)
        conn = self._adopt(stream, initiator=True, expect=expect, hold=hold, mute=mute)
        try:
            await conn.reached(Stage.UP if hold is None else hold)
        except BaseException:
            conn.drop()
            raise
        return conn

    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, *, hold: Stage | None = None, mute: bool = False
    ) -> str:
        """Accepts connections, each brought up or held at a stage; returns the address, with /p2p/."""
        [listener] = await trio.open_tcp_listeners(port, host=host)
        scope = trio.CancelScope()
        self._listening.append(scope)
        self._nursery.start_soon(self._accept, listener, scope, hold, mute)
        address = f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{listener.socket.getsockname()[1]}/p2p/{self.peer_id}"
        self.addresses.append(address)
        return address

    def stop_listening(self) -> None:
        """Closes every listening socket; connections stay."""
        for scope in self._listening:
            scope.cancel()
        self._listening.clear()
        self.addresses.clear()

    async def accepted(self) -> Connection:
        """The next connection that came in, at whatever stage it is."""
        return await self._arrived.receive()

    async def _accept(
        self, listener: trio.SocketListener, scope: trio.CancelScope, hold: Stage | None, mute: bool
    ) -> None:
        with scope:
            try:
                while True:
                    stream = await listener.accept()
                    conn = self._adopt(stream, initiator=False, expect="", hold=hold, mute=mute)
                    try:
                        self._arrivals.send_nowait(conn)
                    except trio.WouldBlock:
                        pass  # a bench that nobody follows one by one
            finally:
                listener.socket.close()

    def _adopt(
        self, stream: trio.SocketStream, *, initiator: bool, expect: str, hold: Stage | None, mute: bool
    ) -> Connection:
        conn = Connection(self, stream, initiator=initiator, expect=expect, hold=hold, mute=mute)
        self.connections.append(conn)
        self._nursery.start_soon(conn.run)
        return conn

    async def _answer_identify(self, stream: Stream) -> None:
        message = field(1, self.identity.public_key) + field(5, b"ipfs/0.1.0") + field(6, self.agent.encode())
        message += b"".join(field(3, protocol.encode()) for protocol in self.handlers)
        await stream.send_all(varint(len(message)) + message)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


async def _answer_ping(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


def parse_address(address: str) -> tuple[str, int, str]:
    """Host, port and peer id ("" if there is none) of /ip4|ip6/HOST/tcp/PORT[/p2p/ID]."""
    match address.split("/"):
        case ["", "ip4" | "ip6", host, "tcp", port]:
            return host, int(port), ""
        case ["", "ip4" | "ip6", host, "tcp", port, "p2p", peer_id]:
            return host, int(port), peer_id
    raise ValueError(f"a MiniPeer dials /ip4|ip6/HOST/tcp/PORT[/p2p/ID], not {address}")


@asynccontextmanager
async def mini_peer(*, identity: Identity | None = None, agent: str = "minipeer/1") -> AsyncIterator[MiniPeer]:
    """One peer with a fresh identity (or the given one); leaving closes its connections and listeners."""
    async with mini_peers(1, agent=agent) as [peer]:
        if identity is not None:
            peer.identity = identity
        yield peer


@asynccontextmanager
async def mini_peers(count: int, *, agent: str = "minipeer/1") -> AsyncIterator[list[MiniPeer]]:
    """Many peers, each with its own identity, in one nursery."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield [MiniPeer(nursery, agent=agent) for _ in range(count)]
        except Exception as error:  # noqa: BLE001 - raised again below, not wrapped in the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
