"""What a call is: a line of the method table, the text that it came in, and the call itself until it is answered."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fabstir_client.api.access import Access
from fabstir_client.api.errors import FabstirError, RpcError
from fabstir_client.api.types import Params
from fabstird.rpc.access import Caller
from fabstird.rpc.memory import Held
from fabstird.rpc.services import Services

if TYPE_CHECKING:
    from fabstird.p2p.streams.ledger import Stream


@dataclass(slots=True)
class Takeover:
    """A connection that may become a stream, because nothing was called on it yet. A method sets ``stream``."""

    stream: Stream | None = None


class Sender(Protocol):
    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""

    async def flush(self) -> None:
        """Return once nothing waits. Raises where the connection has gone."""

    def __hash__(self) -> int: ...


@dataclass(slots=True, eq=False)
class Call:
    """One text and what its methods need.

    Attributes:
        subscriber: Opens and closes subscriptions on the text's connection; None for ``POST /rpc``.
        takeover: Given where the connection can become a stream.
        sender: What sends on the connection, if more texts may arrive before this one's answer is read.
        held: What the text takes of the memory that all callers share.
    """

    services: Services
    caller: Caller
    subscriber: Any = None
    after_reply: list[Callable[[], None]] = field(default_factory=list)
    takeover: Takeover | None = None
    sender: Sender | None = None
    held: Held | None = None

    @property
    def place(self) -> tuple[Hashable, Hashable]:
        """How limits are shared: by the caller's identity, and within that by connection, or by call where a call has a
        connection of its own."""
        return self.caller.identity, self if self.sender is None else self.sender


_encode = msgspec.json.Encoder().encode

# A plain function if it answers without waiting, which saves a task for the call; otherwise a coroutine function
Handler = Callable[[Call, Any], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the method table. The handler's docstring is the method's description for users.

    Every call is ended after ``request_timeout``, except one with a ``timeout`` parameter, which its handler observes.

    Attributes:
        changes: It changes something, and leaves an audit line in the log.
        access: The level that a caller needs. By default ``write`` if it changes something, otherwise ``read``. Methods
            about the daemon itself or its tokens need ``admin``.
        errors: The errors that it may answer beside `openrpc.COMMON_ERRORS`; tests fail on any other.
        idle: Whether a result says that there was nothing to change, which the audit then says too.
    """

    name: str
    params: type[Params]
    result: Any
    summary: str
    handler: Handler
    changes: bool = False
    access: Access | None = None
    errors: tuple[type[RpcError], ...] = ()
    idle: Callable[[Any], bool] | None = None

    @property
    def needs(self) -> Access:
        """The level that a caller must have been granted."""
        return self.access or ("write" if self.changes else "read")


@dataclass(slots=True)
class Recorded:
    """One call of a text. ``outcome`` is the ``result`` or ``error`` of its answer, encoded, once it has been carried
    out."""

    method: Method
    waits: bool  # its handler is a coroutine function
    positional: tuple[Any, ...] | list[Any]
    named: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)
    id: Any = None  # of the request, for the audit
    idle: bool = False  # it was carried out, and changed nothing


def encoded(key: str, value: Any) -> dict[str, Any]:
    """An outcome for the answer. A result that cannot be encoded raises here, inside its call."""
    return {key: msgspec.Raw(_encode(value))}


def failure(identity: Any, error: FabstirError) -> dict[str, Any]:
    """An error as the answer's JSON object. ``identity`` is the id of the request; None where it is not known."""
    return {"jsonrpc": "2.0", "error": error.to_error_object(), "id": identity}


TOLD = 200  # characters of a caller's text that an error quotes


def cut(text: str) -> str:
    """A caller's text, shortened for an error."""
    return text if len(text) <= TOLD else f"{text[:TOLD]}…"
