"""``POST /rpc``, ``/ws`` and ``/stream`` as plain ASGI, for speed. Quart serves the other paths.

Under Quart a call costs two more tasks, three channels, and request and response objects: more than hypercorn and the
call itself together (bench/profiles.md). `Guard` stands in front of both.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import trio

from fabstir_client.api.errors import FabstirError
from fabstird.api.errors import as_json, body_too_large, too_slow
from fabstird.api.guard import App, Scope, is_websocket
from fabstird.api.guard import caller as caller_of
from fabstird.api.stream_endpoint import StreamEndpoint
from fabstird.api.ws_endpoint import WebSockets
from fabstird.config import ApiConfig
from fabstird.rpc.arriving import Arriving
from fabstird.rpc.dispatch import LATER, Call, Dispatcher
from fabstird.rpc.memory import cost
from fabstird.rpc.services import Services

JSON = b"application/json"
TEXT = b"text/plain"


class _Refused(Exception):
    """A request is refused, for a ``reason`` in words or because of a limit."""

    def __init__(self, status: HTTPStatus, reason: str | FabstirError) -> None:
        super().__init__(reason)
        self.status = status
        self.kind, text = (TEXT, reason) if isinstance(reason, str) else (JSON, as_json(reason))
        self.body = f"{text}\n".encode()


class _Gone(Exception):
    """The client has closed its connection."""


class Endpoints:
    """An ASGI application for these paths; requests for any other go to ``others``."""

    def __init__(self, others: App, services: Services, dispatcher: Dispatcher, websockets: WebSockets) -> None:
        self._others = others
        self._services = services
        self._dispatcher = dispatcher
        self._websockets = websockets
        self._streams = StreamEndpoint(services, dispatcher)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == "/rpc":
            await self._rpc(scope, receive, send)
        elif path == "/ws" and is_websocket(scope):
            await self._websockets(scope)
        elif path == "/ws":
            status = HTTPStatus.UPGRADE_REQUIRED if scope["method"] == "GET" else HTTPStatus.METHOD_NOT_ALLOWED
            await _refuse(
                send, status, (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"), (b"allow", b"GET")
            )
        elif path is not None and not path.startswith("/"):
            await _refuse(send, HTTPStatus.BAD_REQUEST)  # Quart would take it for a URL
        elif path == "/stream":
            await self._streams(scope, receive, send)
        elif path is not None and is_websocket(scope):
            await _refuse(send, HTTPStatus.NOT_FOUND, (b"connection", b"close"))  # no other path is a WebSocket
        else:
            await self._others(scope, receive, send)

    # ----------------------------------------------------------------------------------------------------------------
    # POST /rpc

    async def _rpc(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":
            await _refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, (b"allow", b"POST"))
            return
        caller = caller_of("http", scope)
        arriving = self._services.usage.arrival(caller.identity)
        try:
            body = await _body(receive, self._services.config.api, arriving)
            call = Call(self._services, caller)
            answer = self._dispatcher.at_once(body, call)
            if answer is LATER:
                answer = await self._while_there(receive, body, call, arriving)
        except _Gone:
            return
        except _Refused as refused:
            await _respond(send, refused.status, refused.kind, refused.body, (b"connection", b"close"))
            return
        finally:
            arriving.leave()
        await _respond(send, HTTPStatus.NO_CONTENT if answer is None else HTTPStatus.OK, JSON, answer or b"")
        for callback in call.after_reply:
            callback()

    async def _while_there(self, receive: Any, body: bytes, call: Call, arriving: Arriving) -> bytes | None:
        """The answer to a call. A call, which may be a long poll, is cancelled when its client disconnects or loses its
        permission. Raises `_Gone`, `_Refused`."""
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

        with self._services.usage.calling():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_gone)
                nursery.start_soon(while_allowed)
                async with self._services.usage.memory.holding(call, cost(len(body))) as call.held:
                    arriving.leave()
                    answer = await self._dispatcher.dispatch(body, call)
                nursery.cancel_scope.cancel()
        if cut is not None:
            raise cut
        return answer


async def _body(receive: Any, api: ApiConfig, arriving: Arriving) -> bytes:
    """The complete body. Raises `_Refused`, `_Gone`."""
    limit = api.max_request_bytes
    parts: list[bytes] = []
    size = 0
    with arriving.until(trio.current_time() + api.body_timeout / 1000):
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
                await arriving.received(size)
            if not message["more_body"]:
                arriving.complete = True
                return b"".join(parts)
    if (refusal := arriving.refusal()) is not None:
        raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, refusal)
    raise _Refused(HTTPStatus.REQUEST_TIMEOUT, too_slow("the body", api.body_timeout, "body_timeout"))


async def _refuse(send: Any, status: HTTPStatus, *headers: tuple[bytes, bytes]) -> None:
    await _respond(send, status, TEXT, f"{status.value} {status.phrase}\n".encode(), *headers)


async def _respond(send: Any, status: HTTPStatus, kind: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    about = [] if status is HTTPStatus.NO_CONTENT else [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status.value, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": body})
