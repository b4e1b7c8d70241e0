"""What a call is: a line of the method table, the text that it came in, and the call itself until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fabstir_client.errors import FabstirError, RpcError
from fabstir_client.types import Params
from fabstir_client.types_access import Access
from fabstird.rpc.access import Caller
from fabstird.rpc.services import Services


@dataclass(slots=True)
class Call:
    """One text on its way: what its methods may use, and what the transport does once the answer is sent.

    ``subscriber`` opens and closes subscriptions on the connection that the text came from; None for ``POST /rpc``.
    """

    services: Services
    caller: Caller
    subscriber: Any = None
    after_reply: list[Callable[[], None]] = field(default_factory=list)


# A plain function where the answer is there at once, which spares the call a task of its own; else a coroutine function
Handler = Callable[[Call, Any], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the method table. ``changes``: it changes something, and leaves an audit line in the log.
    ``access``: the level that a caller needs; where the line names none, ``write`` if it changes something, else
    ``read``. What concerns the daemon itself or its tokens says ``admin``. ``errors``: those that it can answer with
    beside `openrpc.COMMON_ERRORS`; the tests fail on any other. The handler's docstring is the method's description
    for users.

    Every call is ended after ``request_timeout``, but one that brings a ``timeout``: its handler keeps that.
    """

    name: str
    params: type[Params]
    result: Any
    summary: str
    handler: Handler
    changes: bool = False
    access: Access | None = None
    errors: tuple[type[RpcError], ...] = ()

    @property
    def needs(self) -> Access:
        """The level that a caller must have been granted."""
        return self.access or ("write" if self.changes else "read")


@dataclass(slots=True)
class Recorded:
    """One call of a text. ``outcome``: its answer's ``result`` or ``error``, once it has been carried out."""

    method: Method
    waits: bool  # its handler is a coroutine function
    positional: tuple[Any, ...] | list[Any]
    named: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)
    id: Any = None  # of the request, for the audit


def failure(identity: Any, error: FabstirError) -> dict[str, Any]:
    """An error as the answer's JSON object; ``identity`` is the id of the request, None where it is not known."""
    return {"jsonrpc": "2.0", "error": error.to_error_object(), "id": identity}
