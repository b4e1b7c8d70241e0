"""The HTTP and WebSocket endpoints: a Quart application behind `guard`, served by `server`. CONTRACT, section 3."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from fabstir_client.errors import Forbidden
from fabstird.api.errors import BindError
from fabstird.api.guard import GRANT, Guard
from fabstird.api.server import make_config, serve
from fabstird.api.session import Session
from fabstird.api.unix import listening
from fabstird.config import ApiConfig, split_host_port
from fabstird.log import get_logger
from fabstird.prometheus import exposition
from fabstird.rpc.access import Caller, Grant, admit
from fabstird.rpc.dispatch import Call, Dispatcher
from fabstird.rpc.methods import METHODS
from fabstird.rpc.openrpc import render as render_openrpc
from fabstird.rpc.services import Services
from fabstird.systemd import Passed

log = get_logger("api.http")

BODY_TIMEOUT = 30  # seconds for a request's body to arrive
BACKLOG = 128
GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1001, 1008, 1011  # WebSocket close codes, RFC 6455


@asynccontextmanager
async def serving(services: Services, dispatcher: Dispatcher, passed: Passed | None = None) -> AsyncIterator[str]:
    """Serve at ``[api] http``, or on a ``passed`` socket, until the context is left; yields where that really is, e.g.
    ``127.0.0.1:4780``.

    Raises `BindError`.
    """
    config = services.config.api
    stop = trio.Event()
    app = _make_app(services, dispatcher, stop)
    guarded = Guard(app, services.tokens.find, config.allowed_hosts, config.allowed_origins, config.max_request_bytes)
    with _listening(config, passed) as (sock, where):
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, guarded, make_config(config.max_request_bytes), sock, stop)
            try:
                yield where
            finally:
                stop.set()


async def _serve(
    app: Guard, config: object, sock: socket.socket, stop: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    # Shielded: when the daemon is cancelled, `stop` is set by then, and the server ends itself within its bound.
    with trio.CancelScope(shield=True):
        await serve(app, config, sock, stop=stop, task_status=task_status)  # type: ignore[arg-type]


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


def _make_app(services: Services, dispatcher: Dispatcher, stop: trio.Event) -> QuartTrio:
    app = QuartTrio("fabstird", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=services.config.api.max_request_bytes, BODY_TIMEOUT=BODY_TIMEOUT)
    render = exposition(services.counters, services.gauges)

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        return Response(f"{error.code} {error.name}\n".encode(), status=error.code, content_type="text/plain")

    @app.errorhandler(Forbidden)
    async def forbidden(error: Forbidden) -> Response:
        return Response(f"{error}\n".encode(), status=403, content_type="text/plain")

    @app.post("/rpc")
    async def rpc() -> Response:
        call = Call(services, _caller("http", request.scope))
        body: bytes = await request.get_data(cache=False, as_text=False)  # type: ignore[assignment]
        async with _in_force(call.caller.grant) as refused:
            answer = await dispatcher.dispatch(body, call)
        if refused:
            return Response(f"{refused[0]}\n".encode(), status=401, content_type="text/plain")
        for then in call.after_reply:
            then()  # a shutdown leaves the time to send the reply: `server.GRACE`
        if answer is None:
            return Response(b"", status=204)  # without a body quart would iterate one with asyncio
        return Response(answer, content_type="application/json")

    @app.websocket("/ws")
    async def ws() -> None:
        await _converse(services, dispatcher, stop, _caller("ws", websocket.scope))

    @app.get("/metrics")
    async def metrics() -> Response:
        admit("metrics", "read", _caller("http", request.scope))
        return Response(render(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openrpc.json")
    async def openrpc() -> Response:
        admit("rpc.discover", "read", _caller("http", request.scope))
        return Response(render_openrpc(METHODS), content_type="application/json")

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        node = services.node
        if node.state == "started":
            return _json({"status": "ready"})
        reason = {"status": "not ready", "code": f"NODE_{node.state.upper()}", "reason": f"the node is {node.state}"}
        return _json({**reason, "error": node.error} if node.error else reason, 503)

    return app


def _json(content: dict[str, str], status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")


def _caller(transport: str, scope: Any) -> Caller:
    client = scope.get("client")
    remote = f"{client[0]}:{client[1]}" if client and client[1] is not None else None
    return Caller(transport, scope[GRANT], remote=remote)


@asynccontextmanager
async def _in_force(grant: Grant) -> AsyncIterator[list[str]]:
    """Cut the block off when the grant ends; the list that it is given then holds the reason."""
    why: list[str] = []

    async def watch(end: Callable[[], None]) -> None:
        why.append(await grant.wait_ended())
        end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope.cancel)
        yield why
        nursery.cancel_scope.cancel()


async def _converse(services: Services, dispatcher: Dispatcher, stop: trio.Event, caller: Caller) -> None:
    """One WebSocket, until its client or the daemon ends it; the close frame says which (trap 6)."""

    async def send(messages: list[bytes]) -> None:
        for message in messages:
            await websocket.send(message.decode())

    async def close_on_stop(end: Callable[[], None]) -> None:
        await stop.wait()
        await websocket.close(GOING_AWAY, "the daemon is stopping")
        end()

    async def close_on_end_of_grant(end: Callable[[], None]) -> None:
        why = await caller.grant.wait_ended()
        await websocket.close(POLICY_VIOLATION, why)
        end()

    await websocket.accept()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_on_stop, nursery.cancel_scope.cancel)
            nursery.start_soon(close_on_end_of_grant, nursery.cancel_scope.cancel)
            async with Session.open(services, dispatcher, caller, send) as session:
                while True:
                    text = await websocket.receive()
                    await session.receive(text.encode() if isinstance(text, str) else text)
    except Exception:
        log.exception("a WebSocket failed")
        await websocket.close(INTERNAL_ERROR, "internal error")
