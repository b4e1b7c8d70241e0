"""Opens, accepts and binds sockets, in tasks that have an owner, for TCP, WebSocket and UDP.

libp2p 0.8.1's transports run their listeners in trio system tasks, where an error ends the whole process. They do not
know the remote address over WebSocket or IPv6, and share one socket between TCP and ws (tests/traps, 3, 10, 11, 12,
15).
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from fabstird import accepting
from fabstird.log.logger import get_logger
from fabstird.p2p.transport import websocket
from fabstird.p2p.transport.pipe import Pipe, Traffic
from fabstird.p2p.transport.proxied import Ahead, Caller
from fabstird.p2p.transport.tcp import TcpPipe
from fabstird.p2p.wire.addresses import QUIC, Address, Transport, from_endpoint
from fabstird.p2p.wire.ips import Network, reach, to_ip
from fabstird.threads import look_up

if TYPE_CHECKING:
    from fabstird.p2p.transport.secure import ServerCertificate

log = get_logger("p2p.sockets")

BACKLOG = 128
AT_ONCE = 8  # newcomers that are taken in a turn of the loop: each costs a handshake
_PORT_IN_USE = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)  # there is such a connection, or one has just ended


class ListenError(Exception):
    """``address`` cannot be listened on; ``reason`` says why."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Doors:
    """The configuration of listeners, beside their addresses: networks of trusted proxies, and the certificate for
    wss."""

    trusted: tuple[Network, ...] = ()
    certificate: ServerCertificate | None = None


async def dial(address: Address, nursery: trio.Nursery, traffic: Traffic, port: Listener | None = None) -> Pipe:
    """Open a connection to an ip4 or ip6 address. A WebSocket's reader runs in ``nursery``. The caller sets the
    deadline and closes the pipe.

    Args:
        address: Where to connect.
        nursery: For the reader of a WebSocket.
        traffic: Counts bytes.
        port: The listener from whose port to dial over TCP, if possible.

    Raises OSError, `ConnectionLost`, `TlsFailed` or trio_websocket's `HandshakeError`.
    """
    if port is not None:
        try:
            pipe = TcpPipe(await _connected(address, port), address.bare, traffic, initiator=True)
        except OSError as error:
            if error.errno not in _PORT_IN_USE:
                raise
        else:
            pipe.from_own_port = True
            return pipe
    stream = await _connected(address)
    if address.transport == "tcp":
        return TcpPipe(stream, address.bare, traffic, initiator=True)
    try:
        over = None
        if address.transport == "wss":
            from fabstird.p2p.transport import secure

            over = await secure.connect(stream, address.sni or address.name or address.host)
        return await websocket.connect(stream, address, nursery, traffic, over)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def punch(address: Address, traffic: Traffic, port: Listener, *, initiator: bool) -> Pipe:
    """Dial at the same moment as the other side (TCP simultaneous open, RFC 9293, 3.5): each dials the port from which
    the other dials. Both are diallers, so the ``initiator`` was agreed on before. Otherwise as `dial`."""
    pipe = TcpPipe(await _connected(address, port), address.bare, traffic, initiator=initiator)
    pipe.from_own_port = pipe.punched = True
    return pipe


async def _connected(address: Address, port: Listener | None = None) -> trio.SocketStream:
    family = trio.socket.AF_INET6 if address.kind == "ip6" else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if port is not None:
            # The listener was bound without SO_REUSEPORT, to detect whether another program has the port
            port.sockets.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == trio.socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await sock.bind(port.sockets.socket.getsockname())
        await sock.connect((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def accept(
    caller: Caller, nursery: trio.Nursery, traffic: Traffic, certificate: ServerCertificate | None
) -> Pipe:
    """Prepare an accepted socket until its bytes are libp2p's: for ws that is after the upgrade. The caller sets the
    deadline.

    Raises `ConnectionLost`, `TlsFailed` or trio_websocket's `HandshakeError`.
    """
    stream, remote = caller.stream, caller.remote
    if remote.transport == "tcp":
        pipe = TcpPipe(stream, remote, traffic, initiator=False)
        pipe.unread(caller.ahead)
        return pipe
    over: trio.abc.Stream = Ahead(stream, caller.ahead) if caller.ahead else stream
    if remote.transport == "wss":
        assert certificate is not None  # otherwise nothing listens there
        over = await certificate.accept(over)
    return await websocket.accept(stream, remote, nursery, traffic, over)


class Port(ABC):
    """One bound socket. ``address`` is the requested address; ``bound`` has the actual port."""

    def __init__(self, address: Address, bound: Address) -> None:
        self.address = address
        self.bound = bound

    @property
    def transport(self) -> Transport:
        return self.bound.transport

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class UdpPort(Port):
    """A UDP socket."""

    def __init__(self, address: Address, bound: Address, sock: socket.socket) -> None:
        super().__init__(address, bound)
        self.socket = sock

    def close(self) -> None:
        self.socket.close()


class Listener(Port):
    """A TCP socket that accepts connections."""

    def __init__(self, address: Address, bound: Address, sockets: accepting.Listener) -> None:
        super().__init__(address, bound)
        self.sockets = sockets

    def close(self) -> None:
        self.sockets.socket.close()

    def reaches(self, address: Address) -> bool:
        """Whether a TCP dial of this public address can use the listener's port."""
        if self.transport != "tcp" or address.transport != "tcp" or self.bound.kind != address.kind:
            return False
        ip = to_ip(self.bound.host)
        return ip is not None and reach(ip) != "loopback"

    def remote_of(self, stream: trio.SocketStream) -> Address:
        host, port = stream.socket.getpeername()[:2]
        return from_endpoint(host, port, self.transport)


async def listen(address: Address, preferred: int = 0, beside: Sequence[int] = ()) -> Port:
    """Bind and listen; for port 0 on the ``preferred`` port, that of the last run, else on one ``beside``, which
    another listen address has, if it is free. Raises `ListenError`. No other program's port is taken over or shared;
    SO_REUSEPORT is set with the first dial from the port."""
    if preferred and not address.port:
        try:
            return await _listen(address, preferred)
        except ListenError as error:
            log.warning(
                "the port of the last run is taken; another is chosen",
                address=str(address),
                port=preferred,
                error=error.reason,
            )
    for port in () if address.port else beside:
        with suppress(ListenError):
            return await _listen(address, port)
    return await _listen(address, address.port)


async def _listen(address: Address, port: int) -> Port:
    try:
        family, host = await _bind_target(address)
    except OSError as error:
        raise ListenError(str(address), error.strerror or str(error)) from error
    udp = address.transport == QUIC
    sock = trio.socket.socket(family, trio.socket.SOCK_DGRAM if udp else trio.socket.SOCK_STREAM)
    try:
        if not udp:  # for UDP it would let another program take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == trio.socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((host, port))
        if not udp:
            sock.listen(BACKLOG)
        bound_host, bound_port = sock.getsockname()[:2]
    except OSError as error:
        sock.close()
        raise ListenError(str(address), (error.strerror or str(error)).lower()) from error
    except BaseException:
        sock.close()
        raise
    bound = replace(from_endpoint(bound_host, bound_port, address.transport), sni=address.sni)
    raw = socket.socket(fileno=sock.detach())
    return UdpPort(address, bound, raw) if udp else Listener(address, bound, accepting.Listener(raw, AT_ONCE))


async def _bind_target(address: Address) -> tuple[int, str]:
    if address.kind in ("ip4", "ip6"):
        return (trio.socket.AF_INET6 if address.kind == "ip6" else trio.socket.AF_INET), address.host
    if address.kind == "dnsaddr":
        raise OSError(errno.EADDRNOTAVAIL, "a /dnsaddr names no port to listen on")
    wanted = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    family, _, _, _, endpoint = (await look_up(address.host, 0, wanted))[0]
    return int(family), str(endpoint[0])
