"""Messages to and from peers over protocols of the user's own: ``request`` and ``protocol.*``. See `types`.

Bytes are standard base64.
"""

from __future__ import annotations

from typing import Literal

from fabstir_client.types import EventData, Params, Record

Framing = Literal["u32be", "uvarint", "none"]


class RequestParams(Params, frozen=True):
    """``data`` is sent in one frame on a new stream, our side of the stream is ended, and one frame is read back."""

    peer_id: str
    protocol: str
    data: str  # base64
    framing: Framing | None = None  # of both ways; uvarint where it is left out
    timeout: int | None = None


class HandleParams(Params, frozen=True):
    """``deadline``: ms from a request's last byte to its `RespondParams`; ``request_timeout`` where it is left out."""

    protocol: str
    framing: Framing | None = None  # of both ways; uvarint where it is left out
    deadline: int | None = None  # ms that a request may wait for its answer


class ProtocolParams(Params, frozen=True):
    protocol: str


class RequestIdParams(Params, frozen=True):
    request_id: str  # of the event


class RespondParams(Params, frozen=True):
    request_id: str  # of the event
    data: str  # base64


class RequestResult(Record, frozen=True):
    peer_id: str
    protocol: str
    data: str  # the answer, base64
    size: int  # bytes of the answer
    duration: int  # ms from the call to the answer's last byte


class HandleResult(Record, frozen=True):
    protocol: str
    framing: Framing  # of both ways
    deadline: int  # ms that a request may wait for its answer


class UnhandleResult(Record, frozen=True):
    protocol: str
    handled: bool  # by this connection, until now


class ReadResult(Record, frozen=True):
    request_id: str  # of the event
    peer_id: str
    protocol: str
    data: str  # base64
    size: int  # bytes


class RespondResult(Record, frozen=True):
    request_id: str  # of the event
    sent: int  # bytes of the answer, without framing


class StreamRequest(EventData, frozen=True):
    """A peer has sent a request on a protocol that a connection handles. ``data`` is left out where it is larger than
    4 KiB, for the log keeps thousands of events: ``protocol.read`` hands it over."""

    TYPE = "stream:request"
    request_id: str  # names it for `protocol.respond`
    peer_id: str
    protocol: str
    size: int  # bytes
    deadline: int  # the instant at which the stream is reset unless it has been answered
    data: str | None = None  # base64


class StreamEnded(EventData, frozen=True):
    """A request was answered, or can be answered no longer."""

    TYPE = "stream:ended"
    request_id: str  # of its `stream:request`
    peer_id: str
    protocol: str
    outcome: str  # answered, expired, unhandled, failed


EVENTS = (StreamRequest, StreamEnded)
