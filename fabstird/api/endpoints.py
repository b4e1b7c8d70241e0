"""``POST /rpc`` and ``/ws`` as plain ASGI: the two endpoints that are called all the time. Quart has the others.

Quart costs a call two tasks, three channels and its request and response objects, which is more than hypercorn under it
and the call itself together (bench/profiles.md). `Guard` stands in front of both alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import trio

from fabstir_client.errors import FabstirError
from fabstird.api.errors import as_json, body_too_large, too_slow
from fabstird.api.fanout import Fanout
from fabstird.api.framing import frames
from fabstird.api.guard import App, Scope
from fabstird.api.guard import caller as caller_of
from fabstird.api.session import Session
from fabstird.api.sockets import Outbox
from fabstird.config import ApiConfig
from fabstird.log import get_logger
from fabstird.rpc.access import Caller
from fabstird.rpc.dispatch import LATER, Call, Dispatcher
from fabstird.rpc.services import Services

log = get_logger("api.http")

GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1001, 1008, 1011  # WebSocket close codes, RFC 6455
DRAINING = 5.0  # seconds
JSON = b"application/json"
TEXT = b"text/plain"


class _Refused(Exception):
    """``why`` in words, or the limit that refuses it."""

    def __init__(self, status: HTTPStatus, why: str | FabstirError) -> None:
        super().__init__(why)
        self.status = status
        self.kind, text = (TEXT, why) if isinstance(why, str) else (JSON, as_json(why))
        self.body = f"{text}\n".encode()


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A connection over which one call is made."""

    calls: int = 1
    subscriptions: int = 0
    waiting: int = 0


class _Gone(Exception):
    """The client has closed its connection."""


class Endpoints:
    """An ASGI application that answers these two paths, and leaves all others to ``others``."""

    def __init__(
        self, others: App, services: Services, dispatcher: Dispatcher, fanout: Fanout, stop: trio.Event
    ) -> None:
        self._others = others
        self._services = services
        self._dispatcher = dispatcher
        self._fanout = fanout
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        endpoint = scope["type"], scope.get("path")
        if endpoint == ("http", "/rpc"):
            await self._rpc(scope, receive, send)
        elif endpoint == ("websocket", "/ws"):
            await self._ws(scope, receive, send)
        elif endpoint == ("http", "/ws"):
            wrong = HTTPStatus.UPGRADE_REQUIRED if scope["method"] == "GET" else HTTPStatus.METHOD_NOT_ALLOWED
            await _refuse(send, wrong, (b"allow", b"GET"), (b"upgrade", b"websocket"))
        else:
            await self._others(scope, receive, send)

    # ----------------------------------------------------------------------------------------------------------------
    # POST /rpc

    async def _rpc(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":
            await _refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, (b"allow", b"POST"))
            return
        try:
            body = await _body(receive, self._services.config.api)
            call = Call(self._services, caller_of("http", scope))
            answer = self._dispatcher.at_once(body, call)
            if answer is LATER:
                answer = await self._while_there(receive, body, call)
        except _Gone:
            return
        except _Refused as refused:
            await _respond(send, refused.status, refused.kind, refused.body, (b"connection", b"close"))
            return
        await _respond(send, HTTPStatus.NO_CONTENT if answer is None else HTTPStatus.OK, JSON, answer or b"")
        for then in call.after_reply:
            then()

    async def _while_there(self, receive: Any, body: bytes, call: Call) -> bytes | None:
        """The answer. A call, which may be a long poll, ends with its client and with what allows it. Raises `_Gone`
        and `_Refused`."""
        answer: bytes | None = None
        cut: Exception | None = None

        async def until_gone() -> None:
            nonlocal cut
            while (await receive())["type"] != "http.disconnect":
                pass
            cut = _Gone()
            nursery.cancel_scope.cancel()

        async def while_allowed() -> None:
            nonlocal cut
            cut = _Refused(HTTPStatus.UNAUTHORIZED, await call.caller.grant.wait_ended())
            nursery.cancel_scope.cancel()

        under_way, connections = _UnderWay(), self._services.usage.connections
        connections.add(under_way)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_gone)
                nursery.start_soon(while_allowed)
                answer = await self._dispatcher.dispatch(body, call)
                nursery.cancel_scope.cancel()
        finally:
            connections.discard(under_way)
        if cut is not None:
            raise cut
        return answer

    # ----------------------------------------------------------------------------------------------------------------
    # /ws

    async def _ws(self, scope: Scope, receive: Any, send: Any) -> None:
        """One WebSocket, until its client or the daemon ends it; the close frame says which (trap 6)."""
        await receive()  # the connect event
        await send({"type": "websocket.accept"})
        caller, code, reason = caller_of("ws", scope), 0, ""
        try:
            async with trio.open_nursery() as nursery:

                async def until_stop() -> None:
                    nonlocal code, reason
                    await self._stop.wait()
                    code, reason = GOING_AWAY, "the daemon is stopping"
                    nursery.cancel_scope.cancel()

                async def while_allowed() -> None:
                    nonlocal code, reason
                    reason = await caller.grant.wait_ended()
                    code = POLICY_VIOLATION
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_stop)
                nursery.start_soon(while_allowed)
                await self._converse(caller, scope["state"]["outbox"], receive)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client has gone, or was closed because it does not read. hypercorn, which may be waiting for us to
            # take what came before that, sees the end once we have
            with trio.move_on_after(DRAINING):
                while (await receive())["type"] != "websocket.disconnect":
                    pass
        except* Exception:
            log.exception("a WebSocket failed")
            code, reason = INTERNAL_ERROR, "internal error"
        if code:
            # hypercorn sends shielded, and is shielded from us: a stop that finds a reader stuck shuts the socket
            await send({"type": "websocket.close", "code": code, "reason": reason})

    async def _converse(self, caller: Caller, outbox: Outbox, receive: Any) -> None:
        """``outbox`` is the connection's own (`server`): the session's frames go past hypercorn."""
        async with Session.open(self._services, self._dispatcher, caller, outbox, frames, self._fanout) as session:

            def push(message: bytes) -> None:
                outbox.write(frames([message]))

            with self._services.bridge.client(push) as bridged:
                while (message := await receive())["type"] == "websocket.receive":
                    text = message["text"]
                    data = message["bytes"] if text is None else text.encode()
                    bridged.heard(data)
                    await session.receive([data])


async def _body(receive: Any, api: ApiConfig) -> bytes:
    """The whole body. Raises `_Refused` and `_Gone`."""
    limit = api.max_request_bytes
    parts: list[bytes] = []
    size = 0
    with trio.move_on_after(api.body_timeout / 1000):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message["body"]
            size += len(part)
            if size > limit:
                raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, body_too_large(limit, size))
            if part:
                parts.append(part)
            if not message["more_body"]:
                return b"".join(parts)
    raise _Refused(HTTPStatus.REQUEST_TIMEOUT, too_slow("the body", api.body_timeout, "body_timeout"))


async def _refuse(send: Any, status: HTTPStatus, *headers: tuple[bytes, bytes]) -> None:
    await _respond(send, status, TEXT, f"{status.value} {status.phrase}\n".encode(), *headers)


async def _respond(send: Any, status: HTTPStatus, kind: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    about = [] if status is HTTPStatus.NO_CONTENT else [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status.value, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": body})
