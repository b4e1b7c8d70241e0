"""TCP with a read buffer, so that short reads cost no system call each."""

from __future__ import annotations

import os
import socket

import trio

from fabstird.p2p.transport.pipe import SocketPipe, Traffic
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import ConnectionLost

READ_AHEAD = 4096  # bytes
BULK = 128 * 1024  # bytes read at once from a proven peer that sends this much
IN_A_ROW = 256 * 1024  # bytes written before other tasks get a turn
LEAST = 2048  # bytes that a short write counts as


class TcpPipe(SocketPipe):
    """A TCP connection. It has one writer at a time: the task of the handshake, then the holder of the muxer's lock."""

    def __init__(self, stream: trio.SocketStream, remote: Address, traffic: Traffic, *, initiator: bool) -> None:
        super().__init__(stream, remote, traffic, initiator=initiator)
        self._ahead = b""
        self._at = 0  # how much of it has been read
        self._most = self._bulk = READ_AHEAD
        self._more = False  # the last read was a long one
        self._in_a_row = 0  # bytes written since other tasks had a turn
        self._writing = False
        self._finished = False
        self._owed = b""

    @property
    def writes_now(self) -> bool:
        return not (self._writing or self._finished or self._owed)

    @property
    def owing(self) -> bool:
        return bool(self._owed)

    def trusted(self) -> None:
        self._bulk = BULK

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._ahead:
            data = await self._receive(max(n or 0, self._most))
            if n is None or len(data) <= n:
                return data
            self._ahead = data
        at = self._at
        end = len(self._ahead) if n is None else min(at + n, len(self._ahead))
        data = self._ahead[at:end]
        self._at = end
        if end == len(self._ahead):
            self._ahead, self._at = b"", 0
        return data

    def unread(self, data: bytes) -> None:
        self._ahead, self._at = data + self._ahead[self._at :], 0

    async def _receive(self, most: int) -> bytes:
        """Read from the socket. After a short read there is probably no more, so it waits first: trio's own read would
        try a system call that finds nothing."""
        try:
            data = await (self.stream.receive_some(most) if self._more else self._wait_and_read(most))
        except (OSError, trio.BrokenResourceError) as error:
            raise self.broken(error) from error
        except trio.ClosedResourceError as error:
            raise ConnectionLost("connection closed") from error
        if not data:
            self.ended = self.ended or "closed_by_peer"
            raise ConnectionLost("closed by the other side")
        self._more = len(data) >= READ_AHEAD
        self._most = self._bulk if self._more else READ_AHEAD
        self.traffic.received += len(data)
        return bytes(data)

    async def _wait_and_read(self, most: int) -> bytes:
        sock = self.stream.socket
        while True:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(sock.fileno())
            try:
                return os.read(sock.fileno(), most)
            except BlockingIOError:
                continue

    async def write(self, data: bytes) -> None:
        if self._writing or self._finished:  # a TLS close may come while another task writes
            raise ConnectionLost("connection closed")
        self._writing = True
        try:
            await self._send(data)
        except (OSError, trio.BrokenResourceError) as error:
            raise self.broken(error) from error
        except trio.ClosedResourceError as error:
            raise ConnectionLost("connection closed") from error
        finally:
            self._writing = False
        self.traffic.sent += len(data)

    def write_now(self, data: bytes | bytearray) -> None:
        sock = self.stream.socket
        sent = 0
        if sock.fileno() < 0:
            raise ConnectionLost("connection closed")
        try:
            if not self._owed:
                sent = os.write(sock.fileno(), data)
        except BlockingIOError:
            pass
        except OSError as error:
            raise self.broken(error) from error
        self.traffic.sent += len(data)
        self._owed += data[sent:]

    async def _send(self, data: bytes) -> None:
        """Write to the socket. The kernel takes most writes at once; then no other task gets a turn, which would cost
        more than the write, until there were many. A write that the kernel took is reported as such, even if cancelled:
        Noise has counted it."""
        sock = self.stream.socket
        if sock.fileno() < 0:
            raise trio.ClosedResourceError
        if self._owed:
            data, self._owed = self._owed + data, b""
        try:
            sent = os.write(sock.fileno(), data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._in_a_row = 0
            await self.stream.send_all(memoryview(data)[sent:])
            return
        self._in_a_row += max(sent, LEAST)
        if self._in_a_row > IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def finish(self) -> None:
        self.finish_now()

    def finish_now(self) -> None:
        self._finished = True
        if self._writing or self._owed:
            return  # the other side does not take a stream's last bytes; the caller goes on to close
        try:
            self.stream.socket.shutdown(socket.SHUT_WR)  # trio's `send_eof` takes a turn of the loop
        except OSError:
            pass  # the other side ended first, or it is closed here
