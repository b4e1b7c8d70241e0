"""One connection to the daemon for trio and asyncio, without a task of its own.

It owns a plain non-blocking socket, not a stream of the event loop's. So it can be closed at once and from anywhere,
even by a garbage collector, and nothing is left behind when a task is cancelled or an iteration interrupted.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import anyio
import anyio.lowlevel

from fabstir_client._async.concurrency import now, until
from fabstir_client._core.discovery import (
    CHUNK,
    CONNECT_TIMEOUT,
    RETRY_CONNECT,
    SEND_TIMEOUT,
    Endpoint,
    Target,
    describe,
    unreachable,
)
from fabstir_client._core.protocol import earlier
from fabstir_client.api.errors import BadAnswer, ConnectionLost


class Link:
    """A connected socket and its framing. One task may receive while others send."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._socket: socket.socket | None = sock
        self._framing = endpoint.framing()
        self._sending = anyio.Lock(fast_acquire=True)
        self._process = os.getpid()

    @classmethod
    async def open(cls, target: Target, deadline: float | None = None) -> Link:
        """A link to the first candidate that answers. Raises `DaemonUnreachable`, at the latest at ``deadline``,
        `Forbidden` or `InvalidConfig`."""
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            began = now()
            ends = earlier(began + CONNECT_TIMEOUT, deadline)
            try:
                with until(ends):
                    return await cls._open_at(candidate.endpoint)
            except (OSError, ConnectionLost, BadAnswer) as error:
                tried.append((candidate.label, describe(error, candidate.endpoint.path, within=ends - began)))
        raise unreachable(tried, target)

    @classmethod
    async def _open_at(cls, endpoint: Endpoint) -> Link:
        sock = await connect_socket(endpoint)
        link = cls(sock, endpoint)
        try:
            await link._write(link._framing.hello())
            while not link._framing.ready:
                await link._read()
        except BaseException:
            link.close()
            raise
        return link

    @property
    def closed(self) -> bool:
        return self._socket is None

    async def send(self, message: bytes, deadline: float | None = None) -> None:
        """Send a message. Once begun it cannot be cancelled, since half a message would break the connection. Raises
        `ConnectionLost`, and `TimeoutError` at the deadline."""
        await self._write(self._framing.frame(message), deadline)

    async def receive(self, deadline: float | None = None) -> list[bytes]:
        """The messages received, at least one. ``deadline`` is a time of the loop's clock.

        Raises `TimeoutError`, `ConnectionLost`, or the reason that the daemon gave for ending the connection.
        """
        with until(deadline):
            while True:
                messages = await self._read()
                if messages:
                    return messages
        raise AssertionError("until() has raised")  # for the type checker

    def wake(self) -> None:
        """End a wait in another task: it raises `ConnectionLost`."""
        self.close()

    def close(self) -> None:
        """Close it at once, without waiting; does nothing if it is already closed."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if self._process != os.getpid():
            sock.close()  # in a forked child, the parent's connection must stay open
            return
        try:
            sock.send(self._framing.goodbye())
        except OSError:
            pass  # only a courtesy: the other side may have gone, or be slow
        try:
            anyio.notify_closing(sock)
        except anyio.NoEventLoopError:
            pass  # closed after the loop has ended, when nobody can be waiting
        sock.close()

    def __del__(self) -> None:
        # An interrupted iteration is dropped without notice: `async for` never closes its iterator
        sock = self._socket
        if sock is not None:
            sock.close()

    def receive_now(self) -> list[bytes]:
        """The messages already received, without waiting. Raises as `receive` does."""
        try:
            data = self._open_socket().recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
        return self._framing.feed(data)

    async def _read(self) -> list[bytes]:
        try:
            await anyio.wait_readable(self._open_socket())
        except (anyio.ClosedResourceError, OSError):
            raise ConnectionLost("the connection to the daemon was closed") from None
        messages = self.receive_now()
        await self._write(self._framing.outgoing())
        return messages

    async def _write(self, data: bytes, deadline: float | None = None) -> None:
        if not data:
            return
        async with self._sending:
            ends = earlier(now() + SEND_TIMEOUT, deadline)
            with anyio.CancelScope(deadline=ends, shield=True):
                view = memoryview(data)
                try:
                    while view:
                        sock = self._open_socket()
                        try:
                            view = view[sock.send(view) :]
                        except BlockingIOError:
                            await anyio.wait_writable(sock)
                except anyio.ClosedResourceError:
                    raise ConnectionLost("the connection to the daemon was closed") from None
                except OSError as error:
                    raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
                return
            if ends != deadline:
                self.close()
                raise ConnectionLost(f"the daemon has read nothing for {SEND_TIMEOUT:g} s")
            if len(view) < len(data):
                self.close()
            raise TimeoutError

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLost("the connection to the daemon is closed")
        if self._process != os.getpid():
            raise ConnectionLost("the connection to the daemon belongs to another process")
        return self._socket


async def connect_socket(endpoint: Endpoint) -> socket.socket:
    """A connected, non-blocking socket. The caller sets the deadline. Raises OSError."""
    return await (_connect_unix(endpoint.path) if endpoint.path is not None else _connect_tcp(endpoint))


async def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux has no way to wait for room in the backlog of a Unix socket
                await anyio.sleep(RETRY_CONNECT)
            else:
                await anyio.lowlevel.checkpoint()
                return sock
    except BaseException:
        sock.close()
        raise


async def _connect_tcp(endpoint: Endpoint) -> socket.socket:
    found: list[Any] = await anyio.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionRefusedError()
    for family, kind, number, _, address in found:
        sock = socket.socket(family, kind, number)
        try:
            sock.setblocking(False)
            try:
                sock.connect(address)
            except BlockingIOError:
                await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
