"""A connection's socket, with as little overhead as possible.

All that a connection sends goes through its `Outbox`, in order and complete. Bytes are written at once while the socket
takes them, so a sender need not wait for a turn. The rest is kept, and `flush` writes it. Senders stop while `clear` is
false, except for answers to accepted calls. Of these a bounded number of bytes may wait for a bounded time; after that
the connection is closed, since its caller does not read.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections import deque

import trio

from fabstird.log.logger import Throttled, get_logger
from fabstird.rpc.limits import Unsent

log = Throttled(get_logger("api.sockets"))

RECEIVE = 65536  # bytes read at once


async def receive(sock: trio.socket.SocketType) -> bytes:
    """The bytes received; empty at the end. It waits first, unlike trio's own, which saves a system call that would
    find nothing. Raises `trio.BrokenResourceError`, `trio.ClosedResourceError`."""
    while True:
        await trio.lowlevel.wait_readable(_descriptor(sock))
        try:
            return os.read(_descriptor(sock), RECEIVE)
        except BlockingIOError:
            continue
        except OSError as error:
            raise trio.BrokenResourceError from error


class Outbox:
    """The bytes that a connected stream socket still has to send.

    Args:
        sock: The socket. Everything sent on it goes through here.
        most: How many bytes may already wait when more are added.
        patience: How many seconds they may wait without the socket taking any.
        unsent: Counts what waits on all connections.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        most: float = math.inf,
        patience: float = math.inf,
        unsent: Unsent | None = None,
    ) -> None:
        self._sock = sock
        self._most = most
        self._patience = patience
        self._rest: deque[memoryview] = deque()
        self._unsent = unsent or Unsent()
        self.waiting = 0  # bytes that wait to be sent
        self._flushing = trio.Lock()
        self._ended = False

    @property
    def clear(self) -> bool:
        """Nothing waits to be sent."""
        return not self._rest

    def write(self, data: bytes) -> None:
        """Send ``data`` after everything written earlier. Raises `trio.BrokenResourceError` where the connection has
        gone or `end` was called, `trio.ClosedResourceError` where it was closed here."""
        if self._ended:
            raise trio.BrokenResourceError("the connection is being closed")
        if self._rest:
            if self.waiting + len(data) > self._most:
                self.give_up("api.max_send_queue_bytes", self._most)
                raise _given_up()
            self._keep(memoryview(data))
            return
        sent = self._send(data)
        if sent < len(data):
            self._keep(memoryview(data)[sent:])

    def end(self) -> None:
        """Refuse further writes."""
        self._ended = True

    async def flush(self) -> None:
        """Return once nothing waits. Cancelled, it loses nothing. Raises as `write` does."""
        if not self._rest:
            await trio.lowlevel.checkpoint()
            return
        async with self._flushing:  # one task waits for the socket, the others wait for that task
            while self._rest:
                with trio.move_on_after(self._patience) as scope:
                    await trio.lowlevel.wait_writable(_descriptor(self._sock))
                if scope.cancelled_caught:
                    self.give_up("api.send_timeout", self._patience * 1000)
                if not self._rest:  # it was closed meanwhile
                    raise _given_up()
                self._send_rest()

    def gone(self, *, half_closed: bool) -> bool:
        """Whether the other side has closed the connection, which a busy reader does not notice. With ``half_closed``,
        also whether it has closed only its sending side."""
        poll = select.poll()
        poll.register(_descriptor(self._sock), select.POLLRDHUP if half_closed else 0)
        return bool(poll.poll(0))

    def give_up(self, key: str, limit: float) -> None:
        """Close the connection of a caller that does not read. Its reader notices, and ends the rest."""
        log.warning("a caller does not read; its connection is closed", waiting=self.waiting, limit=limit, key=key)
        self._ended = True
        self.forget()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has gone already

    def forget(self) -> None:
        """Drop what still waits."""
        self._rest.clear()
        self._count(-self.waiting)

    def _keep(self, rest: memoryview) -> None:
        self._rest.append(rest)
        self._count(len(rest))
        if not self._rest:
            raise _given_up()

    def _count(self, size: int) -> None:
        self.waiting += size
        if size > 0:
            self._unsent.add(self, size)
        else:
            self._unsent.sent(self, -size)

    def _send_rest(self) -> None:
        while self._rest:
            first = self._rest[0]
            sent = self._send(first)
            if sent == len(first):
                self._rest.popleft()
            else:
                self._rest[0] = first[sent:]
            self._count(-sent)
            if sent < len(first):
                return

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return os.write(_descriptor(self._sock), data)  # trio's own send() has to be awaited
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error


def _given_up() -> trio.BrokenResourceError:
    return trio.BrokenResourceError("the other side does not read")


def _descriptor(sock: trio.socket.SocketType) -> int:
    descriptor = sock.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError
    return descriptor
