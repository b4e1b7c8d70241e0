"""One connection that speaks HTTP/1.1, on hypercorn 0.18.0's `TCPServer`: an internal class, hence the exact pin."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from fabstird.api.asgi import Tasks
from fabstird.api.errors import too_slow
from fabstird.api.http1 import CONTINUE, Http1
from fabstird.api.plain_post import PlainPost, PlainPosts
from fabstird.api.refusals import Readable, local_address, refusal
from fabstird.api.sockets import Outbox, receive
from fabstird.config import ApiConfig

PROBE = 5.0  # seconds between two checks whether a client that sends no more still reads

# Serves a connection that no longer speaks HTTP: called with its socket and the bytes read after the request
Successor = Callable[[trio.socket.SocketType, bytes], Awaitable[None]]


class Connection(TCPServer):
    """A connection that speaks HTTP/1.1 only, and ends when its client disconnects.

    hypercorn's own connection switches to clear-text HTTP/2 whenever a client asks for it (trap 7). It keeps a
    connection that the client has closed for all of `keep_alive_timeout`, and one that was reset with requests pending
    forever. A thousand of either would use up `max_http_connections`.
    """

    def __init__(
        self,
        app: Any,
        plain: PlainPosts,
        config: Config,
        api: ApiConfig,
        context: WorkerContext,
        state: dict[str, Any],
        stream: trio.SocketStream,
        on_taken: Callable[[], None],
        readable: Readable,
    ) -> None:
        unsent = plain.services.usage.unsent
        self.outbox = Outbox(stream.socket, api.max_send_queue_bytes, api.send_timeout / 1000, unsent)
        self._header_timeout = api.header_timeout
        super().__init__(app, config, context, ConnectionState({**state, "outbox": self.outbox}), stream)  # type: ignore[arg-type]
        self._plain = plain
        self._ended = False  # the client sends no more requests
        self._idle = trio.CancelScope()  # its deadline is when the connection has been idle for too long
        self._busy = False
        self._on_taken = on_taken
        self._readable = readable
        self._reading = trio.CancelScope()
        self._read = trio.Event()  # the socket is no longer read
        self._answered = trio.Event()  # the last response has been sent
        self.successor: Successor | None = None
        self.leftover = b""  # read after the request, for the successor

    async def leave(self, successor: Successor, *, stream: bool = False) -> None:
        """Stop speaking HTTP: ``successor`` serves the connection once the application has returned. A ``stream`` is
        counted as a stream, no longer as a connection over HTTP."""
        self._busy, self._idle.deadline = True, math.inf
        self._reading.cancel()
        await self._read.wait()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.outbox.flush()
        protocol: Any = self.protocol
        self.successor, self.leftover = successor, bytes(protocol.connection.trailing_data[0])
        if stream:
            self._on_taken()

    async def _go_on(self) -> None:
        protocol: Any = self.protocol
        await protocol.go_on()

    async def run(self) -> None:
        try:
            sock = self.stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = local_address(self.stream)
            async with Tasks() as tasks:
                self._task_group = tasks
                with self._reading:
                    self.protocol = Http1(  # type: ignore[assignment]  # has everything used of a ProtocolWrapper
                        self.app,
                        self.config,
                        self.context,
                        tasks,
                        ConnectionState({**self.state, "go_on": self._go_on, "leave": self.leave}),
                        False,
                        client,
                        server,
                        self.protocol_send,
                        on_closed=self._reading.cancel,
                    )
                    self._rest()
                    tasks.spawn(self._end_idle)
                    await self._read_data()
                self._ended = True
                self._read.set()
                self._idle.cancel()
        except OSError:
            pass  # the client has gone
        finally:
            if self.successor is None:
                await self._close()
            self.outbox.forget()

    async def protocol_send(self, event: Event) -> None:
        if self.successor is not None:
            return  # hypercorn would answer for an application that has returned without a response
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            if not event.idle:
                self._busy, self._idle.deadline = True, math.inf
            elif not self._ended:
                self._rest()
        else:
            self._answered.set()
            try:
                await super().protocol_send(event)
            except trio.BusyResourceError:  # another task is closing the connection
                await self.protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        try:
            self.outbox.write(data)
            if not self.outbox.clear:
                with trio.CancelScope(shield=True):
                    await self.outbox.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.CancelScope(shield=True):
                await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        begun = math.inf  # when the incomplete head of a request began to arrive
        http: Any = self.protocol
        plain = self._plain.of(http.client, http.server)
        while True:
            try:
                if begun == math.inf:
                    data = await receive(self.stream.socket)
                else:
                    with trio.move_on_at(begun + self._header_timeout / 1000) as scope:
                        data = await receive(self.stream.socket)
                    if scope.cancelled_caught:
                        error = too_slow("the head of a request", self._header_timeout, "header_timeout")
                        allowed = self._readable(http.connection.trailing_data[0], local_address(self.stream))
                        await self._send(refusal(HTTPStatus.REQUEST_TIMEOUT, error, allowed))
                        break
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            if http.fresh and self._keep_alive() and await self._answers(plain, data):
                continue
            await self.protocol.handle(RawData(data))
            if not data:
                await self._until_answered()
                break
            begun = min(begun, trio.current_time()) if self._in_head() else math.inf
        await self.protocol.handle(Closed())

    def _keep_alive(self) -> bool:
        """Whether the connection is kept after a response."""
        return not self.context.terminated.is_set() and self.outbox.clear

    async def _answers(self, plain: PlainPost, data: bytes) -> bool:
        """Answer a plain request without hypercorn. Returns False if ``data`` is none, or cannot be answered so."""
        if (body := plain.read(data)) is None:
            return False
        self._busy, self._idle.deadline = True, math.inf
        try:
            answered = plain.answer(body) or await plain.answer_batch(body, self.outbox)
            if answered is None:
                return False
            response, callbacks = answered
            await self._send(response)
            for callback in callbacks:
                callback()
        finally:
            self._rest()
        if self.context.terminated.is_set():  # the server began to stop meanwhile
            await self.protocol_send(Closed())
        return True

    async def _until_answered(self) -> None:
        """Wait until the last response is sent. The client has closed its sending side but may still read, which only
        sending can show: so an interim response is sent, which every HTTP/1.1 client skips."""
        http: Any = self.protocol
        pause = PROBE / 5
        while http.answering and not self.outbox.gone(half_closed=False):
            with trio.move_on_after(pause):
                await self._answered.wait()
                return
            if http.silent and self.outbox.clear:
                self.outbox.write(CONTINUE)
            pause = PROBE

    def _in_head(self) -> bool:
        """Whether a part of a request's head has been received."""
        http: Any = self.protocol
        between = http.stream is None and isinstance(http.connection, h11.Connection)
        return between and bool(http.connection.trailing_data[0])

    def _rest(self) -> None:
        self._busy, self._idle.deadline = False, trio.current_time() + self.config.keep_alive_timeout

    async def _end_idle(self) -> None:
        """Close the connection after `keep_alive_timeout` without a request, and at a stop. One task does this for the
        whole connection; hypercorn starts one after every request."""
        with self._idle:
            await self.context.terminated.wait()
            if self._busy:
                return  # it is closed after the response
        if not self._ended:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()
