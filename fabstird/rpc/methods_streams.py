"""Methods for messages to and from peers on protocols of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fabstir_client.errors import (
    DialFailed,
    InvalidState,
    MethodNotFound,
    NodeNotRunning,
    PeerNotFound,
)
from fabstir_client.types_streams import (
    HandleParams,
    HandleResult,
    ProtocolParams,
    ReadResult,
    RequestIdParams,
    RequestParams,
    RequestResult,
    RespondParams,
    RespondResult,
    UnhandleResult,
)
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import duration


class Holder(Protocol):
    """A connection that can hold something until it ends."""

    def at_end(self, key: str, then: Callable[[], None]) -> None: ...


async def request(call: Call, params: RequestParams) -> RequestResult:
    """A peer that is not connected is dialled where an address of it is known. One message goes each way, at most
    ``streams.max_message_bytes`` long; our side of the stream is ended after ours."""
    node = call.services.node
    limit = duration("timeout", params.timeout) or node.settings.request_timeout
    return await node.request(params.peer_id, params.protocol, params.data, params.framing or "uvarint", limit)


async def handle(call: Call, params: HandleParams) -> HandleResult:
    """Each request is a ``stream:request`` event, to be answered by ``protocol.respond`` before its deadline; else its
    stream is reset. Ends with this connection, and outlives a stop of the node. Not over ``POST /rpc``."""
    node = call.services.node
    limit = duration("deadline", params.deadline) or node.settings.request_timeout
    holder = _holder(call)
    protocols = await node.protocols_of_users()
    result = protocols.handle(params.protocol, params.framing or "uvarint", limit, holder)
    holder.at_end("protocols", lambda: protocols.release(holder))
    return result


async def unhandle(call: Call, params: ProtocolParams) -> UnhandleResult:
    """Requests that wait are reset."""
    return (await call.services.node.protocols_of_users()).unhandle(params.protocol, _holder(call))


async def read(call: Call, params: RequestIdParams) -> ReadResult:
    """Its event carries the data of small ones only."""
    return (await call.services.node.protocols_of_users()).read(params.request_id)


async def respond(call: Call, params: RespondParams) -> RespondResult:
    """Returns once the whole answer is on its way to the peer."""
    return await call.services.node.respond(params.request_id, params.data)


def _holder(call: Call) -> Holder:
    if call.subscriber is None:
        raise MethodNotFound("a protocol is handled on the IPC socket or a WebSocket, for as long as that is open")
    holder: Holder = call.subscriber
    return holder


METHODS = [
    Method("request", RequestParams, RequestResult, "Send a message to a peer, read its answer", request, changes=True,
           errors=(NodeNotRunning, PeerNotFound, DialFailed, InvalidState)),
    Method("protocol.handle", HandleParams, HandleResult, "Be told of peers' requests", handle, changes=True,
           errors=(MethodNotFound, InvalidState)),
    Method("protocol.unhandle", ProtocolParams, UnhandleResult, "No longer be told of them", unhandle, changes=True,
           errors=(MethodNotFound,)),
    Method("protocol.read", RequestIdParams, ReadResult, "A peer's request that waits for its answer", read,
           errors=(InvalidState,)),
    Method("protocol.respond", RespondParams, RespondResult, "Answer a peer's request", respond, changes=True,
           errors=(InvalidState,)),
]  # fmt: skip
