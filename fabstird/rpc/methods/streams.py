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
    """A connection that holds something until it ends, and gets the notices for its caller."""

    @property
    def identity(self) -> object: ...

    def admits(self, peer_id: str) -> bool: ...

    def tell(self, notice: Notice) -> None: ...

    def at_end(self, key: str, then: Callable[[], None]) -> None: ...


# --------------------------------------------------------------------------------------------------------------------
# Streams


async def open_(call: Call, params: OpenParams) -> OpenedStream:
    """The only line that a fresh connection to the IPC socket sends: what follows the newline of its answer, both ways,
    is the stream. After an error it is an ordinary connection. A peer that is not connected is dialled where an address
    of it is known. Over HTTP, `GET /stream` opens one."""
    takeover = _takeover(call)
    node = call.services.node
    limit = duration("timeout", params.timeout) or node.settings.request_timeout
    protocols = [params.protocol] if isinstance(params.protocol, str) else params.protocol
    takeover.stream, result = await node.run().open_stream(params.peer_id, protocols, limit, call.caller.identity)
    return result


async def accept(call: Call, params: StreamIdParams) -> OpenedStream:
    """Takes a stream that a peer has opened, of which `stream.incoming` has told; as `stream.open`, on a connection of
    its own."""
    takeover = _takeover(call)
    with _owner_of("stream.accept", call):
        protocols = (await call.services.node.shared()).protocols
        takeover.stream, result = protocols.accept(params.stream_id, _asker(call))
    return result


async def reset(call: Call, params: StreamIdParams) -> ResetResult:
    """Cuts a stream, both ways, at once; one that waits is refused."""
    with _owner_of("stream.reset", call):
        return await (await call.services.node.shared()).protocols.reset(params.stream_id, _asker(call))


async def list_(call: Call, _: NoParams) -> list[StreamRecord]:
    """The caller's own; with admin access, everybody's."""
    return (await call.services.node.shared()).protocols.records(_asker(call))


def _takeover(call: Call) -> Takeover:
    if call.takeover is not None:
        return call.takeover
    if call.caller.transport != "ipc":
        raise MethodNotFound("a stream is its own connection: over HTTP, GET /stream opens and accepts one")
    raise InvalidState("this connection has been used; a stream is the first and only line of a fresh one")


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
            f"{method}: it belongs to another user or token; with admin access to all protocols and peers, "
            "it may be taken all the same",
            method=method,
            needed="admin",
            granted=granted,
        ) from error


# --------------------------------------------------------------------------------------------------------------------
# Messages


async def request(call: Call, params: RequestParams) -> RequestResult:
    """A peer that is not connected is dialled where an address of it is known. One message goes each way, at most
    ``streams.max_message_bytes`` long; our side of the stream is ended after ours."""
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
    """Only this connection gets what peers do on the protocol. In mode `message`: each message, as
    `protocol.request`, to be answered by `protocol.respond` before its deadline. In mode `stream`: each stream, as
    `stream.incoming`, to be taken by `stream.accept`. Ends with this connection, and outlives a stop of the node; open
    streams outlive it. On IPC and WebSocket."""
    node, holder = call.services.node, _holder(call)
    limit = duration("deadline", params.deadline) or node.settings.request_timeout
    duration("acceptTimeout", params.accept_timeout)
    protocols = (await node.shared()).protocols
    result, handler = protocols.handle(params, limit, holder)
    call.after_reply.append(handler.begin)
    holder.at_end("protocols", lambda: protocols.release(holder))
    return result


async def unhandle(call: Call, params: ProtocolParams) -> UnhandleResult:
    """What waits is reset; open streams go on."""
    return (await call.services.node.shared()).protocols.unhandle(params.protocol, _holder(call))


async def read(call: Call, params: RequestIdParams) -> ReadResult:
    """Its notification carries the data of small ones only. For whom it was told, and for admins."""
    with _owner_of("protocol.read", call):
        return (await call.services.node.shared()).protocols.messages.read(params.request_id, _asker(call))


async def respond(call: Call, params: RespondParams) -> RespondResult:
    """Returns once the whole answer is on its way to the peer. For whom it was told, and for admins."""
    with _owner_of("protocol.respond", call):
        messages = (await call.services.node.shared()).protocols.messages
        return await messages.respond(params.request_id, from_base64(params.data), _asker(call))


def _holder(call: Call) -> Holder:
    if call.subscriber is None:
        raise MethodNotFound("a protocol is handled on the IPC socket or a WebSocket, for as long as that is open")
    holder: Holder = call.subscriber
    return holder


METHODS = [
    Method("stream.open", OpenParams, OpenedStream, "Open a stream to a peer: this connection becomes it", open_,
           changes=True, errors=(MethodNotFound, NodeNotRunning, PeerNotFound, DialFailed, InvalidState, StreamFailed)),
    Method("stream.accept", StreamIdParams, OpenedStream, "Take a peer's stream: this connection becomes it", accept,
           changes=True, errors=(MethodNotFound, InvalidState)),
    Method("stream.reset", StreamIdParams, ResetResult, "Cut a stream, both ways", reset, changes=True,
           errors=(InvalidState,)),
    Method("stream.list", NoParams, list[StreamRecord], "Streams, and for a minute how they ended", list_),
    Method("request", RequestParams, RequestResult, "Send a message to a peer, read its answer", request, changes=True,
           errors=(NodeNotRunning, PeerNotFound, DialFailed, InvalidState, StreamFailed)),
    Method("protocol.handle", HandleParams, HandleResult, "Answer peers on a protocol", handle, changes=True,
           errors=(MethodNotFound, InvalidState)),
    Method("protocol.unhandle", ProtocolParams, UnhandleResult, "No longer answer peers on it", unhandle, changes=True,
           errors=(MethodNotFound,)),
    Method("protocol.read", RequestIdParams, ReadResult, "A peer's request that waits for its answer", read,
           errors=(InvalidState,)),
    Method("protocol.respond", RespondParams, RespondResult, "Answer a peer's request", respond, changes=True,
           errors=(InvalidState,)),
]  # fmt: skip
