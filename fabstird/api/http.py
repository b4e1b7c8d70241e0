"""The HTTP and WebSocket endpoints, behind `guard` and served by `server`. Those for calls are in `endpoints`; a Quart
application has the others. CONTRACT, section 3."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from fabstir_client.errors import Forbidden
from fabstird.api import health
from fabstird.api.endpoints import Endpoints
from fabstird.api.errors import BindError
from fabstird.api.fanout import Fanout
from fabstird.api.guard import Guard, caller
from fabstird.api.server import make_config, serve, whole_bodies
from fabstird.api.unix import listening
from fabstird.config import ApiConfig, split_host_port
from fabstird.prometheus import exposition
from fabstird.rpc.access import admit
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.methods import METHODS
from fabstird.rpc.openrpc import render as render_openrpc
from fabstird.rpc.services import Services
from fabstird.systemd import Passed

BACKLOG = 128


@asynccontextmanager
async def serving(
    services: Services, dispatcher: Dispatcher, fanout: Fanout, passed: Passed | None = None
) -> AsyncIterator[str]:
    """Serve at ``[api] http``, or on a ``passed`` socket, until the context is left; yields where that really is, e.g.
    ``127.0.0.1:4780``.

    Raises `BindError`.
    """
    config = services.config.api
    stop = trio.Event()
    app = Endpoints(whole_bodies(_make_app(services)), services, dispatcher, fanout, stop)
    guarded = Guard(app, services.tokens.find, config.allowed_hosts, config.allowed_origins, config.max_request_bytes)
    with _listening(config, passed) as (sock, where):
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, guarded, make_config(config), services, sock, stop)
            try:
                yield where
            finally:
                stop.set()


async def _serve(
    app: Guard,
    config: object,
    services: Services,
    sock: socket.socket,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    # Shielded: when the daemon is cancelled, `stop` is set by then, and the server ends itself within its bound.
    with trio.CancelScope(shield=True):
        await serve(app, config, services, sock, stop=stop, task_status=task_status)  # type: ignore[arg-type]


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
            cure = "; another program has it: set another [api] http" if error.errno == errno.EADDRINUSE else ""
            raise BindError(f"cannot serve HTTP at {config.http}: {(error.strerror or '').lower()}{cure}") from error
        tcp.setblocking(False)
        bound, real_port = tcp.getsockname()[:2]
        yield tcp, f"[{bound}]:{real_port}" if ":" in bound else f"{bound}:{real_port}"


def _make_app(services: Services) -> QuartTrio:
    app = QuartTrio("fabstird", static_folder=None)
    api = services.config.api
    app.config.update(MAX_CONTENT_LENGTH=api.max_request_bytes, BODY_TIMEOUT=api.body_timeout / 1000)
    render = exposition(services.counters, services.gauges)

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        return Response(f"{error.code} {error.name}\n".encode(), status=error.code, content_type="text/plain")

    @app.errorhandler(Forbidden)
    async def forbidden(error: Forbidden) -> Response:
        return Response(f"{error}\n".encode(), status=403, content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        admit("metrics", "read", caller("http", request.scope))
        return Response(render(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openrpc.json")
    async def openrpc() -> Response:
        admit("rpc.discover", "read", caller("http", request.scope))
        return Response(render_openrpc(METHODS), content_type="application/json")

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json(*health.healthy(services))

    @app.get("/readyz")
    async def readyz() -> Response:
        return _json(*health.ready(services))

    return app


def _json(status: int, content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")
