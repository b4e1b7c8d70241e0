"""Methods for users' own protocols: streams to and from peers, and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from fabstir_client.api.errors import (
    DialFailed,
    Forbidden,
    InvalidState,
    MethodNotFound,
    NodeNotRunning,
    PeerNotFound,
    StreamFailed,
)
from fabstir_client.api.streams import (
    HandleParams,
    HandleResult,
    Notice,
    OpenedStream,
    OpenParams,
    ProtocolParams,
    ReadResult,
    RequestIdParams,
    RequestParams,
    RequestResult,
    ResetResult,
    RespondParams,
    RespondResult,
    StreamIdParams,
    StreamRecord,
    UnhandleResult,
)
from fabstir_client.api.types import NoParams
from fabstird.p2p.base64_text import from_base64, to_base64
from fabstird.p2p.streams.asker import Asker, NotOwner
from fabstird.rpc.calls import Takeover
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import duration


class Holder(Protocol):
    """A connection that holds something until it closes, and receives notices for its caller."""

    @property
    def identity(self) -> object: ...

    def admits(self, peer_id: str) -> bool: ...

    def tell(self, notice: Notice) -> None: ...

    def at_end(self, key: str, callback: Callable[[], None]) -> None: ...


# --------------------------------------------------------------------------------------------------------------------
# Streams


async def open_(call: Call, params: OpenParams) -> OpenedStream:
    """Must be the first and only line on a new connection to the IPC socket. After the newline of the answer, the bytes
    in both directions are the stream. After an error, the connection is an ordinary one. A peer that is not connected
    is dialled if an address of it is known. Over HTTP, `GET /stream` opens a stream."""
    takeover = _takeover(call)
    node = call.services.node
    limit = duration("timeout", params.timeout) or node.settings.request_timeout
    protocols = [params.protocol] if isinstance(params.protocol, str) else params.protocol
    takeover.stream, result = await node.run().open_stream(params.peer_id, protocols, limit, call.caller.identity)
    return result


async def accept(call: Call, params: StreamIdParams) -> OpenedStream:
    """Accepts a stream that a peer has opened and `stream.incoming` has announced. Like `stream.open`, it needs a new
    connection."""
    takeover = _takeover(call)
    with _owner_of("stream.accept", call):
        protocols = (await call.services.node.shared()).protocols
        takeover.stream, result = protocols.accept(params.stream_id, _asker(call))
    return result


async def reset(call: Call, params: StreamIdParams) -> ResetResult:
    """Resets a stream in both directions, at once. A stream that waits to be accepted is refused."""
    with _owner_of("stream.reset", call):
        return await (await call.services.node.shared()).protocols.reset(params.stream_id, _asker(call))


async def list_(call: Call, _: NoParams) -> list[StreamRecord]:
    """The caller's own streams; with admin access, all streams."""
    return (await call.services.node.shared()).protocols.records(_asker(call))


def _takeover(call: Call) -> Takeover:
    if call.takeover is not None:
        return call.takeover
    if call.caller.transport != "ipc":
        raise MethodNotFound("a stream needs its own connection; over HTTP, GET /stream opens and accepts streams")
    raise InvalidState("this connection has been used; a stream must be the first and only call on a new one")


def _asker(call: Call) -> Asker:
    grant = call.caller.grant
    return Asker(call.caller.identity, admin=grant.access == "admin" and not grant.scope.limited)


@contextmanager
def _owner_of(method: str, call: Call) -> Iterator[None]:
    try:
        yield
    except NotOwner as error:
        granted = call.caller.grant.access
        raise Forbidden(
            f"{method}: it belongs to another user or token; that needs admin access to all protocols and peers",
            method=method,
            needed="admin",
            granted=granted,
        ) from error


# --------------------------------------------------------------------------------------------------------------------
# Messages


async def request(call: Call, params: RequestParams) -> RequestResult:
    """Sends one message on a new stream, ends our side, and returns the peer's message. Each may be up to
    ``streams.max_message_bytes`` long. A peer that is not connected is dialled if an address of it is known."""
    node = call.services.node
    limit = duration("timeout", params.timeout) or node.settings.request_timeout
    data, framing = from_base64(params.data), params.framing or "uvarint"
    reply = await node.run().request(params.peer_id, params.protocol, data, framing, limit)
    return RequestResult(
        peer_id=reply.peer_id,
        protocol=params.protocol,
        data=to_base64(reply.data),
        size=len(reply.data),
        duration=reply.duration,
    )


async def handle(call: Call, params: HandleParams) -> HandleResult:
    """Only this connection is notified of what peers do on the protocol. In mode `message`, each message arrives as
    `protocol.request` and must be answered by `protocol.respond` before its deadline. In mode `stream`, each stream is
    announced as `stream.incoming` and accepted with `stream.accept`. Handling ends when this connection closes, but
    continues across stops of the node; streams that are open then stay open. On IPC and WebSocket."""
    node, holder = call.services.node, _holder(call)
    limit = duration("deadline", params.deadline) or node.settings.request_timeout
    duration("acceptTimeout", params.accept_timeout)
    protocols = (await node.shared()).protocols
    result, handler = protocols.handle(params, limit, holder)
    call.after_reply.append(handler.begin)
    holder.at_end("protocols", lambda: protocols.release(holder))
    return result


async def unhandle(call: Call, params: ProtocolParams) -> UnhandleResult:
    """Requests and streams that are waiting are reset; open streams continue."""
    return (await call.services.node.shared()).protocols.unhandle(params.protocol, _holder(call))


async def read(call: Call, params: RequestIdParams) -> ReadResult:
    """Returns a request, including the data that is too large for its notification. Only the user or token that was
    notified may read it, and admins."""
    with _owner_of("protocol.read", call):
        return (await call.services.node.shared()).protocols.messages.read(params.request_id, _asker(call))


async def respond(call: Call, params: RespondParams) -> RespondResult:
    """Returns once the complete answer has been written to the peer's stream. Only the user or token that was notified
    may answer, and admins."""
    with _owner_of("protocol.respond", call):
        messages = (await call.services.node.shared()).protocols.messages
        return await messages.respond(params.request_id, from_base64(params.data), _asker(call))


def _holder(call: Call) -> Holder:
    if call.subscriber is None:
        raise MethodNotFound("a protocol can be handled only on the IPC socket or a WebSocket, while that is open")
    holder: Holder = call.subscriber
    return holder


METHODS = [
    Method("stream.open", OpenParams, OpenedStream, "Open a stream to a peer: this connection becomes it", open_,
           changes=True, errors=(MethodNotFound, NodeNotRunning, PeerNotFound, DialFailed, InvalidState, StreamFailed)),
    Method("stream.accept", StreamIdParams, OpenedStream, "Accept a peer's stream: this connection becomes it", accept,
           changes=True, errors=(MethodNotFound, InvalidState)),
    Method("stream.reset", StreamIdParams, ResetResult, "Reset a stream", reset, changes=True,
           errors=(InvalidState,)),
    Method("stream.list", NoParams, list[StreamRecord], "Streams, including those that ended in the last minute",
           list_),
    Method("request", RequestParams, RequestResult, "Send a message to a peer, read its answer", request, changes=True,
           errors=(NodeNotRunning, PeerNotFound, DialFailed, InvalidState, StreamFailed)),
    Method("protocol.handle", HandleParams, HandleResult, "Handle a protocol for peers", handle, changes=True,
           errors=(MethodNotFound, InvalidState)),
    Method("protocol.unhandle", ProtocolParams, UnhandleResult, "Stop handling a protocol", unhandle, changes=True,
           errors=(MethodNotFound,)),
    Method("protocol.read", RequestIdParams, ReadResult, "Read a peer's waiting request", read,
           errors=(InvalidState,)),
    Method("protocol.respond", RespondParams, RespondResult, "Answer a peer's request", respond, changes=True,
           errors=(InvalidState,)),
]  # fmt: skip
