"""The IPC endpoint: a Unix stream socket with one JSON-RPC text a line, both ways."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from fabstir_client.api.errors import FabstirError, TooLarge
from fabstird.accepting import Listener
from fabstird.api.absence import Absence
from fabstird.api.errors import too_slow
from fabstird.api.fanout import Fanout
from fabstird.api.session import Session
from fabstird.api.sockets import Outbox, receive
from fabstird.api.wire_format import lines
from fabstird.config import ApiConfig
from fabstird.log.logger import get_logger
from fabstird.p2p.streams.local_socket import LocalSocket
from fabstird.rpc.access import Caller, Grant
from fabstird.rpc.arriving import Arriving
from fabstird.rpc.calls import failure
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.limits import over
from fabstird.rpc.request_guard import ENDS, id_at_the_ends, readable_id
from fabstird.rpc.services import Services
from fabstird.unix_socket import listening

if TYPE_CHECKING:
    from fabstird.p2p.streams.ledger import Stream

log = get_logger("api.ipc")

WHITE = b" \t\r\n"
SKIPPED = 16  # times [api] max_request_bytes; a connection survives a refused line up to this long
STALLED = 1.0  # seconds without a byte, after which the end of such a line is no longer awaited


@asynccontextmanager
async def serving(
    path: Path,
    mode: int,
    services: Services,
    dispatcher: Dispatcher,
    fanout: Fanout,
    passed: socket.socket | None = None,
) -> AsyncIterator[None]:
    """Listen at ``path`` until the context is left. Then every connection is closed and the socket file removed. A
    ``passed`` socket already listens there, and its file is left alone.

    Raises `BindError`.
    """
    held: AbstractContextManager[socket.socket] = passed or listening(path, mode, "[api] ipc")
    with held as sock:
        listener = Listener(sock)
        group = _group_of(path)
        async with trio.open_nursery() as nursery:
            absence = Absence()
            services.node.fence.keep(nursery, "caller", absence.run)
            serve = partial(_serve, services, dispatcher, fanout, absence, group)
            handler = partial(services.node.fence.run, "caller", serve)
            nursery.start_soon(partial(trio.serve_listeners, handler_nursery=nursery), handler, [listener])
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


async def _serve(
    services: Services,
    dispatcher: Dispatcher,
    fanout: Fanout,
    absence: Absence,
    group: int | None,
    stream: trio.SocketStream,
) -> None:
    """Serve one connection. The accept loop closes it."""
    usage, most = services.usage, services.config.api.max_ipc_connections
    if usage.ipc >= most:
        await _turn_away(Outbox(stream.socket), over("connections to the IPC socket", most, "max_ipc_connections"))
        return
    usage.ipc += 1
    try:
        taken = await _converse(services, dispatcher, fanout, absence, group, stream.socket)
    finally:
        usage.ipc -= 1  # a stream is counted among the streams
    if taken is not None:
        await taken.stream.join(LocalSocket(stream.socket), taken.first)


async def _converse(
    services: Services,
    dispatcher: Dispatcher,
    fanout: Fanout,
    absence: Absence,
    group: int | None,
    sock: trio.socket.SocketType,
) -> _Taken | None:
    """Serve calls until the caller goes or the connection becomes a stream. A stream may last for days, so it keeps no
    reference to anything here."""
    api, caller = services.config.api, _caller(sock, services.ipc_group, group)
    outbox = Outbox(sock, api.max_send_queue_bytes, api.send_timeout / 1000, services.usage.unsent)
    taken: _Taken | None = None
    arriving = services.usage.arrival(caller.identity)
    try:
        async with Session.open(services, dispatcher, caller, outbox, lines, fanout) as session:
            taken = await _read_lines(session, absence, sock, api, arriving)
            if taken is None:
                await session.finish()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("a caller has gone", uid=caller.uid, pid=caller.pid)
    finally:
        arriving.leave()
        outbox.forget()
    return taken


@dataclass(frozen=True, slots=True)
class _Taken:
    """A connection that becomes a stream, and the bytes read after its first line."""

    stream: Stream
    first: bytes


class _Head(msgspec.Struct):
    method: str
    id: str | int  # required: the stream begins after the answer


_head = msgspec.json.Decoder(_Head).decode
TAKEOVERS = ("stream.open", "stream.accept")


def _takes_over(line: bytes) -> bool:
    """Whether a line is a call that turns the connection into a stream."""
    try:
        return _head(line).method in TAKEOVERS
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


OWNER = Grant("admin", "the user that runs the daemon")
OTHERS = Grant(
    "read", "being neither the daemon's user nor in the group of the IPC socket", cure="join that group, or use a token"
)
SO_PEERGROUPS = 59  # <asm-generic/socket.h>; Python 3.11 has no name for it
MOST_GROUPS = 256  # socket.getsockopt returns 1,024 bytes at most


def _group_of(path: Path) -> int | None:
    """The group of the socket file; None where there is no file, as for an abstract socket made by systemd."""
    try:
        return os.stat(path).st_gid
    except FileNotFoundError:
        return None


def _caller(sock: trio.socket.SocketType, group_grant: Grant, group: int | None) -> Caller:
    """The caller, as the kernel recorded it when it connected, and what that user may do."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in (os.geteuid(), 0):
        grant = OWNER
    elif group == gid or group in _groups(sock):
        grant = group_grant
    else:
        grant = OTHERS
    return Caller("ipc", grant, uid, pid)


def _groups(sock: trio.socket.SocketType) -> tuple[int, ...]:
    """The supplementary groups of the connecting process. Empty for a process with more than `MOST_GROUPS`, and before
    Linux 4.13, which does not report them: nobody is granted access on a guess."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MOST_GROUPS)
    except OSError as error:
        log.debug("the groups of a caller are not known", error=error.strerror)
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


async def _read_lines(
    session: Session, absence: Absence, sock: trio.socket.SocketType, api: ApiConfig, arriving: Arriving
) -> _Taken | None:
    """Pass lines to the session, all that were received together. The last line counts even without its newline, as
    ``printf | nc`` sends it. If the first line turns the connection into a stream, what follows belongs to the stream.
    """
    limit, timeout = api.max_request_bytes, api.body_timeout
    fresh = True  # no call has been made on this connection
    partial = bytearray()  # an incomplete line
    since = 0.0  # when it began
    leftover = b""  # read after the end of a skipped line
    while True:
        if leftover:
            data, leftover = leftover, b""
        elif not partial:
            data = await receive(sock)
        else:
            with arriving.until(since + timeout / 1000) as scope:
                data = await receive(sock)
            if scope.cancelled_caught:
                slow = too_slow("the end of a line", timeout, "body_timeout")
                await _refuse(session.outbox, arriving.refusal() or slow)
                return None
        if not data:
            break
        if fresh and b"\n" in data:
            line, newline, rest = (bytes(partial) + data).lstrip(WHITE).partition(b"\n")
            fresh = not newline
            if newline and len(line) <= limit and _takes_over(line):
                if (stream := await session.take_over(line, absence)) is not None:
                    return _Taken(stream, rest)
                partial.clear()
                data = rest
        *complete, rest = data.split(b"\n")
        if complete:
            complete[0] = bytes(partial) + complete[0]
            partial.clear()
        if rest and not partial:
            since = trio.current_time()
        partial += rest
        arriving.complete = bool(complete)
        await _receive(session, complete, limit)
        if complete:
            arriving.leave()
        if await arriving.received(len(partial)):
            since = trio.current_time()
        if len(partial) > limit:
            fresh = False
            after = await _skip(session.outbox, sock, partial, api)
            if after is None:
                return None
            partial, leftover = bytearray(), after
    if fresh and _takes_over(bytes(partial)):
        if (stream := await session.take_over(bytes(partial), absence)) is not None:
            return _Taken(stream, b"")
    elif partial.strip():
        await session.receive([bytes(partial)])
    return None


async def _receive(session: Session, complete: list[bytes], limit: int) -> None:
    """Pass complete lines on. A line that is too long is refused in its turn."""
    ready: list[bytes] = []
    for line in complete:
        if len(line) > limit:
            await session.receive(ready)
            ready = []
            await _refuse(session.outbox, _too_long(limit, len(line)), readable_id(line))
        elif line and not line.isspace():
            ready.append(line)
    await session.receive(ready)


async def _skip(outbox: Outbox, sock: trio.socket.SocketType, partial: bytearray, api: ApiConfig) -> bytes | None:
    """Refuse a line that is too long, and skip it. Returns the bytes read after its end; None if the end does not come
    in time, or not within `SKIPPED` times the limit. The connection can then not be used any further."""
    limit = api.max_request_bytes
    first, last, size = bytes(partial[:ENDS]), bytes(partial[-ENDS:]), len(partial)
    after: bytes | None = None
    deadline = trio.current_time() + api.body_timeout / 1000
    while after is None and size <= SKIPPED * limit:
        data = b""
        with trio.move_on_at(min(deadline, trio.current_time() + STALLED)):
            data = await receive(sock)
        if not data:
            break
        part, newline, rest = data.partition(b"\n")
        last, size = (last + part)[-ENDS:], size + len(part)
        after = rest if newline else None
    identity = id_at_the_ends(first, b"" if after is None else last)
    await _refuse(outbox, _too_long(limit, size), identity)
    return after


def _too_long(limit: int, current: int) -> TooLarge:
    words = f"a line of more than {limit} bytes"
    return TooLarge(words, limit=limit, current=current, configKey="api.max_request_bytes")


async def _refuse(outbox: Outbox, error: FabstirError, identity: str | int | None = None) -> None:
    outbox.write(lines([msgspec.json.encode(failure(identity, error))]))
    await outbox.flush()


async def _turn_away(outbox: Outbox, error: FabstirError) -> None:
    """Tell a caller that there are too many connections. The answer fits into a new socket's buffer."""
    try:
        with trio.move_on_after(1):
            await _refuse(outbox, error)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has gone
