"""The HTTP and WebSocket endpoints, behind `guard`, on `http_server`. Calls are served by `endpoints`, the rest by a
Quart application in `pages`."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from fabstird.api.asgi import complete_bodies
from fabstird.api.endpoints import Endpoints
from fabstird.api.errors import BindError
from fabstird.api.fanout import Fanout
from fabstird.api.guard import App, Guard, Scope
from fabstird.api.http_server import make_config, serve
from fabstird.api.plain_post import PlainPosts
from fabstird.api.watch import Watch
from fabstird.api.ws_endpoint import WebSockets
from fabstird.config import ApiConfig, split_host_port
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.services import Services
from fabstird.systemd import Passed
from fabstird.threads import imported
from fabstird.unix_socket import BACKLOG, listening


@asynccontextmanager
async def serving(
    services: Services, dispatcher: Dispatcher, fanout: Fanout, passed: Passed | None = None
) -> AsyncIterator[str]:
    """Serve at ``[api] http``, or on a ``passed`` socket, until the context is left. Yields the actual address, e.g.
    ``127.0.0.1:4780``.

    Raises `BindError`.
    """
    config = services.config.api
    stop = trio.Event()
    with _listening(config, passed) as (sock, where):
        async with trio.open_nursery() as nursery:
            watch = Watch(nursery, services.node.fence, config.ping_interval / 1000)
            app = Endpoints(_Pages(services), services, dispatcher, WebSockets(services, dispatcher, fanout, watch))
            guarded = Guard(
                app, services.tokens.find, config.allowed_hosts, config.allowed_origins, config.max_request_bytes
            )
            plain = PlainPosts(guarded, services, dispatcher)
            await nursery.start(_serve, plain, make_config(config), sock, stop)
            try:
                yield where
            finally:
                stop.set()
                watch.stop("the daemon is stopping")
                nursery.cancel_scope.cancel()  # of the watch's tasks


async def _serve(
    plain: PlainPosts, config: object, sock: socket.socket, stop: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    # Shielded: `stop` is set before the daemon is cancelled, and the server then ends within its own bound.
    with trio.CancelScope(shield=True):
        await serve(plain, config, sock, stop=stop, task_status=task_status)  # type: ignore[arg-type]


@contextmanager
def _listening(config: ApiConfig, passed: Passed | None) -> Iterator[tuple[socket.socket, str]]:
    if passed is not None:
        with passed.socket as sock:
            yield sock, f"unix:{passed.where}" if passed.is_unix else passed.where
        return
    if config.http.startswith("unix:"):
        path = Path(config.http.removeprefix("unix:"))
        with listening(path, int(config.ipc_mode, 8), "[api] http") as sock:
            yield sock, config.http
        return
    parts = split_host_port(config.http)
    assert parts is not None, "checked by config"
    host, port = parts
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        tcp = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(f"cannot serve HTTP at {config.http}: {error.strerror or error}") from error
    with tcp:
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(address)
            tcp.listen(BACKLOG)
        except OSError as error:
            hint = "; another program has it: set another [api] http" if error.errno == errno.EADDRINUSE else ""
            raise BindError(f"cannot serve HTTP at {config.http}: {(error.strerror or '').lower()}{hint}") from error
        tcp.setblocking(False)
        bound, real_port = tcp.getsockname()[:2]
        yield tcp, f"[{bound}]:{real_port}" if ":" in bound else f"{bound}:{real_port}"


class _Pages:
    """The application of `pages`, made at the first request for one of them. A program that only calls methods never
    needs it, and Quart is a sixth of what a daemon imports."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._app: App | None = None
        self._making = trio.Lock()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        async with self._making:
            if self._app is None:
                pages = await imported("fabstird.api.pages")
                self._app = complete_bodies(pages.make_app(self._services))
        await self._app(scope, receive, send)


async def _live(receive: Any, send: Any) -> None:
    """Acknowledge lifespan events; they need no work."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
