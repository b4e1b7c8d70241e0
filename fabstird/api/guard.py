"""Who may speak to the HTTP endpoints. In front of everything, so that a refused request reaches no handler.

The order is CONTRACT's: Host, Origin, token, content type, size. A page in a browser cannot set Host or forge Origin,
which is what stops DNS rebinding and cross-site requests; the token stops other users of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from fabstird.api.errors import as_json, body_too_large
from fabstird.log import get_logger
from fabstird.rpc.access import Caller, Grant

log = get_logger("api.guard")

Scope = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
OPEN_PATHS = ("/healthz", "/readyz")
GRANT = "fabstird.grant"  # where the scope of a request holds what its token grants


@dataclass(frozen=True, slots=True)
class Refusal:
    status: HTTPStatus
    reason: str
    kind: bytes = b"text/plain; charset=utf-8"


class Guard:
    """An ASGI application in front of another. ``find`` gives what a token grants, None where there is no such token;
    the application finds it in the scope, under `GRANT`."""

    def __init__(
        self,
        app: App,
        find: Callable[[bytes], Grant | None],
        allowed_hosts: Iterable[str],
        allowed_origins: Iterable[str],
        max_bytes: int,
    ) -> None:
        self._app = app
        self._find = find
        self._hosts = {host.lower() for host in allowed_hosts}
        self._origins = set(allowed_origins)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        origin = _single(headers, b"origin")
        allowed = {b"access-control-allow-origin": origin, b"vary": b"origin"} if origin and not refusal else {}
        if refusal is not None:
            log.debug("request refused", path=scope["path"], status=refusal.status.value, reason=refusal.reason)
            await _respond(scope, receive, send, refusal.status, {b"content-type": refusal.kind}, refusal.reason)
        elif allowed and scope["type"] == "http" and scope["method"] == "OPTIONS":
            # A preflight carries no token; the request that follows it does.
            preflight = {
                b"access-control-allow-methods": b"GET, POST",
                b"access-control-allow-headers": b"authorization, content-type",
            }
            await _respond(scope, receive, send, HTTPStatus.NO_CONTENT, {**allowed, **preflight}, "")
        else:
            await self._app(scope, receive, _with_headers(send, allowed) if allowed else send)

    def _refusal(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> Refusal | None:
        if scope["http_version"] not in ("1.0", "1.1"):
            return Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 only")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # Of two lengths, a proxy in front may believe the other one: what is a body to it would be a request to us
            return Refusal(HTTPStatus.BAD_REQUEST, "a body has a Content-Length or a Transfer-Encoding, not both")
        host = _single(headers, b"host")
        if host is None or _hostname(host.decode("latin-1")) not in self._hosts:
            return Refusal(HTTPStatus.FORBIDDEN, "this Host is not in [api] allowed_hosts")
        if b"origin" in headers:
            origin = _single(headers, b"origin")
            if origin is None or origin.decode("latin-1") not in self._origins:
                return Refusal(HTTPStatus.FORBIDDEN, "this Origin is not in [api] allowed_origins")
            if scope["type"] == "http" and scope["method"] == "OPTIONS":
                return None
        if scope["path"] not in OPEN_PATHS:
            grant = self._find(_token(scope, headers))
            if grant is None:
                return Refusal(HTTPStatus.UNAUTHORIZED, "needs Authorization: Bearer <api.token>")
            if (why := grant.ended()) is not None:
                return Refusal(HTTPStatus.UNAUTHORIZED, why)
            scope[GRANT] = grant
        if scope["type"] == "http" and scope["method"] == "POST":
            content_type = _single(headers, b"content-type") or b""
            if content_type.split(b";")[0].strip().lower() != b"application/json":
                return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
            length = _single(headers, b"content-length")
            if length is not None and int(length) > self._max_bytes:
                too_large = body_too_large(self._max_bytes, int(length))
                return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, as_json(too_large), b"application/json")
        return None


def _token(scope: Scope, headers: dict[bytes, list[bytes]]) -> bytes:
    """The token that the request brings; empty where it brings none, or, what nothing honest does, several."""
    if b"authorization" in headers:
        scheme, _, credentials = (_single(headers, b"authorization") or b"").partition(b" ")
        return credentials.strip() if scheme.lower() == b"bearer" else b""
    if scope["type"] == "websocket" and scope["path"] == "/ws":
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return tokens[0].encode() if len(tokens) == 1 else b""
    return b""


def caller(transport: str, scope: Mapping[str, Any]) -> Caller:
    """Who sent a request that the guard has let through."""
    client = scope.get("client")
    remote = f"{client[0]}:{client[1]}" if client and client[1] is not None else None
    return Caller(transport, scope[GRANT], remote=remote)


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    return headers


def _single(headers: dict[bytes, list[bytes]], name: bytes) -> bytes | None:
    """The header's value; None where it is missing or, what nothing honest sends, there twice."""
    values = headers.get(name, [])
    return values[0] if len(values) == 1 else None


def _hostname(host: str) -> str | None:
    """Without the port, and without the brackets of an IPv6 address; None where it is no Host at all."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::[0-9]*)?", host.strip().lower())
    return match and (match[1] or match[2])


async def _respond(
    scope: Scope, receive: Any, send: Any, status: HTTPStatus, extra: dict[bytes, bytes], text: str
) -> None:
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()  # the connect event; the upgrade is then answered with a plain response
        prefix = "websocket.http"
    body = f"{text}\n".encode() if text else b""
    headers = [*extra.items()]
    if status is not HTTPStatus.NO_CONTENT:
        headers.append((b"content-length", str(len(body)).encode()))
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        headers.append((b"connection", b"close"))  # its body stays unread
    await send({"type": f"{prefix}.response.start", "status": status.value, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _with_headers(send: Any, extra: dict[bytes, bytes]) -> Any:
    async def wrapped(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *extra.items()]}
        await send(message)

    return wrapped
