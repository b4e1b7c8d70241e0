"""JSON-RPC 2.0 as the daemon speaks it, without any I/O: requests to bytes, messages to answers and events.

The shells (`client`, `sync`) move bytes and wait; everything that can be decided without a socket is decided here, once
for both of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from fabstir_client.errors import BadAnswer, ConnectionLost, FabstirError, InvalidConfig, from_error_object
from fabstir_client.types import Event, Lagged, Params
from fabstir_client.types_events import EVENT_DATA

T = TypeVar("T")
W = TypeVar("W")

DEFAULT_BOUND = 60.0  # seconds a call may take where it has no timeout of its own
MARGIN = 5.0  # seconds on top of a call's own timeout, for the daemon to say so itself


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: what is sent, how its result is read, and after how many seconds the client stops waiting for it."""

    method: str
    params: Params | Mapping[str, Any] | Sequence[Any]
    result: msgspec.json.Decoder[T]
    bound: float = DEFAULT_BOUND

    def read(self, raw: msgspec.Raw) -> T:
        """The result, decoded. Raises `BadAnswer` where it does not fit."""
        try:
            return self.result.decode(raw)
        except msgspec.ValidationError as error:
            raise BadAnswer(f"the daemon's answer to {self.method} does not fit: {error}") from error


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened for a while; everything up to entry ``head`` has been sent."""

    head: int


Notification = Event | Lagged | Heartbeat


@dataclass(slots=True, eq=False)
class Pending(Generic[W]):
    """A call that waits for its answer. ``waiter`` belongs to the shell; ``outcome`` is set once."""

    id: int
    method: str
    waiter: W
    outcome: msgspec.Raw | FabstirError | None = None

    def take(self) -> msgspec.Raw:
        """The raw result, or the error that took its place, raised."""
        if self.outcome is None:
            raise RuntimeError(f"the call of {self.method} has no outcome yet")
        if isinstance(self.outcome, FabstirError):
            raise self.outcome
        return self.outcome


class _Message(msgspec.Struct):
    """An answer or a notification; which of them shows in ``method``."""

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
_data = {kind: msgspec.json.Decoder(cls) for kind, cls in EVENT_DATA.items()}


class Session(Generic[W]):
    """The calls in flight on one connection.

    ``typed`` says whether the data of events becomes the structs of `fabstir_client.types` or stays plain values, which
    lose nothing that this version does not know.
    """

    def __init__(self, *, typed: bool = True) -> None:
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending[W]] = {}
        self._typed = typed

    def begin(self, call: Call[Any], waiter: W) -> tuple[Pending[W], bytes]:
        """Give ``call`` an id; returns what its answer will settle, and the request to send."""
        pending = Pending(next(self._ids), call.method, waiter)
        try:
            request = msgspec.json.encode(
                {"jsonrpc": "2.0", "id": pending.id, "method": call.method, "params": call.params}
            )
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise InvalidConfig(f"the parameters of {call.method} cannot be written as JSON: {error}") from error
        self._pending[pending.id] = pending
        return pending, request

    def forget(self, pending: Pending[W]) -> None:
        """Its caller has stopped waiting; an answer that comes later is dropped."""
        self._pending.pop(pending.id, None)

    def receive(self, message: bytes) -> Pending[W] | Notification | None:
        """Take one message in: the call that it settles, a notification, or None for one that nobody waits for.

        Raises an `FabstirError` where the connection is of no further use: the daemon refused what it could not even
        read (an error without an id), or sent something that is not JSON-RPC.
        """
        try:
            decoded = _message.decode(message)
            if decoded.method is not None:
                return read_notification(decoded.method, decoded.params, typed=self._typed)
        except msgspec.MsgspecError as error:
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
        """The connection has ended with ``error``: settle what is still pending.

        One call alone gets the error itself; where there are several, an error that is not the connection's belongs to
        one of them, nobody knows which.
        """
        settled = list(self._pending.values())
        self._pending.clear()
        if len(settled) > 1 and not isinstance(error, ConnectionLost):
            error = ConnectionLost(f"the connection to the daemon ended: {error}")
        for pending in settled:
            pending.outcome = error
        return settled


def read_notification(method: str, params: msgspec.Raw, *, typed: bool) -> Notification | None:
    """A notification of section 5 of the contract; None for a method that this version does not know."""
    if method == "event":
        entry = _event.decode(params)
        return Event(entry.epoch, entry.seq, entry.time, entry.type, read_data(entry.type, entry.data, typed=typed))
    if method == "lagged":
        return _lagged.decode(params)
    if method == "heartbeat":
        return Heartbeat(_heartbeat.decode(params).head)
    return None


def read_data(kind: str, raw: msgspec.Raw, *, typed: bool) -> Any:
    """The data of an event: the struct of its type, or a dict for a type that this version does not know."""
    decoder = _data.get(kind) if typed else None
    return (decoder or _plain).decode(raw)


def result_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder for results of type ``kind``."""
    return msgspec.json.Decoder(kind)
