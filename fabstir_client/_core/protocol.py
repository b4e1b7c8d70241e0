"""JSON-RPC 2.0 as the daemon speaks it, without I/O: requests to bytes, messages to answers and events.

The shells (`client`, `sync`) move bytes and wait; everything that needs no socket is decided here, once for both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from fabstir_client.api.errors import (
    BadAnswer,
    ClientTimeout,
    ConnectionLost,
    FabstirError,
    InvalidConfig,
    from_error_object,
)
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.streams import NOTICES, Notice
from fabstir_client.api.types import Event, Lagged, Params

T = TypeVar("T")
W = TypeVar("W")

DEFAULT_BOUND = 60.0  # seconds for a call without its own timeout
MARGIN = 1.0  # seconds beyond a call's own timeout, for the daemon to report it

_ids = itertools.count(1)  # of requests: unique in a process, on whatever connection


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: what is sent, how its result is read, and how many seconds to wait."""

    method: str
    params: Params | Mapping[str, Any] | Sequence[Any]
    result: msgspec.json.Decoder[T]
    bound: float = DEFAULT_BOUND

    def read(self, raw: msgspec.Raw) -> T:
        """The result, decoded. Raises `BadAnswer` where it does not fit."""
        try:
            return self.result.decode(raw)
        except NOT_DECODED as error:
            raise BadAnswer(f"the daemon's answer to {self.method} does not fit: {error}") from error


NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # errors that decoding foreign bytes can raise


def decoded(method: str, raw: bytes | msgspec.Raw) -> Any:
    """A raw result as plain values. Raises `BadAnswer`."""
    try:
        return _plain.decode(raw)
    except NOT_DECODED as error:
        raise BadAnswer(f"the daemon's answer to {method} does not fit: {error}") from error


def earlier(instant: float, deadline: float | None) -> float:
    """The earlier of two times; None is never."""
    return instant if deadline is None else min(instant, deadline)


def unanswered(call: Call[Any], seconds: float) -> ClientTimeout:
    """The error for a call without an answer in time."""
    return ClientTimeout(f"the daemon did not answer {call.method} within {max(0.0, seconds):.3g} s")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened for a while. Everything up to entry ``head`` has been sent."""

    head: int


Notification = Event | Lagged | Heartbeat | Notice


@dataclass(slots=True, eq=False)
class Pending(Generic[W]):
    """A call that waits for its answer. ``waiter`` belongs to the shell; ``outcome`` is set once."""

    id: int
    method: str
    waiter: W
    outcome: msgspec.Raw | FabstirError | None = None

    def take(self) -> msgspec.Raw:
        """The raw result; raises the error that took its place."""
        if self.outcome is None:
            raise RuntimeError(f"the call of {self.method} has no outcome yet")
        if isinstance(self.outcome, FabstirError):
            raise self.outcome
        return self.outcome


class _Message(msgspec.Struct):
    """An answer or a notification; ``method`` is set for the latter."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: dict[str, Any] | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()


class _EventParams(msgspec.Struct):
    epoch: str
    seq: int
    time: int
    type: str
    data: msgspec.Raw


class _HeartbeatParams(msgspec.Struct):
    head: int


_message = msgspec.json.Decoder(_Message)
_event = msgspec.json.Decoder(_EventParams)
_lagged = msgspec.json.Decoder(Lagged)
_heartbeat = msgspec.json.Decoder(_HeartbeatParams)
_plain: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_notices: dict[str, msgspec.json.Decoder[Notice]] = {kind.METHOD: msgspec.json.Decoder(kind) for kind in NOTICES}
_data = {kind: msgspec.json.Decoder(cls) for kind, cls in EVENT_DATA.items()}


class Session(Generic[W]):
    """The calls in flight on one connection.

    ``typed`` says whether the data of events becomes the structs of `fabstir_client.types`, or stays plain values,
    which keep fields that this version does not know.
    """

    def __init__(self, *, typed: bool = True) -> None:
        self._pending: dict[int, Pending[W]] = {}
        self._typed = typed

    def begin(self, call: Call[Any], waiter: W) -> tuple[Pending[W], bytes]:
        """Give ``call`` an id; returns the pending call and the request to send."""
        pending = Pending(next(_ids), call.method, waiter)
        try:
            request = msgspec.json.encode(
                {"jsonrpc": "2.0", "id": pending.id, "method": call.method, "params": call.params}
            )
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise InvalidConfig(f"the parameters of {call.method} cannot be written as JSON: {error}") from error
        self._pending[pending.id] = pending
        return pending, request

    def forget(self, pending: Pending[W]) -> None:
        """The caller has stopped waiting; a late answer is dropped."""
        self._pending.pop(pending.id, None)

    def receive(self, message: bytes) -> Pending[W] | Notification | None:
        """Process one message: the call that it settles, a notification, or None for an answer that nobody waits for.

        Raises an `FabstirError` where the connection can no longer be used: the daemon refused a text that it could not
        read (an error without an id), or sent something that is not JSON-RPC.
        """
        try:
            decoded = _message.decode(message)
            if decoded.method is not None:
                return read_notification(decoded.method, decoded.params, typed=self._typed)
        except NOT_DECODED as error:
            raise BadAnswer(f"the daemon sent what is not JSON-RPC: {error}") from error
        if decoded.id is None:
            raise from_error_object(decoded.error or {"message": "the daemon refused a message without saying why"})
        pending = self._pending.pop(decoded.id, None) if isinstance(decoded.id, int) else None
        if pending is None:
            return None
        if decoded.error is not None:
            pending.outcome = from_error_object(decoded.error)
        elif decoded.result:
            pending.outcome = decoded.result
        else:
            pending.outcome = BadAnswer(f"the daemon's answer to {pending.method} has neither a result nor an error")
        return pending

    def fail(self, error: FabstirError) -> list[Pending[W]]:
        """The connection has ended with ``error``: settle all pending calls.

        A single pending call gets the error itself. With several, an error that is not the connection's belongs to one
        of them, and nobody knows which.
        """
        settled = list(self._pending.values())
        self._pending.clear()
        if len(settled) > 1 and not isinstance(error, ConnectionLost):
            error = ConnectionLost(f"the connection to the daemon ended: {error}")
        for pending in settled:
            pending.outcome = error
        return settled


def read_notification(method: str, params: msgspec.Raw, *, typed: bool) -> Notification | None:
    """A notification, decoded; None for a method that this version does not know."""
    if method == "event":
        entry = _event.decode(params)
        return Event(entry.epoch, entry.seq, entry.time, entry.type, read_data(entry.type, entry.data, typed=typed))
    if method == "lagged":
        return _lagged.decode(params)
    if method == "heartbeat":
        return Heartbeat(_heartbeat.decode(params).head)
    notice = _notices.get(method)
    return None if notice is None else notice.decode(params)


def read_data(kind: str, raw: msgspec.Raw, *, typed: bool) -> Any:
    """The data of an event: the struct of its type, or a dict for a type that this version does not know."""
    decoder = _data.get(kind) if typed else None
    return (decoder or _plain).decode(raw)


def result_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder for results of type ``kind``."""
    return msgspec.json.Decoder(kind)
