"""hypercorn 0.18.0's connection handling under an accept loop of our own.

hypercorn's `serve` gives no bound on a stop with a reader that does not read, and takes over living Unix sockets
(LAB.md, hypercorn table, traps 1, 3 and 4; ADR 4). What is used of it is its `TCPServer` for one connection: internals,
hence the exact pin.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app

from fabstird.log import get_logger

log = get_logger("api.server")

GRACE = 0.5  # seconds for requests that are under way when the server stops
MAX_CONNECTIONS = 1024


def make_config(max_bytes: int) -> Config:
    """hypercorn's settings; ``max_bytes`` also bounds a WebSocket message, which is then closed with 1009."""
    config = Config()
    config.accesslog = None  # it would show tokens in queries
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = 60
    config.graceful_timeout = GRACE
    config.websocket_max_message_size = max_bytes
    return config


async def serve(
    app: Any,
    config: Config,
    sock: socket.socket,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on a listening socket until ``stop`` is set; then about `GRACE` longer, whatever clients do."""
    wrapped = wrap_app(_checked(app), config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    streams: set[trio.SocketStream] = set()
    state: dict[str, Any] = {}
    lifespan = Lifespan(wrapped, config, state)

    async def handle(stream: trio.SocketStream) -> None:
        if len(streams) >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        streams.add(stream)
        try:
            await _Connection(wrapped, config, context, ConnectionState(dict(state)), stream)  # type: ignore[arg-type]
        except Exception:
            log.exception("an HTTP connection failed")
        finally:
            streams.discard(stream)
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


class _Connection(TCPServer):
    """One connection that speaks HTTP/1.1 and nothing else, and ends with its client.

    hypercorn's own follows any client to HTTP/2 in clear text (trap 7), holds a connection that its client has closed
    for the whole `keep_alive_timeout`, and one that was reset with further requests in it for ever: a thousand of
    either would be all there are.
    """

    _ended = False  # the client sends nothing more that counts

    async def run(self) -> None:
        try:
            sock = self.stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            async with TaskGroup() as tasks:
                self._task_group = tasks
                with trio.CancelScope() as reading:
                    self.protocol = _Http1(  # type: ignore[assignment]  # all that is used of a ProtocolWrapper
                        self.app,
                        self.config,
                        self.context,
                        tasks,
                        ConnectionState(self.state),
                        False,
                        client,
                        server,
                        self.protocol_send,
                        on_closed=reading.cancel,
                    )
                    await self.idle_task.restart(tasks, self._idle_timeout)
                    await self._read_data()
                self._ended = True
                await self.idle_task.stop()
        except OSError:
            pass  # the client has gone
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if self._ended and isinstance(event, Updated):
            return  # nothing more is waited for
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:  # another task is closing the connection
            await self.protocol.handle(Closed())


class _Http1(H11Protocol):
    def __init__(self, *args: Any, on_closed: Callable[[], None]) -> None:
        super().__init__(*args)
        self._on_closed = on_closed

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self._on_closed()

    async def _check_protocol(self, event: Any) -> None:
        return None


def _checked(app: Any) -> Any:
    """Two corrections at the ASGI boundary: the last body of a response is sent even as quart-trio cancels itself
    (trap 3: else the connection never counts as idle), and every WebSocket send is a checkpoint (trap 2: sending to a
    client that has gone would otherwise never yield)."""

    async def last_body_shielded(send: Any, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            with trio.CancelScope(shield=True):
                await send(message)
        else:
            await send(message)

    async def with_checkpoint(send: Any, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        await send(message)

    async def called(scope: Any, receive: Any, send: Any) -> None:
        wrap = {"http": last_body_shielded, "websocket": with_checkpoint}.get(scope["type"])
        await app(scope, receive, partial(wrap, send) if wrap else send)

    return called
