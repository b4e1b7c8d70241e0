"""The HTTP server: an accept loop of our own over hypercorn 0.18.0's connections.

hypercorn's `serve` cannot stop in bounded time while a client does not read, and takes over Unix sockets of running
processes (ADR 4).
"""

from __future__ import annotations

import logging
import socket
import sys
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from fabstird.accepting import Listener
from fabstird.api.asgi import asking_for_bodies
from fabstird.api.http_connection import Connection
from fabstird.api.plain_post import PlainPosts
from fabstird.api.refusals import readable, turn_away
from fabstird.config import ApiConfig
from fabstird.rpc.limits import over

GRACE = 0.5  # seconds for requests that are under way when the server stops
TURNED_AWAY = 64  # connections over the limit that get an answer at a time; further ones are closed without one


def make_config(api: ApiConfig) -> Config:
    """hypercorn's settings."""
    config = Config()
    config.accesslog = None  # it would show tokens in queries
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = api.idle_timeout / 1000
    config.keep_alive_max_requests = sys.maxsize  # by default hypercorn closes a connection after 1,000, unannounced
    config.graceful_timeout = GRACE
    config.max_app_queue_size = 1  # pieces of a body, up to 64 KiB each, waiting for the application
    return config


async def serve(
    plain: PlainPosts,
    config: Config,
    sock: socket.socket,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the application behind ``plain``'s guard until ``stop`` is set, then for at most about `GRACE` longer.

    Args:
        plain: Answers plain requests; its guard holds the application.
        config: From `make_config`.
        sock: A listening socket.
        stop: Set to stop serving.
        task_status: Started once connections are accepted.
    """
    app, services = plain.guard, plain.services
    allowed = partial(readable, app)
    wrapped = wrap_app(asking_for_bodies(app), config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    streams: set[trio.SocketStream] = set()
    state: dict[str, Any] = {}
    lifespan = Lifespan(wrapped, config, state)

    turned_away: set[trio.SocketStream] = set()
    taken_over: set[trio.SocketStream] = set()  # these carry streams now, and are counted as streams

    async def handle(stream: trio.SocketStream) -> None:
        limit = services.config.api.max_http_connections
        group = turned_away if len(streams) >= limit else streams
        group.add(stream)
        services.usage.http = len(streams)

        def on_taken() -> None:
            streams.discard(stream)
            taken_over.add(stream)
            services.usage.http = len(streams)

        try:
            if group is streams:
                connection = Connection(
                    wrapped, plain, config, services.config.api, context, state, stream, on_taken, allowed
                )
                try:
                    await connection
                finally:
                    successor, leftover = connection.successor, connection.leftover
                    del connection  # its successor may run for days
                    if successor is not None:
                        await successor(stream.socket, leftover)
            elif len(turned_away) <= TURNED_AWAY:
                await turn_away(stream, over("connections over HTTP", limit, "max_http_connections"), allowed)
        finally:
            group.discard(stream)
            taken_over.discard(stream)
            services.usage.http = len(streams)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as outer:
        await outer.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            listener = Listener(sock)
            fenced = partial(services.node.fence.run, "caller", handle)
            accepting = await connections.start(_accept, fenced, listener, connections)
            task_status.started()
            try:
                await stop.wait()
            finally:
                accepting.cancel()
            await context.terminated.set()
            outer.start_soon(_end, (streams, taken_over), connections.cancel_scope)
        await lifespan.wait_for_shutdown()
        outer.cancel_scope.cancel()


async def _accept(
    handle: Any,
    listener: Listener,
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)


async def _end(connections: tuple[set[trio.SocketStream], ...], scope: trio.CancelScope) -> None:
    """Close the connections that are left after `GRACE`. Only shutting down the socket wakes hypercorn's shielded send
    to a client that does not read."""
    await trio.sleep(GRACE)
    for stream in [stream for streams in connections for stream in streams]:
        try:
            stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has already gone
    scope.cancel()
