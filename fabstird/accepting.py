"""Accepts connections, several in one turn of the event loop."""

from __future__ import annotations

import socket
from collections import deque

import trio

AT_ONCE = 16  # connections accepted in one turn


class Listener(trio.abc.Listener[trio.SocketStream]):
    """Like `trio.SocketListener`, which accepts only one connection in a turn of the loop: a caller behind many others
    would wait for as many turns, and turns are long while those others are being served. This one accepts up to
    ``most``."""

    def __init__(self, sock: socket.socket, most: int = AT_ONCE) -> None:
        self._most = most
        self._sock = sock
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._accepted: deque[trio.SocketStream] = deque()

    @property
    def socket(self) -> trio.socket.SocketType:
        """The listening socket."""
        return self._listener.socket

    async def accept(self) -> trio.SocketStream:
        if not self._accepted:
            await trio.lowlevel.wait_readable(self._sock)  # saves a system call that would find no connection
            self._accept_more()
        if not self._accepted:  # trio's own accepts one, or raises the error
            self._accepted.append(await self._listener.accept())
        return self._accepted.popleft()

    def _accept_more(self) -> None:
        while len(self._accepted) < self._most:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return  # no more connections; or no free descriptor, which the next `accept` reports
            self._accepted.append(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

    async def aclose(self) -> None:
        for stream in self._accepted:
            stream.socket.close()
        self._accepted.clear()
        await self._listener.aclose()
