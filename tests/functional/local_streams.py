"""Streams over the IPC socket, as a program of any language has them: a line each way, then bytes."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.harness import Daemon, asked_until
from tests.harness.schema import hold_message

ECHO = "/echo/1.0.0"
WAIT = 60.0  # seconds for anything that is to come, on a machine that is busy with other things

Json = dict[str, Any]


class Local:
    """A connection to the IPC socket: calls, and once one of them has made a stream of it, the stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.answered: Json = {}
        self._ahead = bytearray()

    @property
    def id(self) -> str:
        return str(self.answered["streamId"])

    async def answer(self, method: str, params: Json, behind: bytes = b"") -> Json:
        """The whole answer to a call; `behind` is sent right behind its line."""
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
        await self.stream.send_all(line + behind)
        answer: Json = json.loads(await self._line())
        hold_message(answer, method)
        return answer

    async def call(self, method: str, params: Json, behind: bytes = b"") -> Json:
        answer = await self.answer(method, params, behind)
        assert "result" in answer, answer
        self.answered = answer["result"]
        return self.answered

    async def error(self, method: str, params: Json) -> Json:
        answer = await self.answer(method, params)
        assert "error" in answer, answer
        return {"message": answer["error"]["message"], **answer["error"]["data"]}

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def end(self) -> None:
        await self.stream.send_eof()

    async def some(self) -> bytes:
        """What has come; empty at the end, as which a reset may show too."""
        if self._ahead:
            data, self._ahead = bytes(self._ahead), bytearray()
            return data
        with trio.fail_after(WAIT):
            try:
                return bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return b""

    async def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = await self.some()
            assert part, f"it ended after {len(data)} of {size} bytes"
            data += part
        self._ahead = data[size:]
        return bytes(data[:size])

    async def rest(self) -> bytes:
        parts = []
        while part := await self.some():
            parts.append(part)
        return b"".join(parts)

    def shrink(self) -> None:
        """Have the kernel keep as little as it can for us."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def _line(self) -> bytes:
        while b"\n" not in self._ahead:
            with trio.fail_after(WAIT):
                data = await self.stream.receive_some()
            assert data, f"the connection was closed after {bytes(self._ahead)!r}"
            self._ahead += data
        line, _, self._ahead = self._ahead.partition(b"\n")
        return bytes(line)


class Told(Local):
    """A connection on which what belongs to its caller is told, too."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._told: list[Json] = []

    async def _line(self) -> bytes:
        while b'"method"' in (line := await super()._line())[:40]:
            self._told.append(json.loads(line))
        return line

    async def told(self, method: str) -> Json:
        """The next notification of this method."""
        while True:
            message = self._told.pop(0) if self._told else json.loads(await super()._line())
            hold_message(message, None)
            if message["method"] == method:
                return dict(message["params"])


@asynccontextmanager
async def telling(path: Path | str) -> AsyncIterator[Told]:
    async with await trio.open_unix_socket(str(path)) as stream:
        yield Told(stream)


@asynccontextmanager
async def local(path: Path | str) -> AsyncIterator[Local]:
    async with await trio.open_unix_socket(str(path)) as stream:
        yield Local(stream)


@asynccontextmanager
async def opened(opening: Daemon, taking: Daemon, protocol: str) -> AsyncIterator[tuple[Local, Local]]:
    """A stream between two daemons, the second of which handles the protocol: both of its ends."""
    known = len(taking.found("stream.incoming"))
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(local(one.path)) for one in (opening, taking)]
        await here.call("stream.open", {"peerId": taking.peer_id, "protocol": protocol})
        told = await taking.wait_event("stream.incoming", count=known + 1, timeout=WAIT)
        await there.call("stream.accept", {"streamId": told["streamId"]})
        yield here, there


async def listed(daemon: Daemon, stream_id: str) -> Json:
    """The stream's entry in `stream.list`."""
    (entry,) = [one for one in await daemon.call("stream.list") if one["streamId"] == stream_id]
    return dict(entry)


async def outcome(daemon: Daemon, stream_id: str) -> str:
    """How the stream has ended, once it has."""
    entry = await asked_until(lambda: listed(daemon, stream_id), lambda found: found["state"] == "ended", within=WAIT)
    return str(entry["outcome"])
