"""Protocols of the user's own: streams, byte for byte, and messages, one each way. See `types`.

Bytes of messages are standard base64; those of streams are not here, since each stream is its own connection.
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
    """``data`` is sent in one frame on a new stream, our side of the stream is ended, and one frame is read back."""

    PAYLOADS: ClassVar[tuple[str, ...]] = ("data",)
    peer_id: str
    protocol: str
    data: str  # base64
    framing: Framing | None = None  # of both ways; uvarint where it is left out
    timeout: int | None = None


class HandleParams(Params, frozen=True):
    """``framing`` and ``deadline`` are for messages, ``backlog`` and ``acceptTimeout`` for streams."""

    protocol: str
    mode: Mode | None = None  # what peers' streams are: a message each way, or streams to accept; message if left out
    framing: Framing | None = None  # of messages, both ways; uvarint where it is left out
    deadline: int | None = None  # ms that a request may wait for its answer; request_timeout if left out
    backlog: int | None = None  # streams that wait to be accepted at a time, 1 to 1024; 16 where it is left out
    accept_timeout: int | None = None  # ms that a stream waits to be accepted; 10000 where it is left out
    shared: bool | None = None  # other connections may handle it too, if they say so as well; they are served in turn


class ProtocolParams(Params, frozen=True):
    protocol: str


class RequestIdParams(Params, frozen=True):
    request_id: str  # of the notification


class RespondParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("data",)
    request_id: str  # of the notification
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
    framing: Framing | None = None  # of messages, both ways
    deadline: int | None = None  # ms that a request may wait for its answer
    mode: Mode = "message"  # left out where it is message
    backlog: int | None = None  # streams that wait to be accepted at a time
    accept_timeout: int | None = None  # ms that a stream waits to be accepted
    shared: bool = False  # left out where it is false


class UnhandleResult(Record, frozen=True):
    protocol: str
    handled: bool  # by this connection, until now


class ReadResult(Record, frozen=True):
    request_id: str  # of the notification
    peer_id: str
    protocol: str
    data: str  # base64
    size: int  # bytes


class RespondResult(Record, frozen=True):
    request_id: str  # of the notification
    sent: int  # bytes of the answer, without framing


class OpenedStream(Record, frozen=True):
    """What follows the newline of this answer, both ways, is the stream."""

    stream_id: str  # names it for `stream.list` and `stream.reset`
    peer_id: str
    protocol: str  # that was agreed on
    address: str  # of the connection that carries it
    direction: Direction  # outbound: opened here; inbound: by the peer


class ResetResult(Record, frozen=True):
    stream_id: str
    reset: bool  # by this call; false where it had ended already


class StreamRecord(Record, frozen=True):
    """One that has ended is listed for a minute more."""

    stream_id: str
    peer_id: str
    protocol: str
    direction: Direction  # outbound: opened here; inbound: by the peer
    state: StreamState  # waiting to be accepted, open, or ended
    opened_at: int  # ms since the Unix epoch
    bytes_in: int  # that came from the peer and were taken by the local end
    bytes_out: int  # that the local end has sent to the peer
    outcome: Outcome | None = None  # how it ended


# --------------------------------------------------------------------------------------------------------------------
# What belongs to one caller is told on the connection that handles the protocol, and nowhere else


class Notice(Record, frozen=True):
    """The ``params`` of a notification whose method is `METHOD`."""

    METHOD: ClassVar[str]


class StreamIncoming(Notice, frozen=True):
    """A peer has opened a stream on a protocol that this connection handles as streams. ``stream.accept`` takes it, on
    its own connection; a stream that nobody accepts in time is reset."""

    METHOD = "stream.incoming"
    stream_id: str
    peer_id: str
    protocol: str
    address: str  # of the connection that carries it
    deadline: int  # the instant at which it is reset unless it has been accepted


class StreamClosed(Notice, frozen=True):
    """A stream that a peer had opened has ended."""

    METHOD = "stream.closed"
    stream_id: str
    outcome: Outcome  # how it ended
    bytes_in: int  # that came from the peer and were taken by the local end
    bytes_out: int  # that the local end has sent to the peer


class ProtocolRequest(Notice, frozen=True):
    """A peer has sent a message on a protocol that this connection handles. ``data`` is left out where it is larger
    than 4 KiB: ``protocol.read`` hands it over."""

    METHOD = "protocol.request"
    request_id: str  # names it for `protocol.respond`
    peer_id: str
    protocol: str
    size: int  # bytes
    deadline: int  # the instant at which its stream is reset unless it has been answered
    data: str | None = None  # base64


class ProtocolEnded(Notice, frozen=True):
    """A request was answered, or can be answered no longer."""

    METHOD = "protocol.ended"
    request_id: str  # of its `protocol.request`
    outcome: Outcome  # ended: it was answered; reset: the protocol is handled no longer


NOTICES = (StreamIncoming, StreamClosed, ProtocolRequest, ProtocolEnded)
