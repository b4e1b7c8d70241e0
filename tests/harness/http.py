"""HTTP requests to a daemon, byte by byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from tests.harness.connections import ANSWER
from tests.harness.process import Process
from tests.harness.schema import Conversation


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(port: int, request: bytes) -> Reply:
    """Send the bytes as they are, and read one response and the end of the connection."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            received = bytearray()
            try:
                await stream.send_all(request)
            except trio.BrokenResourceError:
                pass  # it would not read all of it; its answer is there all the same
            try:
                async for data in stream:
                    received += data
            except trio.BrokenResourceError:
                pass  # closed with something of ours unread
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split(" ")[1]), headers, body)


def request_text(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def fetch(running: Process, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Reply:
    """A right request, but for the headers that are given (`None` leaves one out; `_` stands for `-`)."""
    right: dict[str, str | None] = {
        "host": f"127.0.0.1:{running.port}",
        "authorization": f"Bearer {running.token}",
        "connection": "close",
    }
    if body is not None:
        right |= {"content-type": "application/json", "content-length": str(len(body))}
    right |= {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in right.items() if value is not None}
    return await exchange(running.port, request_text(method, path, kept, body or b""))


def upgrade_text(running: Process, path: str = "/ws", **headers: str | None) -> bytes:
    """A right request for a WebSocket, but for the headers that are given, as in `fetch`."""
    right: dict[str, str | None] = {
        "host": f"127.0.0.1:{running.port}",
        "authorization": f"Bearer {running.token}",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(b"0" * 16).decode(),
    }
    right |= {name.replace("_", "-"): value for name, value in headers.items()}
    return request_text("GET", path, {name: value for name, value in right.items() if value is not None})


async def post(running: Process, message: Any, **headers: str | None) -> Reply:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    reply = await fetch(running, "POST", "/rpc", body, **headers)
    if reply.status == 200:
        held = Conversation()
        held.sent(body)
        held.received(reply.body)
    return reply
