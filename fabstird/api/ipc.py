"""The IPC endpoint: a Unix stream socket, one JSON-RPC text a line, both ways. CONTRACT, section 3."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from fabstir_client.errors import TooLarge
from fabstird.api.session import Session
from fabstird.api.unix import listening
from fabstird.log import get_logger
from fabstird.rpc.dispatch import Caller, Dispatcher
from fabstird.rpc.services import Services

log = get_logger("api.ipc")

RECEIVE = 65536
LINGER = 5.0  # seconds for the answers of a caller that has stopped sending


@asynccontextmanager
async def serving(
    path: Path, mode: int, services: Services, dispatcher: Dispatcher, passed: socket.socket | None = None
) -> AsyncIterator[None]:
    """Listen at ``path`` until the context is left; then every connection is ended and the socket file removed. A
    ``passed`` socket listens there already, and its file is not ours.

    Raises `BindError`.
    """
    held: AbstractContextManager[socket.socket] = passed or listening(path, mode, "[api] ipc")
    with held as sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        async with trio.open_nursery() as nursery:
            handler = partial(_serve, services, dispatcher)
            nursery.start_soon(partial(trio.serve_listeners, handler_nursery=nursery), handler, [listener])
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


async def _serve(services: Services, dispatcher: Dispatcher, stream: trio.SocketStream) -> None:
    pid, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))

    async def send(messages: list[bytes]) -> None:
        await stream.send_all(b"\n".join(messages) + b"\n")

    async with stream:
        try:
            async with Session.open(services, dispatcher, Caller("ipc", uid, pid), send) as session:
                await _read_lines(session, stream, services.config.api.max_request_bytes)
                with trio.move_on_after(LINGER):
                    await session.finish()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a caller has gone", uid=uid, pid=pid)


async def _read_lines(session: Session, stream: trio.SocketStream, limit: int) -> None:
    """Hand each line to the session; the last one counts without its newline too, as ``printf | nc`` sends it."""
    buffer = bytearray()
    searched = 0
    while data := await stream.receive_some(RECEIVE):
        buffer += data
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
            if len(line) > limit:
                await _refuse(session, limit, len(line))
                return
            if line.strip():
                await session.receive(line)
        searched = len(buffer)
        if len(buffer) > limit:
            await _refuse(session, limit, len(buffer))
            return
    if buffer.strip():
        await session.receive(bytes(buffer))


async def _refuse(session: Session, limit: int, current: int) -> None:
    error = TooLarge(
        f"a line of more than {limit} bytes", limit=limit, current=current, configKey="api.max_request_bytes"
    )
    answer = {"jsonrpc": "2.0", "error": error.to_error_object(), "id": None}
    await session.send([msgspec.json.encode(answer)])
