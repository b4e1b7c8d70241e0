"""The IPC endpoint: a Unix stream socket, one JSON-RPC text a line, both ways. CONTRACT, section 3."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from fabstir_client.errors import FabstirError, TooLarge
from fabstird.api.errors import too_slow
from fabstird.api.fanout import Fanout
from fabstird.api.framing import lines
from fabstird.api.session import Session
from fabstird.api.sockets import Outbox, receive
from fabstird.api.unix import listening
from fabstird.config import ApiConfig
from fabstird.log import get_logger
from fabstird.rpc.access import Caller, Grant
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.services import Services
from fabstird.rpc.usage import over

log = get_logger("api.ipc")


@asynccontextmanager
async def serving(
    path: Path,
    mode: int,
    services: Services,
    dispatcher: Dispatcher,
    fanout: Fanout,
    passed: socket.socket | None = None,
) -> AsyncIterator[None]:
    """Listen at ``path`` until the context is left; then every connection is ended and the socket file removed. A
    ``passed`` socket listens there already, and its file is not ours.

    Raises `BindError`.
    """
    held: AbstractContextManager[socket.socket] = passed or listening(path, mode, "[api] ipc")
    with held as sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        group = _group_of(path)
        async with trio.open_nursery() as nursery:
            handler = partial(_serve, services, dispatcher, fanout, group)
            nursery.start_soon(partial(trio.serve_listeners, handler_nursery=nursery), handler, [listener])
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


async def _serve(
    services: Services, dispatcher: Dispatcher, fanout: Fanout, group: int | None, stream: trio.SocketStream
) -> None:
    api, usage = services.config.api, services.usage
    caller = _caller(stream.socket, services.ipc_group, group)
    outbox = Outbox(stream.socket, api.max_send_queue_bytes, api.send_timeout / 1000)
    async with stream:
        if usage.ipc >= api.max_ipc_connections:
            refusal = over("connections to the IPC socket", api.max_ipc_connections, "max_ipc_connections")
            await _turn_away(outbox, refusal)
            return
        usage.ipc += 1
        try:
            async with Session.open(services, dispatcher, caller, outbox, lines, fanout) as session:
                await _read_lines(session, stream.socket, api)
                await session.finish()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a caller has gone", uid=caller.uid, pid=caller.pid)
        finally:
            usage.ipc -= 1


OWNER = Grant("admin", "the user that runs the daemon")
OTHERS = Grant(
    "read", "being neither the daemon's user nor in the group of the IPC socket", cure="join that group, or use a token"
)
SO_PEERGROUPS = 59  # <asm-generic/socket.h>; Python 3.11 has no name for it
MOST_GROUPS = 256  # socket.getsockopt gives 1,024 bytes at most


def _group_of(path: Path) -> int | None:
    """The group of the socket's file; None where there is none, as with an abstract socket that systemd made."""
    try:
        return os.stat(path).st_gid
    except FileNotFoundError:
        return None


def _caller(sock: trio.socket.SocketType, group_grant: Grant, group: int | None) -> Caller:
    """Who connected, as the kernel noted it then, and what that user may do."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in (os.geteuid(), 0):
        grant = OWNER
    elif group == gid or group in _groups(sock):
        grant = group_grant
    else:
        grant = OTHERS
    return Caller("ipc", grant, uid, pid)


def _groups(sock: trio.socket.SocketType) -> tuple[int, ...]:
    """The supplementary groups of the process that connected; none where it has more than `MOST_GROUPS`, or where the
    kernel does not tell (Linux before 4.13): in doubt nobody is in a group."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MOST_GROUPS)
    except OSError as error:
        log.debug("the groups of a caller are not known", error=error.strerror)
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


async def _read_lines(session: Session, sock: trio.socket.SocketType, api: ApiConfig) -> None:
    """Hand lines to the session, all that have come at once; the last one counts without its newline too, as
    ``printf | nc`` sends it."""
    limit, patience = api.max_request_bytes, api.body_timeout
    begun = bytearray()  # of a line whose end has not come
    since = 0.0  # when it began
    while True:
        if not begun:
            data = await receive(sock)
        else:
            with trio.move_on_at(since + patience / 1000) as scope:
                data = await receive(sock)
            if scope.cancelled_caught:
                await _refuse(session.outbox, too_slow("the end of a line", patience, "body_timeout"))
                return
        if not data:
            break
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = bytes(begun) + whole[0]
            begun.clear()
        if rest and not begun:
            since = trio.current_time()
        begun += rest
        too_long = next((at for at, line in enumerate(whole) if len(line) > limit), None)
        await session.receive([line for line in whole[:too_long] if line and not line.isspace()])
        if too_long is not None:
            await _refuse(session.outbox, _too_long(limit, len(whole[too_long])))
            return
        if len(begun) > limit:
            await _refuse(session.outbox, _too_long(limit, len(begun)))
            return
    if begun.strip():
        await session.receive([bytes(begun)])


def _too_long(limit: int, current: int) -> TooLarge:
    words = f"a line of more than {limit} bytes"
    return TooLarge(words, limit=limit, current=current, configKey="api.max_request_bytes")


async def _refuse(outbox: Outbox, error: FabstirError) -> None:
    answer = {"jsonrpc": "2.0", "error": error.to_error_object(), "id": None}
    outbox.write(lines([msgspec.json.encode(answer)]))
    await outbox.flush()


async def _turn_away(outbox: Outbox, error: FabstirError) -> None:
    """Tell a caller that there is no room; a new socket takes so little at once."""
    try:
        with trio.move_on_after(1):
            await _refuse(outbox, error)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has gone
