"""hypercorn 0.18.0's connection handling under an accept loop of our own.

hypercorn's `serve` gives no bound on a stop with a reader that does not read, and takes over living Unix sockets
(LAB.md, hypercorn table, traps 1, 3 and 4; ADR 4). What is used of it is its `TCPServer` for one connection: internals,
hence the exact pin.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Data
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app

from fabstir_client.errors import FabstirError
from fabstird.api.errors import as_json, too_slow
from fabstird.api.guard import App, Scope
from fabstird.api.sockets import RECEIVE, Outbox, receive
from fabstird.config import ApiConfig
from fabstird.log import get_logger
from fabstird.rpc.services import Services
from fabstird.rpc.usage import over

log = get_logger("api.server")

GRACE = 0.5  # seconds for requests that are under way when the server stops
TURNED_AWAY = 64  # connections at a time that are told why they are; others beyond the limit are closed in silence
TOO_BIG = b"\x88\x02\x03\xf1"  # a close frame with 1009, to which hypercorn adds no reason
CLOSE_FRAME = b"\x88"  # how it begins, RFC 6455


def make_config(api: ApiConfig) -> Config:
    """hypercorn's settings; `max_request_bytes` also bounds a WebSocket message, which is then closed with 1009."""
    config = Config()
    config.accesslog = None  # it would show tokens in queries
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = api.idle_timeout / 1000
    config.graceful_timeout = GRACE
    config.websocket_max_message_size = api.max_request_bytes
    return config


async def serve(
    app: Any,
    config: Config,
    services: Services,
    sock: socket.socket,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on a listening socket until ``stop`` is set; then about `GRACE` longer, whatever clients do."""
    wrapped = wrap_app(asking_for_bodies(app), config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    streams: set[trio.SocketStream] = set()
    state: dict[str, Any] = {}
    lifespan = Lifespan(wrapped, config, state)

    turned_away: set[trio.SocketStream] = set()

    async def handle(stream: trio.SocketStream) -> None:
        limit = services.config.api.max_http_connections
        among = turned_away if len(streams) >= limit else streams
        among.add(stream)
        services.usage.http = len(streams)
        try:
            if among is streams:
                await _Connection(wrapped, config, services.config.api, context, state, stream)
            elif len(turned_away) <= TURNED_AWAY:
                await _turn_away(stream, over("connections over HTTP", limit, "max_http_connections"))
        except Exception:
            log.exception("an HTTP connection failed")
        finally:
            among.discard(stream)
            services.usage.http = len(streams)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as outer:
        await outer.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            accepting = await connections.start(_accept, handle, listener, connections)
            task_status.started()
            try:
                await stop.wait()
            finally:
                accepting.cancel()
            await context.terminated.set()
            outer.start_soon(_end, streams, connections.cancel_scope)
        await lifespan.wait_for_shutdown()
        outer.cancel_scope.cancel()


async def _accept(
    handle: Any,
    listener: trio.SocketListener,
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)


async def _end(streams: set[trio.SocketStream], scope: trio.CancelScope) -> None:
    """After the grace, cut what is left. Shutting the socket down wakes hypercorn's shielded send to a client that does
    not read; nothing else does."""
    await trio.sleep(GRACE)
    for stream in list(streams):
        try:
            stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already
    scope.cancel()


async def _turn_away(stream: trio.SocketStream, error: FabstirError) -> None:
    """Say why, and wait a moment for the client to read it: what it has sent meanwhile would have the answer thrown
    away."""
    try:
        with trio.move_on_after(GRACE):
            await stream.send_all(_refusal(HTTPStatus.SERVICE_UNAVAILABLE, error))
            await stream.send_eof()
            while await stream.receive_some(RECEIVE):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has gone


def _refusal(status: HTTPStatus, error: FabstirError) -> bytes:
    """A whole response to a request that has not been read."""
    body = f"{as_json(error)}\n"
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode()


class _Connection(TCPServer):
    """One connection that speaks HTTP/1.1 and nothing else, and ends with its client.

    hypercorn's own follows any client to HTTP/2 in clear text (trap 7), holds a connection that its client has closed
    for the whole `keep_alive_timeout`, and one that was reset with further requests in it for ever: a thousand of
    either would be all there are.
    """

    def __init__(
        self,
        app: Any,
        config: Config,
        api: ApiConfig,
        context: WorkerContext,
        state: dict[str, Any],
        stream: trio.SocketStream,
    ) -> None:
        self.outbox = Outbox(stream.socket, api.max_send_queue_bytes, api.send_timeout / 1000)
        self._header_timeout = api.header_timeout
        super().__init__(app, config, context, ConnectionState({**state, "outbox": self.outbox}), stream)  # type: ignore[arg-type]
        self._ended = False  # the client sends nothing more that counts
        self._idle = trio.CancelScope()  # ends when no request has come for so long
        self._busy = False

    async def _go_on(self) -> None:
        protocol: Any = self.protocol
        await protocol.go_on()

    async def run(self) -> None:
        try:
            sock = self.stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            async with _Tasks() as tasks:
                self._task_group = tasks
                with trio.CancelScope() as reading:
                    self.protocol = _Http1(  # type: ignore[assignment]  # all that is used of a ProtocolWrapper
                        self.app,
                        self.config,
                        self.context,
                        tasks,
                        ConnectionState({**self.state, "go_on": self._go_on}),
                        False,
                        client,
                        server,
                        self.protocol_send,
                        on_closed=reading.cancel,
                        on_goodbye=self.outbox.end,
                    )
                    self._rest()
                    tasks.spawn(self._end_idle)
                    await self._read_data()
                self._ended = True
                self._idle.cancel()
        except OSError:
            pass  # the client has gone
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            if not event.idle:
                self._busy, self._idle.deadline = True, math.inf
            elif not self._ended:
                self._rest()
        else:
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
        begun = math.inf  # when the head of a request that is not whole began to come
        while True:
            try:
                if begun == math.inf:
                    data = await receive(self.stream.socket)
                else:
                    with trio.move_on_at(begun + self._header_timeout / 1000) as scope:
                        data = await receive(self.stream.socket)
                    if scope.cancelled_caught:
                        error = too_slow("the head of a request", self._header_timeout, "header_timeout")
                        await self._send(_refusal(HTTPStatus.REQUEST_TIMEOUT, error))
                        break
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(RawData(data))
            if not data:
                break
            begun = min(begun, trio.current_time()) if self._in_head() else math.inf
        await self.protocol.handle(Closed())

    def _in_head(self) -> bool:
        """Whether what has come is a part of a request's head."""
        http: Any = self.protocol
        between = http.stream is None and isinstance(http.connection, h11.Connection)
        return between and bool(http.connection.trailing_data[0])

    def _rest(self) -> None:
        self._busy, self._idle.deadline = False, trio.current_time() + self.config.keep_alive_timeout

    async def _end_idle(self) -> None:
        """Close the connection when no request has come for `keep_alive_timeout`, and at a stop. One task for its whole
        life, where hypercorn starts another after every request."""
        with self._idle:
            await self.context.terminated.wait()
            if self._busy:
                return  # it is closed after the response
        if not self._ended:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()


class _Tasks(TaskGroup):
    """The word that a client has gone waits for nothing, and what is for an application that has finished is dropped.
    hypercorn's own waits until there is room among ten messages, shielded even from a stop: an application that is
    itself waiting to send, to a client that does not read, would keep the daemon from ever ending."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        put, take = trio.open_memory_channel[Any](math.inf)
        room = trio.Semaphore(config.max_app_queue_size)
        finished = False

        async def until_finished(*arguments: Any) -> None:
            nonlocal finished
            try:
                with take:
                    await app(*arguments)
            finally:
                finished = True
                room.release()  # whoever waits for it, the connection's reader

        # Where there is nothing to wait for, neither waits: trio's channels take a turn of the loop for each event
        async def app_receive() -> Any:
            try:
                event = take.receive_nowait()
            except trio.WouldBlock:
                event = await take.receive()
            if not event["type"].endswith(".disconnect"):
                room.release()
            return event

        async def app_put(event: Any) -> None:
            if not event["type"].endswith(".disconnect") and not finished:
                try:
                    room.acquire_nowait()
                except trio.WouldBlock:
                    await room.acquire()
            try:
                put.send_nowait(event)
            except trio.BrokenResourceError:
                pass  # nobody is there to receive it

        assert self._nursery is not None
        wrapped: Any = until_finished
        spare = (trio.to_thread.run_sync, trio.from_thread.run)
        self._nursery.start_soon(_handle, wrapped, config, scope, app_receive, send, *spare)
        return app_put


class _Http1(H11Protocol):
    def __init__(self, *args: Any, on_closed: Callable[[], None], on_goodbye: Callable[[], None]) -> None:
        super().__init__(*args)
        self._on_closed = on_closed
        self._on_goodbye = on_goodbye
        self._head = b""  # of a response, until there is more of it to send
        self._holding = False
        self._send_on, self.send = self.send, self._joined

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self._on_closed()

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Data) and event.data == TOO_BIG:
            why = f"[api] max_request_bytes allows {self.config.websocket_max_message_size} bytes".encode()
            event = Data(event.stream_id, TOO_BIG[:1] + bytes([2 + len(why)]) + TOO_BIG[2:] + why)
        await super().stream_send(event)
        if isinstance(event, Data) and event.data[:1] == CLOSE_FRAME:
            self._on_goodbye()  # no frame may follow it

    async def _check_protocol(self, event: Any) -> None:
        return None

    async def _create_stream(self, request: h11.Request) -> None:
        """No extension of WebSocket is taken up: what is compressed costs us more than it saves on one machine, and a
        message may grow a thousandfold before its size can be checked."""
        kept = [(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"]
        if len(kept) < len(request.headers):
            request = h11.Request(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def _send_h11_event(self, event: Any) -> None:
        if not isinstance(event, h11.InformationalResponse) or event.status_code != HTTPStatus.CONTINUE:
            self._holding = isinstance(event, h11.Response)
            await super()._send_h11_event(event)

    async def _joined(self, event: Event) -> None:
        """Head and body of a response in one write, and no write of nothing at its end."""
        if isinstance(event, RawData):
            data, self._head = self._head + event.data, b""
            if self._holding:
                self._head = data
            elif data:
                await self._send_on(RawData(data))
            return
        if self._head:
            head, self._head = self._head, b""
            await self._send_on(RawData(head))
        await self._send_on(event)

    async def go_on(self) -> None:
        """Tell a client that waits for it (``Expect: 100-continue``) to send its body. hypercorn would at once, and so
        ask for bodies that are then refused."""
        if self.connection.they_are_waiting_for_100_continue:
            await super()._send_h11_event(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))


def asking_for_bodies(app: App) -> App:
    """An application whose clients are told to send a body when it is first asked for."""

    async def called(scope: Scope, receive: Any, send: Any) -> None:
        async def first() -> Any:
            await scope["state"]["go_on"]()
            return await receive()

        await app(scope, first if scope["type"] == "http" else receive, send)

    return called


def whole_bodies(app: App) -> App:
    """A Quart application whose responses end: the last body is sent even as quart-trio cancels itself (trap 3), else
    the connection would never count as idle."""

    async def shielded(send: Any, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            with trio.CancelScope(shield=True):
                await send(message)
        else:
            await send(message)

    async def called(scope: Scope, receive: Any, send: Any) -> None:
        await app(scope, receive, partial(shielded, send) if scope["type"] == "http" else send)

    return called
