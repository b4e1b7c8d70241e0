"""A connection's socket, as cheap as it can be had.

What a connection sends goes through its `Outbox`: bytes in order and whole, written at once as long as the socket
takes them, so that a task that has something to say need not wait for a turn. What the socket does not take now is
kept, and `flush` sees it out. Whoever writes stops while `clear` is false, but for the answers of calls that were let
in; of those it keeps so many bytes, and for so long, and then closes the connection: its caller does not read.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections import deque
from typing import NoReturn

import trio

from fabstird.log import Throttled, get_logger

log = Throttled(get_logger("api.sockets"))

RECEIVE = 65536  # bytes read at once


async def receive(sock: trio.socket.SocketType) -> bytes:
    """What has come; empty at the end. It waits first, unlike trio's own: that spares a system call that would find
    nothing. Raises `trio.BrokenResourceError` and `trio.ClosedResourceError`."""
    while True:
        await trio.lowlevel.wait_readable(_descriptor(sock))
        try:
            return os.read(_descriptor(sock), RECEIVE)
        except BlockingIOError:
            continue
        except OSError as error:
            raise trio.BrokenResourceError from error


class Outbox:
    """Over a connected stream socket. Everything that is sent on it goes through here.

    ``most`` is how many bytes may wait when something is added to them, ``patience`` how many seconds they may wait
    without the socket taking any.
    """

    def __init__(self, sock: trio.socket.SocketType, most: float = math.inf, patience: float = math.inf) -> None:
        self._sock = sock
        self._most = most
        self._patience = patience
        self._rest: deque[memoryview] = deque()
        self._flushing = trio.Lock()
        self._ended = False

    @property
    def clear(self) -> bool:
        """Nothing waits to be sent."""
        return not self._rest

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""
        return sum(map(len, self._rest))

    def write(self, data: bytes) -> None:
        """Send ``data`` after all that was written before it. Raises `trio.BrokenResourceError` where the connection
        is gone or `end` was called, and `trio.ClosedResourceError` where it is closed here."""
        if self._ended:
            raise trio.BrokenResourceError("the connection is being closed")
        if self._rest:
            if self.waiting + len(data) > self._most:
                self._give_up("api.max_send_queue_bytes", self._most)
            self._rest.append(memoryview(data))
            return
        sent = self._send(data)
        if sent < len(data):
            self._rest.append(memoryview(data)[sent:])

    def end(self) -> None:
        """What has been written is the last."""
        self._ended = True

    async def flush(self) -> None:
        """Return once nothing waits. Raises as `write` does. Cancelled, it loses nothing."""
        if not self._rest:
            await trio.lowlevel.checkpoint()
            return
        async with self._flushing:  # one task waits for the socket, and the others for that
            while self._rest:
                with trio.move_on_after(self._patience) as scope:
                    await trio.lowlevel.wait_writable(_descriptor(self._sock))
                if scope.cancelled_caught:
                    self._give_up("api.send_timeout", self._patience * 1000)
                self._send_rest()

    def gone(self, *, half_closed: bool) -> bool:
        """Whether the other side has closed the connection, which a reader that is busy would not see; with
        ``half_closed``, also whether it has only ended what it sends."""
        poll = select.poll()
        poll.register(_descriptor(self._sock), select.POLLRDHUP if half_closed else 0)
        return bool(poll.poll(0))

    def _give_up(self, key: str, limit: float) -> NoReturn:
        """Close the connection of a caller that does not read; its reader sees that, and ends the rest of it."""
        log.warning("a caller does not read; its connection is closed", waiting=self.waiting, limit=limit, key=key)
        self._ended = True
        self._rest.clear()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already
        raise trio.BrokenResourceError("the other side does not read")

    def _send_rest(self) -> None:
        while self._rest:
            first = self._rest[0]
            sent = self._send(first)
            if sent < len(first):
                self._rest[0] = first[sent:]
                return
            self._rest.popleft()

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return os.write(_descriptor(self._sock), data)  # trio's own send() has to be awaited
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error


def _descriptor(sock: trio.socket.SocketType) -> int:
    descriptor = sock.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError
    return descriptor
