"""TCP and WebSocket: sockets opened, accepted and closed by us, in tasks that somebody owns.

libp2p 0.8.1's own transports run their listeners in trio system tasks, where an error ends the whole process, know no
remote address over WebSocket or IPv6, and share one socket between TCP and ws (LAB.md, traps 3, 10, 11, 12, 15). What
they would hand to libp2p is a `Pipe`: a byte stream that counts, and remembers how it ended.
"""

from __future__ import annotations

import errno
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from multiaddr import Multiaddr
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)

from fabstird.p2p.addresses import Address, Transport, from_endpoint

BACKLOG = 128
READ_AHEAD = 4096  # bytes; libp2p reads a length, or one byte of it, at a time, and each would be a system call
MAX_WS_MESSAGE = 4 * 1024 * 1024  # bytes; a Noise frame has at most 64 KiB, but peers may join several


class ListenError(Exception):
    """``address`` cannot be listened on, because of ``reason`` (words)."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


class Traffic:
    """Bytes over all connections of a node, as they pass its sockets."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Pipe(IRawConnection):
    """One raw connection. ``ended`` is how the other side or the network ended it: ``closed_by_peer``, ``reset`` or
    ``timeout``; None while it is up, or where we ended it ourselves."""

    def __init__(self, stream: trio.SocketStream, remote: Address, traffic: Traffic, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self.remote = remote
        self.ended: str | None = None
        self._stream = stream
        self._traffic = traffic

    @abstractmethod
    async def read(self, n: int | None = None) -> bytes: ...

    @abstractmethod
    async def write(self, data: bytes) -> None: ...

    @abstractmethod
    def unread(self, data: bytes) -> None:
        """Give back what was read too far."""

    @abstractmethod
    async def finish(self) -> None:
        """Say that nothing more is sent, and leave reading open. The caller brings the deadline."""

    async def close(self) -> None:
        """Close the socket at once; nothing is waited for, so it cannot hang on a peer that reads nothing."""
        await trio.aclose_forcefully(self._stream)

    @cached_property
    def _multiaddr(self) -> Multiaddr:
        return self.remote.multiaddr

    def get_remote_address(self) -> tuple[str, int]:
        return self.remote.host, self.remote.port

    def get_transport_addresses(self) -> list[Multiaddr]:
        return [self._multiaddr]

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT

    def _broken(self, error: BaseException) -> ConnectionClosedError:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        code = cause.errno if isinstance(cause, OSError) else None
        self.ended = self.ended or ("timeout" if code in (errno.ETIMEDOUT, errno.EHOSTUNREACH) else "reset")
        return ConnectionClosedError(f"connection {self.ended}: {cause}", transport=self.remote.transport)


class TcpPipe(Pipe):
    """One writer at a time: the handshake's task, then whoever holds the muxer's turn."""

    def __init__(self, stream: trio.SocketStream, remote: Address, traffic: Traffic, *, initiator: bool) -> None:
        super().__init__(stream, remote, traffic, initiator=initiator)
        self._ahead = b""

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        data = self._ahead or await self._receive(n if n is not None and n > READ_AHEAD else READ_AHEAD)
        if n is None or len(data) <= n:
            self._ahead = b""
            return data
        self._ahead = data[n:]
        return data[:n]

    def unread(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    async def _receive(self, most: int) -> bytes:
        try:
            data = await self._stream.receive_some(most)
        except trio.BrokenResourceError as error:
            raise self._broken(error) from error
        except trio.ClosedResourceError as error:
            raise ConnectionClosedError("connection closed", transport="tcp") from error
        if not data:
            # Raised, not returned: libp2p's readers take an empty read for a pause and try again a hundred times.
            self.ended = self.ended or "closed_by_peer"
            raise ConnectionClosedError("closed by the other side", transport="tcp")
        self._traffic.received += len(data)
        return bytes(data)

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise self._broken(error) from error
        except (trio.ClosedResourceError, trio.BusyResourceError) as error:  # busy: with `finish`, there is one writer
            raise ConnectionClosedError("connection closed", transport="tcp") from error
        self._traffic.sent += len(data)

    async def finish(self) -> None:
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side was quicker
        except trio.BusyResourceError:
            pass  # a stream's last words are not taken by the other side; whoever finishes goes on to close


class WsPipe(Pipe):
    """Binary messages of a WebSocket as one byte stream (libp2p specification, websockets)."""

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

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        while not self._rest:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed as error:
                self.ended = self.ended or "closed_by_peer"
                raise ConnectionClosedError(f"WebSocket closed: {error.reason}", transport="ws") from error
            self._rest = message.encode() if isinstance(message, str) else message
            self._traffic.received += len(self._rest)
        data, self._rest = (self._rest, b"") if n is None else (self._rest[:n], self._rest[n:])
        return data

    def unread(self, data: bytes) -> None:
        self._rest = data + self._rest

    async def write(self, data: bytes) -> None:
        try:
            await self._websocket.send_message(bytes(data))
        except ConnectionClosed as error:
            self.ended = self.ended or "closed_by_peer"
            raise ConnectionClosedError(f"WebSocket closed: {error.reason}", transport="ws") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error
        self._traffic.sent += len(data)

    async def finish(self) -> None:
        await self._websocket.aclose()


async def dial(address: Address, nursery: trio.Nursery, traffic: Traffic) -> Pipe:
    """Open a connection to an address of kind ip4 or ip6. A WebSocket's reader runs in ``nursery``.

    Raises OSError or trio_websocket's `HandshakeError`; the caller brings the deadline and closes the pipe.
    """
    family = trio.socket.AF_INET6 if address.kind == "ip6" else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await sock.connect((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    stream = trio.SocketStream(sock)
    remote = address.bare
    if address.transport == "tcp":
        return TcpPipe(stream, remote, traffic, initiator=True)
    host = f"[{address.host}]:{address.port}" if address.kind == "ip6" else f"{address.host}:{address.port}"
    try:
        with trio.CancelScope() as upgrade:
            reader: Any = _Reader(nursery, upgrade)
            websocket = await wrap_client_stream(reader, stream, host, "/", max_message_size=MAX_WS_MESSAGE)
            return WsPipe(websocket, stream, remote, traffic, initiator=True)
        raise ConnectionClosedError("closed before the WebSocket upgrade", transport="ws")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def accept(stream: trio.SocketStream, remote: Address, nursery: trio.Nursery, traffic: Traffic) -> Pipe:
    """Bring an accepted socket to the point where libp2p takes over: for ws that is after the upgrade."""
    if remote.transport == "tcp":
        return TcpPipe(stream, remote, traffic, initiator=False)
    with trio.CancelScope() as upgrade:
        reader: Any = _Reader(nursery, upgrade)
        request = await wrap_server_stream(reader, stream, max_message_size=MAX_WS_MESSAGE)
        websocket = await request.accept()
        return WsPipe(websocket, stream, remote, traffic, initiator=False)
    raise ConnectionClosedError("closed before the WebSocket upgrade", transport="ws")


class _Reader:
    """Stands in for the nursery in which trio_websocket starts its reader. Its upgrades, either side's, wait for what
    never comes once the reader has ended, so then they are over."""

    def __init__(self, nursery: trio.Nursery, upgrade: trio.CancelScope) -> None:
        self._nursery = nursery
        self._upgrade = upgrade

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, read)

    async def _run(self, read: Callable[[], Awaitable[None]]) -> None:
        await read()
        self._upgrade.cancel()


class Listener:
    """One bound socket. ``address`` is the one that was asked for, ``bound`` has the real port."""

    def __init__(self, address: Address, bound: Address, sockets: trio.SocketListener) -> None:
        self.address = address
        self.bound = bound
        self.sockets = sockets

    @property
    def transport(self) -> Transport:
        return self.bound.transport

    def remote_of(self, stream: trio.SocketStream) -> Address:
        host, port = stream.socket.getpeername()[:2]
        return from_endpoint(host, port, self.transport)


async def listen(address: Address) -> Listener:
    """Bind and listen. Raises `ListenError` in words: nothing is taken over and nothing is shared (no SO_REUSEPORT)."""
    try:
        family, host = await _bind_target(address)
    except OSError as error:
        raise ListenError(str(address), error.strerror or str(error)) from error
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == trio.socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((host, address.port))
        sock.listen(BACKLOG)
        bound_host, bound_port = sock.getsockname()[:2]
    except OSError as error:
        sock.close()
        raise ListenError(str(address), (error.strerror or str(error)).lower()) from error
    except BaseException:
        sock.close()
        raise
    return Listener(address, from_endpoint(bound_host, bound_port, address.transport), trio.SocketListener(sock))


async def _bind_target(address: Address) -> tuple[int, str]:
    if address.kind in ("ip4", "ip6"):
        return (trio.socket.AF_INET6 if address.kind == "ip6" else trio.socket.AF_INET), address.host
    if address.kind == "dnsaddr":
        raise OSError(errno.EADDRNOTAVAIL, "a /dnsaddr names no port to listen on")
    wanted = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}.get(address.kind, trio.socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(address.host, None, family=wanted, type=trio.socket.SOCK_STREAM)
    return int(found[0][0]), str(found[0][4][0])


__all__ = [
    "HandshakeError",
    "ListenError",
    "Listener",
    "Pipe",
    "Traffic",
    "accept",
    "dial",
    "listen",
]
