"""Decides who may use the HTTP endpoints. It stands in front of all of them, so a refused request reaches no handler.

It checks Host, Origin, token, content type and size, in that order. A page in a browser cannot set Host or forge
Origin, which stops DNS rebinding and cross-site requests. The token stops other users of this machine.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import msgspec

from fabstir_client.api.errors import Forbidden
from fabstird.api import ui
from fabstird.api.errors import as_json, body_too_large
from fabstird.config import host_name
from fabstird.config import origin as normal_origin
from fabstird.log.logger import get_logger
from fabstird.rpc.access import Caller, Grant

log = get_logger("api.guard")

Scope = dict[str, Any]
Headers = dict[bytes, list[bytes]]  # names in lower case
App = Callable[[Any, Any, Any], Awaitable[None]]
ENDING = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
OPEN_PATHS = ("/healthz", "/readyz", *ui.PATHS)
SUBPROTOCOL = b"fabstir.token."  # followed by a token, among the subprotocols that a WebSocket offers
_SUBPROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, section 5.6.2
UNKNOWN = "the token is not valid: this daemon never issued it, or it was revoked"
LONGEST_HOST = 270  # characters: a name of 255, a colon and a port
GRANT = "fabstird.grant"  # the key in a request's scope under which the grant of its token is stored


@dataclass(frozen=True, slots=True)
class Refusal:
    status: HTTPStatus
    reason: str
    kind: bytes = b"text/plain; charset=utf-8"


class Guard:
    """An ASGI application that guards another one. ``find`` returns what a token grants, or None for an unknown token;
    the application finds the grant in the scope, under `GRANT`."""

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
        self._hosts = set(allowed_hosts)  # in the form of `checks.host_name`
        self._origins = set(allowed_origins)  # in the form of `checks.origin`
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope["headers"])
        refusal = self._refusal(scope, headers)
        allowed = self._seen(scope, headers)
        if refusal is not None:
            log.debug("request refused", path=scope["path"], status=refusal.status.value, reason=refusal.reason)
            kind, text = refusal.kind, refusal.reason
            if scope["path"] == "/stream":
                kind, text = b"application/json", _as_error(refusal.reason)
            await _respond(scope, send, refusal.status, {b"content-type": kind, **allowed}, text)
        elif allowed and scope["method"] == "OPTIONS":
            # A preflight carries no token; the request that follows it does.
            preflight = {
                b"access-control-allow-methods": b"GET, POST",
                b"access-control-allow-headers": b"authorization, content-type",
            }
            if _single(headers, b"access-control-request-private-network") == b"true":
                preflight[b"access-control-allow-private-network"] = b"true"
            await _respond(scope, send, HTTPStatus.NO_CONTENT, {**allowed, **preflight}, "")
        else:
            await self._app(scope, receive, _with_headers(send, allowed) if allowed else send)

    def lets_in(self, scope: Scope, headers: Headers) -> dict[bytes, bytes] | None:
        """Check a request. Returns the headers that let a page read the response (`seen`), with the grant of the
        request's token put into the scope; None where the request is refused."""
        return None if self._refusal(scope, headers) is not None else self._seen(scope, headers)

    def seen(self, scope: Scope) -> dict[bytes, bytes]:
        """The CORS headers that let a page of an allowed origin read any response, refusals included."""
        return self._seen(scope, _headers(scope["headers"]))

    def _seen(self, scope: Scope, headers: Headers) -> dict[bytes, bytes]:
        origin = _single(headers, b"origin")
        if not origin or not self._hosts_it(scope, headers) or not self._may_come_from(origin, headers):
            return {}
        return {b"access-control-allow-origin": origin, b"vary": b"origin"}

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        if scope["http_version"] not in ("1.0", "1.1"):
            return Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 only")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy in front might use the other one, and take for a body what we take for the next request.
            return Refusal(HTTPStatus.BAD_REQUEST, "a body has a Content-Length or a Transfer-Encoding, not both")
        if not self._hosts_it(scope, headers):
            return Refusal(HTTPStatus.FORBIDDEN, "this Host is not in [api] allowed_hosts")
        if b"origin" in headers:
            origin = _single(headers, b"origin")
            if origin is None or not self._may_come_from(origin, headers):
                return Refusal(HTTPStatus.FORBIDDEN, "this Origin is not in [api] allowed_origins")
            if scope["method"] == "OPTIONS":
                return None
        if scope["path"] not in OPEN_PATHS:
            token = _token(scope, headers)
            grant = self._find(token)
            if grant is None:
                return Refusal(HTTPStatus.UNAUTHORIZED, UNKNOWN if token else "needs Authorization: Bearer <api.token>")
            if (reason := grant.ended()) is not None:
                return Refusal(HTTPStatus.UNAUTHORIZED, reason)
            scope[GRANT] = grant
        if scope["method"] == "POST":
            content_type = _single(headers, b"content-type") or b""
            if content_type.split(b";")[0].strip().lower() != b"application/json":
                return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
            if (_single(headers, b"content-encoding") or b"identity").strip().lower() != b"identity":
                return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body must not be compressed")
            length = _single(headers, b"content-length")
            if length is not None and int(length) > self._max_bytes:
                too_large = body_too_large(self._max_bytes, int(length))
                return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, as_json(too_large), b"application/json")
        return None

    def _hosts_it(self, scope: Scope, headers: Headers) -> bool:
        """Whether the Host header is allowed, or is the address that the connection came to. A name can be made to
        point anywhere, an address cannot."""
        host = _single(headers, b"host")
        if host is None:
            return False
        try:
            name = _host_name(host.decode("latin-1"))
        except ValueError:
            return False
        return name in self._hosts or name == _own_address(scope)

    def _may_come_from(self, sent: bytes, headers: Headers) -> bool:
        """Whether pages of this Origin may call: those on the allow-list, and our own page, whose origin is the Host
        and port of the request. No other server on this machine can have that origin."""
        text, host = sent.decode("latin-1"), (_single(headers, b"host") or b"").decode("latin-1")
        try:
            return text == f"http://{host}" or normal_origin(text) in self._origins
        except ValueError:
            return False


_kept_host_name = lru_cache(maxsize=64)(host_name)


def _host_name(text: str) -> str:
    """As `checks.host_name`, cached: a program sends the same Host over and over."""
    return _kept_host_name(text) if len(text) <= LONGEST_HOST else host_name(text)


def _as_error(reason: str) -> str:
    """The body of a refusal for a request that asked for a stream."""
    error = Forbidden(reason, method="stream.open", needed="write", granted="none")
    return msgspec.json.encode({"error": error.to_error_object()}).decode()


@dataclass(frozen=True, slots=True)
class Offered:
    """The subprotocols that a WebSocket offers. ``token`` is what follows `SUBPROTOCOL`. Browsers require that one of
    them is ``chosen``: the first that is not a token."""

    token: bytes = b""
    chosen: bytes = b""


def offered(scope: Mapping[str, Any]) -> Offered:
    """The subprotocols of a request; empty where it offers none, or several tokens."""
    names = [
        name.strip()
        for header, value in scope["headers"]
        if header.lower() == b"sec-websocket-protocol"
        for name in value.split(b",")
        if _SUBPROTOCOL.fullmatch(name.strip())
    ]
    tokens = [name for name in names if name.startswith(SUBPROTOCOL)]
    if not names or len(tokens) > 1:
        return Offered()
    others = [name for name in names if name not in tokens]
    token = tokens[0].removeprefix(SUBPROTOCOL) if tokens else b""
    return Offered(token, (others or tokens)[0])


def is_websocket(scope: Mapping[str, Any]) -> bool:
    """Whether a request asks for a WebSocket."""
    upgrade: bytes = scope.get("state", {}).get("upgrade", b"")
    return upgrade.lower() == b"websocket"


def _token(scope: Scope, headers: Headers) -> bytes:
    """The token of a request; empty where there is none. Several count as none: no honest client sends them."""
    if b"authorization" in headers:
        scheme, _, credentials = (_single(headers, b"authorization") or b"").partition(b" ")
        return credentials.strip() if scheme.lower() == b"bearer" else b""
    if b"sec-websocket-protocol" in headers and is_websocket(scope) and (token := offered(scope).token):
        return token
    if scope["path"] == "/ws" and is_websocket(scope):
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return tokens[0].encode() if len(tokens) == 1 else b""
    return b""


def caller(transport: str, scope: Mapping[str, Any]) -> Caller:
    """The caller behind a request that the guard has let through."""
    client = scope.get("client")
    remote = f"{client[0]}:{client[1]}" if client and client[1] is not None else None
    return Caller(transport, scope[GRANT], remote=remote)


def _headers(given: Iterable[tuple[bytes, bytes]]) -> Headers:
    headers: Headers = {}
    for name, value in given:
        headers.setdefault(name.lower(), []).append(value)
    return headers


def _single(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header; None where it is missing. A repeated one counts as missing: no honest client sends it."""
    values = headers.get(name, [])
    return values[0] if len(values) == 1 else None


def _own_address(scope: Scope) -> str | None:
    """The address that the connection came to, in the form of `checks.host_name`; None for a Unix socket."""
    server = scope.get("server")
    if not server or server[1] is None:
        return None
    try:
        address = ipaddress.ip_address(server[0].partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


async def _respond(scope: Scope, send: Any, status: HTTPStatus, extra: dict[bytes, bytes], text: str) -> None:
    body = f"{text}\n".encode() if text else b""
    headers = [*extra.items()]
    if status is not HTTPStatus.NO_CONTENT:
        headers.append((b"content-length", str(len(body)).encode()))
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in ENDING or is_websocket(scope):
        headers.append((b"connection", b"close"))  # its body, or frames after the handshake, stay unread
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Any, extra: dict[bytes, bytes]) -> Any:
    async def wrapped(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *extra.items()]}
        await send(message)

    return wrapped
