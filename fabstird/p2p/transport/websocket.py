"""WebSocket (libp2p specification, websockets): the upgrade on either side, and binary messages as one byte stream.

Inside TLS it is the same; ``over`` is then the TLS stream over the socket's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream, wrap_server_stream

from fabstird.p2p.transport.pipe import SocketPipe, Traffic
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import ConnectionLost

FIRST_MESSAGES = 64 * 1024  # bytes of a message before the peer has proven who it is
MAX_MESSAGE = 4 * 1024 * 1024  # bytes afterwards; a Noise message has at most 64 KiB, but peers may join several
TURN = 64 * 1024  # bytes of one message read before other tasks get a turn


class WsPipe(SocketPipe):
    """The binary messages of a WebSocket as one byte stream."""

    def __init__(
        self,
        websocket: WebSocketConnection,
        stream: trio.SocketStream,
        remote: Address,
        traffic: Traffic,
        *,
        initiator: bool,
    ) -> None:
        super().__init__(stream, remote, traffic, initiator=initiator)
        self._websocket = websocket
        self._rest = b""
        self._at = 0  # where in it the next byte is
        self._turn = TURN

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if self._turn < 0:  # a long message of many short frames takes many reads
            self._turn = TURN
            await trio.lowlevel.checkpoint()
        while self._at >= len(self._rest):
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed as error:
                self.ended = self.ended or "closed_by_peer"
                raise ConnectionLost(f"WebSocket closed: {error.reason}") from error
            self._rest, self._at = message.encode() if isinstance(message, str) else message, 0
            self.traffic.received += len(self._rest)
        data = self._rest[self._at :] if n is None else self._rest[self._at : self._at + n]
        self._at += len(data)
        self._turn -= len(data) + 1
        return data

    def unread(self, data: bytes) -> None:
        self._rest, self._at = data + self._rest[self._at :], 0

    def trusted(self) -> None:
        self._websocket._max_message_size = MAX_MESSAGE  # there is no public way to change it

    async def write(self, data: bytes) -> None:
        try:
            await self._websocket.send_message(bytes(data))
        except ConnectionClosed as error:
            self.ended = self.ended or "closed_by_peer"
            raise ConnectionLost(f"WebSocket closed: {error.reason}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self.broken(error) from error
        self.traffic.sent += len(data)

    async def finish(self) -> None:
        await self._websocket.aclose()


async def connect(
    stream: trio.SocketStream,
    address: Address,
    nursery: trio.Nursery,
    traffic: Traffic,
    over: trio.abc.Stream | None = None,
) -> WsPipe:
    """Upgrade a socket that is connected to ``address``. The WebSocket's reader runs in ``nursery``.

    Raises trio_websocket's `HandshakeError`, `ConnectionLost`.
    """
    # The name in the address, if any: virtual hosts and proxies in front of a node go by it.
    name = address.sni or address.name or (f"[{address.host}]" if address.kind == "ip6" else address.host)
    host = f"{name}:{address.port}"
    carrier: Any = over or stream
    with trio.CancelScope() as upgrade:
        reader: Any = _Reader(nursery, upgrade)
        websocket = await wrap_client_stream(reader, carrier, host, "/", max_message_size=FIRST_MESSAGES)
        return WsPipe(websocket, stream, address.bare, traffic, initiator=True)
    raise ConnectionLost("closed before the WebSocket upgrade")


async def accept(
    stream: trio.SocketStream,
    remote: Address,
    nursery: trio.Nursery,
    traffic: Traffic,
    over: trio.abc.Stream | None = None,
) -> WsPipe:
    """As `connect`, for an accepted socket."""
    with trio.CancelScope() as upgrade:
        reader: Any = _Reader(nursery, upgrade)
        request = await wrap_server_stream(reader, over or stream, max_message_size=FIRST_MESSAGES)
        websocket = await request.accept()
        return WsPipe(websocket, stream, remote, traffic, initiator=False)
    raise ConnectionLost("closed before the WebSocket upgrade")


class _Reader:
    """Replaces the nursery in which trio_websocket starts its reader. Either side's upgrade would wait for ever once
    the reader has ended, so this ends it then."""

    def __init__(self, nursery: trio.Nursery, upgrade: trio.CancelScope) -> None:
        self._nursery = nursery
        self._upgrade = upgrade

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, read)

    async def _run(self, read: Callable[[], Awaitable[None]]) -> None:
        await read()
        self._upgrade.cancel()
