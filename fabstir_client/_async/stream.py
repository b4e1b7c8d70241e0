"""One stream to a peer for trio and asyncio. It has its own connection, and nothing between the socket and its user."""

from __future__ import annotations

import contextlib
import socket

import anyio
import anyio.abc
import anyio.lowlevel

from fabstir_client._async.calling import call_once
from fabstir_client._async.concurrency import now, until
from fabstir_client._async.link import connect_socket
from fabstir_client._core import calls
from fabstir_client._core.discovery import CHUNK, CONNECT_TIMEOUT, Endpoint, Target, describe, unreachable
from fabstir_client._core.opening import opening
from fabstir_client._core.protocol import Call, earlier, unanswered
from fabstir_client.api.errors import ConnectionLost, FabstirError, StreamReset
from fabstir_client.api.streams import OpenedStream


class StreamBroken(StreamReset, anyio.BrokenResourceError):
    """`StreamReset`, and also anyio's BrokenResourceError, so code for any byte stream understands it."""


class Stream(anyio.abc.ByteStream):
    """Bytes to and from a peer, with half-close. ``about`` is the daemon's description.

    `receive` raises `anyio.EndOfStream` once the peer has ended its side, and `StreamBroken` if the stream was reset: a
    reset never looks like an end. Closing the stream ends our side too; whatever the peer still sends then resets it.
    """

    def __init__(self, sock: socket.socket, about: OpenedStream, first: bytes, target: Target) -> None:
        self.about = about
        self._socket = sock
        self._first = first
        self._target = target
        self._sending = anyio.Lock(fast_acquire=True)
        self._closed = False

    @classmethod
    async def open(cls, target: Target, call: Call[OpenedStream], deadline: float | None = None) -> Stream:
        """Connect, and call ``stream.open`` or ``stream.accept``. Raises the daemon's error, `DaemonUnreachable`,
        `ClientTimeout`."""
        began = now()
        ends = earlier(began + call.bound, deadline)
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            try:
                with until(earlier(now() + CONNECT_TIMEOUT, ends)):
                    sock = await connect_socket(candidate.endpoint)
            except OSError as error:
                within = min(CONNECT_TIMEOUT, call.bound)
                tried.append((candidate.label, describe(error, candidate.endpoint.path, within=within)))
                continue
            try:
                with until(ends):
                    about, first = await _open_on(sock, candidate.endpoint, call)
                return cls(sock, about, first, target)
            except TimeoutError:
                sock.close()
                raise unanswered(call, ends - began) from None
            except BaseException:
                sock.close()
                raise
        raise unreachable(tried, target)

    @property
    def stream_id(self) -> str:
        return self.about.stream_id

    @property
    def peer_id(self) -> str:
        return self.about.peer_id

    @property
    def protocol(self) -> str:
        """The negotiated protocol."""
        return self.about.protocol

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        self._check_open()
        if self._first:
            await anyio.lowlevel.checkpoint()
            data, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return data
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            except OSError:
                raise await self._broken() from None
            if data:
                await anyio.lowlevel.checkpoint()
                return data
            if (outcome := await self._outcome()) not in (None, "ended"):
                raise StreamBroken(f"the stream to {self.peer_id} was cut: {outcome}", outcome=outcome)
            raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        async with self._sending:
            self._check_open()
            view = memoryview(item)
            try:
                while view:
                    try:
                        view = view[self._socket.send(view) :]
                    except BlockingIOError:
                        await anyio.wait_writable(self._socket)
            except OSError:
                raise await self._broken() from None
            await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End our side; the peer's side goes on."""
        async with self._sending:
            self._check_open()
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                raise await self._broken() from None

    async def reset(self) -> None:
        """Reset it in both directions at once, and tell the peer."""
        if not self._closed:
            with anyio.CancelScope(shield=True), contextlib.suppress(FabstirError):  # it may have ended, or the daemon
                await call_once(self._target, calls.reset_stream(self.stream_id), now() + CONNECT_TIMEOUT)
        await self.aclose()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._socket)
            self._socket.close()
        await anyio.lowlevel.checkpoint()

    def __del__(self) -> None:
        self._socket.close()

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    async def _broken(self) -> StreamBroken | anyio.ClosedResourceError:
        if self._closed:
            return anyio.ClosedResourceError()
        outcome = await self._outcome() or "reset"
        return StreamBroken(f"the stream to {self.peer_id} was cut: {outcome}", outcome=outcome)

    async def _outcome(self) -> str | None:
        """How the stream ended, which a Unix socket does not always show; None while it is open, or if that is no
        longer known."""
        try:
            for record in await call_once(self._target, calls.streams(), now() + CONNECT_TIMEOUT):
                if record.stream_id == self.stream_id:
                    return record.outcome
        except FabstirError:
            return "shutdown"  # the daemon has gone
        return None


async def _open_on(sock: socket.socket, endpoint: Endpoint, call: Call[OpenedStream]) -> tuple[OpenedStream, bytes]:
    exchange = opening(endpoint, call)
    view = memoryview(exchange.hello())
    try:
        while view:
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(sock)
        while True:
            try:
                data = sock.recv(CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(sock)
                continue
            if (answer := exchange.feed(data)) is not None:
                return answer
    except OSError as error:
        raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
