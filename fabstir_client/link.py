"""One connection to the daemon for trio and asyncio, without any task of its own.

It owns a plain non-blocking socket, not a stream of the event loop's: so it can be closed at once and from anywhere,
also by a garbage collector, and nothing is left behind where a task is cancelled or an iteration is broken off.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import anyio
import anyio.lowlevel

from fabstir_client.discovery import (
    CHUNK,
    CONNECT_TIMEOUT,
    RETRY_CONNECT,
    SEND_TIMEOUT,
    Endpoint,
    Target,
    describe,
    unreachable,
)
from fabstir_client.errors import BadAnswer, ClientTimeout, ConnectionLost
from fabstir_client.protocol import Call, Notification, Pending, Session, T


class Link:
    """A connected socket and its framing. One task may receive while others send."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._socket: socket.socket | None = sock
        self._framing = endpoint.framing()
        self._sending = anyio.Lock(fast_acquire=True)

    @classmethod
    async def open(cls, target: Target) -> Link:
        """A link to the first candidate that answers. Raises `DaemonUnreachable`, `Forbidden` or `InvalidConfig`."""
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            try:
                with anyio.fail_after(CONNECT_TIMEOUT):
                    return await cls._open_at(candidate.endpoint)
            except (OSError, ConnectionLost, BadAnswer) as error:
                tried.append((candidate.label, describe(error, candidate.endpoint.path)))
        raise unreachable(tried)

    @classmethod
    async def _open_at(cls, endpoint: Endpoint) -> Link:
        sock = await (_connect_unix(endpoint.path) if endpoint.path is not None else _connect_tcp(endpoint))
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

    async def send(self, message: bytes) -> None:
        """Raises `ConnectionLost`. Once begun it cannot be cancelled: half a message would spoil the connection."""
        await self._write(self._framing.frame(message))

    async def receive(self) -> list[bytes]:
        """The messages that came, at least one. Raises `ConnectionLost`, or what the daemon gave as the reason."""
        while True:
            messages = await self._read()
            if messages:
                return messages

    def close(self) -> None:
        """At once, without waiting for anything; does nothing where it is closed already."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        try:
            sock.send(self._framing.goodbye())
        except OSError:
            pass  # a courtesy: the other side may be gone, or slow
        try:
            anyio.notify_closing(sock)
        except anyio.NoEventLoopError:
            pass  # closed after the end of the loop, where nobody can be waiting
        sock.close()

    def __del__(self) -> None:
        # An iteration that was broken off is dropped without a word: `async for` never closes its iterator.
        sock = self._socket
        if sock is not None:
            sock.close()

    def receive_now(self) -> list[bytes]:
        """The messages that are already here, without waiting; raises as `receive` does."""
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

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        async with self._sending:
            with anyio.move_on_after(SEND_TIMEOUT, shield=True):
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
            self.close()
            raise ConnectionLost(f"the daemon took nothing for {SEND_TIMEOUT:g} s")

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLost("the connection to the daemon is closed")
        return self._socket


async def request(link: Link, session: Session[None], call: Call[T], early: list[Notification]) -> T:
    """Make one call on a link that nobody else reads; notifications that come before its answer go to ``early``.

    Raises `ClientTimeout`, `ConnectionLost` or the daemon's error.
    """
    pending: Pending[None] | None = None
    try:
        with anyio.fail_after(call.bound):
            pending, data = session.begin(call, None)
            try:
                await link.send(data)
            except ConnectionLost:
                pass  # what the daemon said before it closed can still be read, and ends in the same error if nothing
            while pending.outcome is None:
                for message in await link.receive():
                    item = session.receive(message)
                    if item is not None and not isinstance(item, Pending):
                        early.append(item)
    except TimeoutError:
        raise ClientTimeout(f"the daemon did not answer {call.method} within {call.bound:g} s") from None
    finally:
        if pending is not None:
            session.forget(pending)
    return call.read(pending.take())


async def call_once(target: Target, call: Call[T]) -> T:
    """Connect, make one call, and close. Raises as `Link.open` and `request` do."""
    link = await Link.open(target)
    try:
        return await request(link, Session(), call, [])
    finally:
        link.close()


async def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux has no way to wait for room in the queue of a listening Unix socket.
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
