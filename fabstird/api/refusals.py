"""Complete responses to requests that are not read to their end. The connection is closed after each."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import trio
from hypercorn.utils import parse_socket_addr

from fabstir_client.api.errors import FabstirError
from fabstird.api.errors import as_json
from fabstird.api.guard import Guard
from fabstird.api.sockets import RECEIVE

HEAD = 0.25  # seconds for the head of a request that is turned away
READING = 0.5  # seconds for its client to read the answer

Headers = dict[bytes, bytes]
Readable = Callable[[bytes, Any], Headers]


def readable(guard: Guard, head: bytes, server: Any) -> Headers:
    """As `Guard.seen`, for as much of a request's head as was received at the address ``server``."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:] if b"\r\n\r\n" in head else head.split(b"\r\n")[1:-1]
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    return guard.seen({"server": server, "headers": headers})


async def turn_away(stream: trio.SocketStream, error: FabstirError, readable: Readable) -> None:
    """Answer 503 with ``error``, and give the client a moment to read it. Closing at once would discard the answer if
    the client has sent more meanwhile."""
    head = bytearray()
    try:
        with trio.move_on_after(HEAD):
            while b"\r\n\r\n" not in head and len(head) < RECEIVE and (data := await stream.receive_some(RECEIVE)):
                head += data
        with trio.move_on_after(READING):
            allowed = readable(bytes(head), local_address(stream))
            await stream.send_all(refusal(HTTPStatus.SERVICE_UNAVAILABLE, error, allowed))
            await stream.send_eof()
            while await stream.receive_some(RECEIVE):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client has gone


def local_address(stream: Any) -> Any:
    """The local address of a connection, in ASGI's form."""
    sock = stream.socket
    return parse_socket_addr(sock.family, sock.getsockname())


def refusal(status: HTTPStatus, error: FabstirError, allowed: Headers) -> bytes:
    """The response to a request that was not read to its end; ``allowed`` are the headers that let a page read it."""
    body = f"{as_json(error)}\n".encode()
    lines = [
        b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode()),
        b"content-type: application/json",
        b"connection: close",
        b"content-length: %d" % len(body),
        *(name + b": " + value for name, value in allowed.items()),
    ]
    return b"\r\n".join([*lines, b"", body])
