"""Answers a plain ``POST /rpc``, the request that programs send most, without hypercorn and h11.

A plain request arrives complete in one read, with nothing after it and nothing unusual in its head. `Guard` and the
dispatcher treat it like any other. If they would refuse it or wait, nothing has been done yet, and the request takes
the usual way from its first byte. So this module need not agree with h11 on requests that are not plain; a test
compares the two on those that are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from fabstird.api.guard import Guard, Headers, Scope, caller
from fabstird.api.sockets import Outbox
from fabstird.rpc.dispatch import LATER, Call, Dispatcher
from fabstird.rpc.services import Services

_FIRST: Final = b"POST /rpc HTTP/1.1\r\n"
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e]+(?: [\x21-\x7e]+)*)")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,8}")
_MOST: Final = 8192  # bytes of a head; h11 accepts more
# h11 handles requests with any of these, and with a repeated header
_UNUSUAL: Final = frozenset((b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"))

# A response, and functions to call once it is sent
Answered = tuple[bytes, list[Callable[[], None]]]


def read_head(head: bytes) -> tuple[Headers, int] | None:
    """Read the head of a plain request.

    Args:
        head: The head, up to the empty line that ends it.

    Returns:
        Its headers and the length of its body; None where it is not plain.
    """
    if len(head) > _MOST or not head.startswith(_FIRST):
        return None
    headers: Headers = {}
    for line in head[len(_FIRST) :].split(b"\r\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name in headers or name in _UNUSUAL:
            return None
        headers[name] = [match[2]]
    length = headers.get(b"content-length", [b""])[0]
    if b"host" not in headers or _LENGTH.fullmatch(length) is None:
        return None
    if headers.get(b"connection", [b"keep-alive"])[0].lower() != b"keep-alive":
        return None
    return headers, int(length)


class PlainPosts:
    """Answers the plain requests of all connections."""

    def __init__(self, guard: Guard, services: Services, dispatcher: Dispatcher) -> None:
        self.guard = guard
        self.services = services
        self.dispatcher = dispatcher
        self._date = 0, b""

    def of(self, client: Any, server: Any) -> PlainPost:
        """The answerer for one connection, whose addresses are given as in ASGI."""
        return PlainPost(self, client, server)

    def response(self, answer: bytes | None, allowed: dict[bytes, bytes]) -> bytes:
        """The response as hypercorn would write it. ``allowed`` are the CORS headers."""
        if answer is None:
            lines = [b"HTTP/1.1 204 "]
        else:
            lines = [b"HTTP/1.1 200 \r\ncontent-type: application/json\r\ncontent-length: %d" % len(answer)]
        lines += [name + b": " + value for name, value in allowed.items()]
        lines += [b"date: " + self._now(), b"", answer or b""]
        return b"\r\n".join(lines)

    def _now(self) -> bytes:
        second = int(time.time())
        if self._date[0] != second:
            self._date = second, formatdate(second, usegmt=True).encode()
        return self._date[1]


class PlainPost:
    """Answers the plain requests of one connection. The last head is kept, since programs repeat it."""

    def __init__(self, shared: PlainPosts, client: Any, server: Any) -> None:
        self._shared = shared
        self._head = b""
        self._read: tuple[Headers, int] | None = None
        self._scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/rpc",
            "client": client,
            "server": server,
        }

    def read(self, data: bytes) -> bytes | None:
        """The body of the request in ``data``; None where it is not plain."""
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            return None
        if head != self._head:
            self._head, self._read = head, read_head(head)
        return body if self._read is not None and len(body) == self._read[1] else None

    def answer(self, body: bytes) -> Answered | None:
        """Answer a call of a plain function. None for any other call, and for one that is refused; nothing has been
        done then."""
        if (allowed := self._let_in()) is None:
            return None
        call = self._call()
        answer = self._shared.dispatcher.at_once(body, call)
        return None if answer is LATER else (self._shared.response(answer, allowed), call.after_reply)

    async def answer_batch(self, body: bytes, outbox: Outbox) -> Answered | None:
        """Answer a short batch of such calls, when it is its turn. None as for `answer`, and where the client has gone
        or lost its permission meanwhile."""
        if not body.startswith(b"[") or (allowed := self._let_in()) is None:
            return None
        call, shared = self._call(), self._shared

        def there() -> bool:
            return call.caller.grant.ended() is None and not outbox.gone(half_closed=False)

        with shared.services.usage.calling():
            answer = await shared.dispatcher.dispatch_plain_batch(body, call, there)
        return None if answer is LATER else (shared.response(answer, allowed), call.after_reply)

    def _let_in(self) -> dict[bytes, bytes] | None:
        assert self._read is not None
        return self._shared.guard.lets_in(self._scope, self._read[0])

    def _call(self) -> Call:
        return Call(self._shared.services, caller("http", self._scope))
