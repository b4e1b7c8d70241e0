"""A program's connection that has become a stream: its bare socket."""

from __future__ import annotations

import os
import select
import socket
import struct

import trio

from fabstir_client.api.streams import Outcome

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing a TCP socket resets it


class LocalSocket:
    """A connected stream socket, Unix or TCP. It closes the socket itself."""

    __slots__ = ("_fd", "_sock")

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._fd = sock.fileno()

    def take(self, data: memoryview) -> int:
        """Write as much as it takes now. Raises OSError where nobody reads it any more."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0

    def read(self, most: int) -> bytes | None:
        """Up to ``most`` of the bytes received; empty at the end, None where there are none yet. Raises OSError."""
        try:
            return os.read(self._fd, most)
        except BlockingIOError:
            return None

    async def readable(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    async def writable(self) -> None:
        await trio.lowlevel.wait_writable(self._fd)

    def end(self) -> None:
        """End our sending side. Raises OSError where the program has gone."""
        self._sock.shutdown(socket.SHUT_WR)

    def gone(self) -> bool:
        """Whether the program has closed both directions; on TCP only a write shows that."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def close(self, outcome: Outcome) -> None:
        """Close it. After any outcome but ``ended``, a TCP connection is reset, unread bytes are dropped, and a Unix
        connection is reset if the program has sent bytes that nobody read."""
        self._fd = -1
        if outcome != "ended" and self._sock.family != socket.AF_UNIX:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # it has gone
        self._sock.close()
