"""Users' own protocols: streams of bytes, and messages, one each way. See `types`.

The bytes of messages are standard base64. The bytes of streams are not in the API's messages: each stream is its own
connection.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fabstir_client.api.types import Direction, Params, Record

Framing = Literal["u32be", "uvarint", "none"]
Mode = Literal["message", "stream"]
StreamState = Literal["waiting", "open", "ended"]
Outcome = Literal["ended", "reset", "peer_reset", "peer_gone", "timeout", "limit", "stopped", "shutdown"]
StreamReason = Literal["unsupported", "refused", "reset", "timeout", "gone", "busy"]


class RequestParams(Params, frozen=True):
    """``data`` is sent in one frame on a new stream, our side is ended, and one frame is read as the answer."""

    PAYLOADS: ClassVar[tuple[str, ...]] = ("data",)
    peer_id: str
    protocol: str
    data: str  # base64
    framing: Framing | None = None  # of both messages; uvarint if left out
    timeout: int | None = None


class HandleParams(Params, frozen=True):
    """``framing`` and ``deadline`` are for messages, ``backlog`` and ``acceptTimeout`` for streams."""

    protocol: str
    mode: Mode | None = None  # whether peers' streams carry one message each way, or are accepted; message if left out
    framing: Framing | None = None  # of both messages; uvarint if left out
    deadline: int | None = None  # ms that a request may wait for its answer; request_timeout if left out
    backlog: int | None = None  # how many streams may wait to be accepted, 1 to 1024; 16 if left out
    accept_timeout: int | None = None  # ms that a stream waits to be accepted; 10000 if left out
    shared: bool | None = None  # whether other connections that set it too may handle the protocol in turn


class ProtocolParams(Params, frozen=True):
    protocol: str


class RequestIdParams(Params, frozen=True):
    request_id: str  # from the notification


class RespondParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("data",)
    request_id: str  # from the notification
    data: str  # base64


class OpenParams(Params, frozen=True):
    peer_id: str
    protocol: str | list[str]  # a protocol id, or several in order of preference
    timeout: int | None = None


class StreamIdParams(Params, frozen=True):
    stream_id: str


class RequestResult(Record, frozen=True):
    peer_id: str
    protocol: str
    data: str  # the answer, base64
    size: int  # bytes of the answer
    duration: int  # ms from the call to the answer's last byte


class HandleResult(Record, frozen=True):
    protocol: str
    framing: Framing | None = None  # of both messages
    deadline: int | None = None  # ms that a request may wait for its answer
    mode: Mode = "message"  # left out if it is message
    backlog: int | None = None  # how many streams may wait to be accepted
    accept_timeout: int | None = None  # ms that a stream waits to be accepted
    shared: bool = False  # left out if it is false


class UnhandleResult(Record, frozen=True):
    protocol: str
    handled: bool  # whether this connection handled it until now


class ReadResult(Record, frozen=True):
    request_id: str  # from the notification
    peer_id: str
    protocol: str
    data: str  # base64
    size: int  # bytes


class RespondResult(Record, frozen=True):
    request_id: str  # from the notification
    sent: int  # bytes of the answer, without framing


class OpenedStream(Record, frozen=True):
    """After the newline of this answer, the bytes in both directions are the stream."""

    stream_id: str  # identifies it in `stream.list` and `stream.reset`
    peer_id: str
    protocol: str  # the negotiated protocol
    address: str  # of the connection that carries it
    direction: Direction  # outbound: opened here; inbound: by the peer


class ResetResult(Record, frozen=True):
    stream_id: str
    reset: bool  # true if this call reset it, false if it had already ended


class StreamRecord(Record, frozen=True):
    """A stream. It is listed until a minute after its end."""

    stream_id: str
    peer_id: str
    protocol: str
    direction: Direction  # outbound: opened here; inbound: by the peer
    state: StreamState  # waiting to be accepted, open, or ended
    opened_at: int  # ms since the Unix epoch
    bytes_in: int  # received from the peer and passed to the local end
    bytes_out: int  # sent to the peer by the local end
    outcome: Outcome | None = None  # how it ended


# --------------------------------------------------------------------------------------------------------------------
# Notices, which are sent only on the connection that handles the protocol


class Notice(Record, frozen=True):
    """The ``params`` of a notification whose method is `METHOD`."""

    METHOD: ClassVar[str]


class StreamIncoming(Notice, frozen=True):
    """A peer has opened a stream on a protocol that this connection handles as streams. Accept it with
    ``stream.accept`` on a new connection; a stream that is not accepted in time is reset."""

    METHOD = "stream.incoming"
    stream_id: str
    peer_id: str
    protocol: str
    address: str  # of the connection that carries it
    deadline: int  # when it is reset unless it has been accepted


class StreamClosed(Notice, frozen=True):
    """A stream that a peer had opened has ended."""

    METHOD = "stream.closed"
    stream_id: str
    outcome: Outcome  # how it ended
    bytes_in: int  # received from the peer and passed to the local end
    bytes_out: int  # sent to the peer by the local end


class ProtocolRequest(Notice, frozen=True):
    """A peer has sent a message on a protocol that this connection handles. ``data`` is left out if it is larger than
    4 KiB; ``protocol.read`` returns it."""

    METHOD = "protocol.request"
    request_id: str  # identifies it in `protocol.respond`
    peer_id: str
    protocol: str
    size: int  # bytes
    deadline: int  # when its stream is reset unless it has been answered
    data: str | None = None  # base64


class ProtocolEnded(Notice, frozen=True):
    """A request was answered, or can no longer be answered."""

    METHOD = "protocol.ended"
    request_id: str  # from its `protocol.request`
    outcome: Outcome  # ended: it was answered; reset: this connection no longer handles the protocol


NOTICES = (StreamIncoming, StreamClosed, ProtocolRequest, ProtocolEnded)
