"""A byte stream to a peer below any encryption. It counts bytes, and records how it ended."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from abc import ABC, abstractmethod
from dataclasses import dataclass

import trio

from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import ConnectionLost

_INT = struct.Struct("=i")
_TCP_INFO, _TCP_INFO_AT = struct.Struct("=QQ"), 120  # tcpi_bytes_acked and tcpi_bytes_received, and their offset
_TCP_INFO_SIZE = _TCP_INFO_AT + _TCP_INFO.size


class Traffic:
    """Bytes on all connections of a node, as they pass its sockets."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a connection. ``received`` are bytes from the other side, ``taken`` bytes known to have reached
    it, ``owed`` bytes on their way to it. If ``received`` or ``taken`` grows, the connection is alive."""

    received: int
    taken: int
    owed: int


class Pipe(ABC):
    """One raw connection. ``ended`` is how the other side or the network ended it: ``closed_by_peer``, ``reset`` or
    ``timeout``. It is None while the connection is up, and where we ended it."""

    is_initiator: bool
    remote: Address
    ended: str | None
    from_own_port = False  # dialled from a listening port, so others may reach the address at which it is observed
    punched = False  # both sides dialled, each from a listening port

    @abstractmethod
    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, at least one. Raises `ConnectionLost`, at the end too."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send all of ``data``. Raises `ConnectionLost`."""

    @property
    def writes_now(self) -> bool:
        """`write_now` and `finish_now` may be called."""
        return False

    @property
    def owing(self) -> bool:
        """`write_now` has left something behind, which goes out with the next `write`, of nothing too."""
        return False

    def write_now(self, data: bytes | bytearray) -> None:
        """Send ``data`` as far as the kernel takes it now; the rest is ``owing``. Raises `ConnectionLost`."""
        raise NotImplementedError

    @abstractmethod
    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""

    @abstractmethod
    async def finish(self) -> None:
        """End our side, and leave reading open. The caller sets the deadline."""

    def finish_now(self) -> None:
        """As `finish`, where it needs no wait."""
        raise NotImplementedError

    @abstractmethod
    def progress(self) -> Progress:
        """The progress so far."""

    @abstractmethod
    def trusted(self) -> None:
        """The peer has proven who it is: from now on it may send larger messages."""

    @abstractmethod
    async def close(self) -> None:
        """Close it at once. Nothing is awaited, so a peer that does not read cannot block this."""


class SocketPipe(Pipe):
    """A pipe over a socket of its own, ``stream``, whose bytes are counted in ``traffic``."""

    def __init__(self, stream: trio.SocketStream, remote: Address, traffic: Traffic, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self.remote = remote
        self.ended = None
        self.stream = stream
        self.traffic = traffic

    def progress(self) -> Progress:
        """As the kernel knows it (tcp(7), linux/tcp.h), bytes of incomplete messages included."""
        sock = self.stream.socket
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
            taken, received = _TCP_INFO.unpack_from(info, _TCP_INFO_AT)
            (owed,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
        except (OSError, ValueError, struct.error):
            return Progress(0, 0, 0)  # it was closed meanwhile
        return Progress(received, taken, owed)

    def trusted(self) -> None:
        pass

    async def close(self) -> None:
        # trio's `aclose_forcefully` costs a cancel scope each time, for thousands of connections
        self.stream.socket.close()

    def broken(self, error: BaseException) -> ConnectionLost:
        """The `ConnectionLost` for an error of the socket. It also records how the connection ended."""
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        code = cause.errno if isinstance(cause, OSError) else None
        self.ended = self.ended or ("timeout" if code in (errno.ETIMEDOUT, errno.EHOSTUNREACH) else "reset")
        return ConnectionLost(f"connection {self.ended}: {cause}")
