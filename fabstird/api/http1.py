"""HTTP/1.1 on one connection, over hypercorn's: requests held to the RFCs, and which of them ask for an upgrade."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPLAINED = 200  # characters of h11's explanation of a malformed request


class Http1(H11Protocol):
    """``on_closed`` is called when the connection has ended."""

    def __init__(self, *args: Any, on_closed: Callable[[], None]) -> None:
        super().__init__(*args)
        self.connection = _Requests(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self._on_closed = on_closed
        self._head = b""  # of a response, until more of it is to be sent
        self._holding = False
        self._send_on, self.send = self.send, self._joined

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self._on_closed()

    @property
    def answering(self) -> bool:
        """Whether a complete request has been received and its response has not been sent."""
        http = self.connection
        complete = isinstance(http, h11.Connection) and http.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        return self.stream is not None and complete

    @property
    def silent(self) -> bool:
        """Whether nothing of the response has been sent, and the client accepts interim responses (RFC 9110, section
        15.2)."""
        http = self.connection
        recent = isinstance(http, h11.Connection) and http.their_http_version == b"1.1"
        return recent and http.our_state is h11.SEND_RESPONSE and not self._head

    @property
    def fresh(self) -> bool:
        """Whether the next byte begins a request, and the last response has been sent."""
        http = self.connection
        return self.stream is None and isinstance(http, _Requests) and http.fresh and not self._head

    async def _check_protocol(self, event: Any) -> None:
        return None

    async def _create_stream(self, request: h11.Request) -> None:
        """Leave upgrades to the application, which finds the requested ``upgrade`` in its scope's state; hypercorn
        handles none. WebSocket extensions are not offered: on one machine compression costs more than it saves, and a
        compressed message could grow a thousandfold before its size can be checked."""
        target, headers = in_origin_form(request.target, list(request.headers))
        upgrades = [value.strip() for name, value in headers if name == b"upgrade"]
        options = [value for name, value in headers if name == b"connection"]
        tokens = [token.strip() for value in options for token in value.lower().split(b",")]
        upgrade = upgrades[0] if len(upgrades) == 1 and b"upgrade" in tokens else b""
        if target.partition(b"?")[0] != b"/stream":
            if upgrade.lower() != b"websocket" or request.method != b"GET":
                upgrade = b""
            elif [value for name, value in headers if name == b"sec-websocket-version"] != [b"13"]:
                upgrade = b""  # the answer names the supported version
            elif reason := _handshake_error(request, headers):
                await self._refuse(HTTPStatus.BAD_REQUEST, reason)
                return
        if upgrade or "upgrade" in self.connection_state:  # left by an earlier request
            self.connection_state = ConnectionState({**self.connection_state, "upgrade": upgrade})
        kept = [(name, value) for name, value in headers if name != b"upgrade"]
        if target != request.target or len(kept) < len(request.headers):
            request = h11.Request(method=request.method, target=target, headers=kept, http_version=request.http_version)
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """As hypercorn's, with an explanation for whoever has to debug the client."""
        reason = self.connection.error if isinstance(self.connection, _Requests) else ""
        await self._explain(HTTPStatus(status_code), reason)

    async def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Refuse a request before any application sees it, and close its connection."""
        await self._explain(status, reason)
        await self.send(Closed())

    async def _explain(self, status: HTTPStatus, reason: str) -> None:
        body = f"{reason or status.phrase}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        headers += self.config.response_headers("h11")
        await self._send_h11_event(h11.Response(status_code=status.value, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _send_h11_event(self, event: Any) -> None:
        if not isinstance(event, h11.InformationalResponse) or event.status_code != HTTPStatus.CONTINUE:
            self._holding = isinstance(event, h11.Response)
            await super()._send_h11_event(event)

    async def _joined(self, event: Event) -> None:
        """Write the head and the body of a response in one go, and nothing for an empty last part."""
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
        """Send ``100 Continue`` to a client that waits for it. hypercorn would send it at once, even for bodies that
        are then refused."""
        if self.connection.they_are_waiting_for_100_continue:
            await super()._send_h11_event(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))


class _Requests(h11.Connection):
    """h11's connection. It accepts an empty line before a request, as RFC 9112, section 2.2, requires, and keeps the
    reason of a parse error in ``error``."""

    error = ""
    _may_be_empty = True  # whether the next line may be empty

    @property
    def fresh(self) -> bool:
        """Whether nothing of the next request has been received, not even an empty line before it."""
        return self.their_state is h11.IDLE and self._may_be_empty and not self._receive_buffer

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            if self._may_be_empty and bytes(self._receive_buffer)[:2] == b"\r\n":
                self._receive_buffer.maybe_extract_at_most(2)
                self._may_be_empty = False
        else:
            self._may_be_empty = True
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.error = str(error)[:EXPLAINED]
            raise


def _handshake_error(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> str:
    """Why a request is not a valid WebSocket handshake; empty if it is one (RFC 6455, section 4.2.1)."""
    if request.http_version != b"1.1":
        return "a WebSocket needs HTTP/1.1"
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        return "a WebSocket handshake cannot have a body"
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    return "" if valid else "there must be one Sec-WebSocket-Key, of 16 bytes in base64"


def in_origin_form(target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The request's target as a path, and its headers.

    A target in absolute form, as sent to a proxy, must have the request's Host as its authority. RFC 9112, section
    3.2.2, says to ignore Host instead, but honest clients send the same in both. A target in any other form is returned
    as it is.
    """
    scheme, found, _ = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https", b"ws", b"wss"):
        return target, headers
    try:
        parts = urlsplit(target)
    except ValueError:  # brackets without an IPv6 address
        return target, headers
    path = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
    others = [(name, value) for name, value in headers if name != b"host"]
    hosts = {value for name, value in headers if name == b"host"}
    authority = parts.netloc.rpartition(b"@")[2]
    return path, [(b"host", authority if hosts <= {authority} else b""), *others]
