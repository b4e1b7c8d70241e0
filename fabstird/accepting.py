"""Connections, as they come: several at a time."""

from __future__ import annotations

import socket
from collections import deque

import trio

AT_ONCE = 16  # of callers


class Listener(trio.abc.Listener[trio.SocketStream]):
    """As `trio.SocketListener`, over a socket that listens. That takes one connection in a turn of the loop, so that
    who comes behind many others waits for as many turns; and those are long while the others are at work. ``most`` are
    taken in one."""

    def __init__(self, sock: socket.socket, most: int = AT_ONCE) -> None:
        self._most = most
        self._sock = sock
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._taken: deque[trio.SocketStream] = deque()

    @property
    def socket(self) -> trio.socket.SocketType:
        """The one that listens."""
        return self._listener.socket

    async def accept(self) -> trio.SocketStream:
        if not self._taken:
            await trio.lowlevel.wait_readable(self._sock)  # trio's own looks first, and finds nobody
            self._take_more()
        if not self._taken:  # or it raises what is wrong
            self._taken.append(await self._listener.accept())
        return self._taken.popleft()

    def _take_more(self) -> None:
        while len(self._taken) < self._most:
            try:
                taken, _ = self._sock.accept()
            except OSError:
                return  # there is none; or no descriptor, which the next `accept` says
            self._taken.append(trio.SocketStream(trio.socket.from_stdlib_socket(taken)))

    async def aclose(self) -> None:
        for stream in self._taken:
            stream.socket.close()
        self._taken.clear()
        await self._listener.aclose()
