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

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from .minipeer_connection import IDENTIFY, PING, Connection, ConnectionLost, Identified, Relayed, Stage
from .wire import Gone, Identity, ProtocolRefused, WireError, field, varint
from .yamux import Stream, StreamReset

__all__ = [
    "IDENTIFY",
    "PING",
    "Connection",
    "ConnectionLost",
    "Gone",
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

Handler = Callable[[Stream], Awaitable[None]]


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
        host, port, _ = parse_address(address)
        return await self.begin(await trio.open_tcp_stream(host, port, local_address=source), address, hold, mute)

    async def begin(
        self, stream: trio.SocketStream, address: str, hold: Stage | None = None, mute: bool = False
    ) -> Connection:
        """As `dial`, over a stream that has come to the address."""
        _, _, expect = parse_address(address)
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

    def over(self, stream: Stream, expect: str, *, initiator: bool = True) -> Connection:
        """A connection over a stream of a relay, which this peer begins, or the other one."""
        sock: trio.SocketStream = Relayed(stream)  # type: ignore[assignment]
        return self._adopt(sock, initiator=initiator, expect=expect, hold=None, mute=False)

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
