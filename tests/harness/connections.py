"""Connections to a daemon as any language makes them: the IPC socket and WebSocket, message by message."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.harness.launch import Json
from tests.harness.process import Process
from tests.harness.schema import Conversation

ANSWER = 60.0  # seconds for an answer, on a machine that is busy with other things


class Connection(ABC):
    """A connection that carries calls and notifications: IPC or WebSocket. All that comes is held to the document."""

    def __init__(self) -> None:
        self.held = Conversation()
        self._ids = itertools.count(1)
        self.notifications: list[Json] = []  # those that came while an answer was waited for

    async def send(self, message: Any) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.held.sent(text)
        await self.send_text(text)

    @abstractmethod
    async def send_text(self, text: bytes) -> None: ...

    @abstractmethod
    async def receive_text(self) -> bytes | None:
        """The next text; None at the end."""

    async def receive(self) -> Any:
        with trio.fail_after(ANSWER):
            text = await self.receive_text()
        assert text is not None, "the connection was closed"
        self.held.received(text)
        return json.loads(text)

    async def response(self) -> Any:
        """The next message that is no notification."""
        while isinstance(message := await self.receive(), dict) and "method" in message:
            self.notifications.append(message)
        return message

    async def answer(self, method: str, params: Any = None) -> Json:
        """The whole answer to one call."""
        number = next(self._ids)
        await self.send(
            {"jsonrpc": "2.0", "id": number, "method": method, **({} if params is None else {"params": params})}
        )
        while True:
            message = await self.receive()
            if message.get("id") == number:
                return dict(message)
            self.notifications.append(message)

    async def call(self, method: str, params: Any = None) -> Any:
        answer = await self.answer(method, params)
        assert "result" in answer, answer
        return answer["result"]

    async def error(self, method: str, params: Any = None) -> Json:
        answer = await self.answer(method, params)
        assert "error" in answer, answer
        return dict(answer["error"])

    async def notification(self, method: str | None = None) -> Json:
        """The next notification, of this method if one is given, with its place among those that have come."""
        while True:
            message = self.notifications.pop(0) if self.notifications else await self.receive()
            assert "id" not in message, message
            if method in (None, message["method"]):
                return dict(message)


class Ipc(Connection):
    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__()
        self.stream = stream
        self._buffer = bytearray()

    async def send_text(self, text: bytes) -> None:
        await self.stream.send_all(text + b"\n")

    async def receive_text(self) -> bytes | None:
        while b"\n" not in self._buffer:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # closed with something of ours unread
                return None
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return bytes(line)


class Ws(Connection):
    def __init__(self, websocket: WebSocketConnection) -> None:
        super().__init__()
        self.websocket = websocket

    async def send_text(self, text: bytes) -> None:
        await self.websocket.send_message(text.decode())

    async def receive_text(self) -> bytes | None:
        try:
            message = await self.websocket.get_message()
        except ConnectionClosed:
            return None
        assert isinstance(message, str)
        return message.encode()


@asynccontextmanager
async def ipc(running: Process) -> AsyncIterator[Ipc]:
    async with await trio.open_unix_socket(running.api["ipc"]) as stream:
        yield Ipc(stream)


@asynccontextmanager
async def ws(running: Process, token: str | None = None) -> AsyncIterator[Ws]:
    headers = [(b"authorization", f"Bearer {token or running.token}".encode())]
    failure: BaseException | None = None
    async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream, trio.open_nursery() as nursery:
        host = f"127.0.0.1:{running.port}"
        try:
            yield Ws(await wrap_client_stream(nursery, stream, host, "/ws", extra_headers=headers))
        except BaseException as error:  # noqa: BLE001 - raised again below, not inside the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
