"""What only jsonrpcserver can answer: it checks and shapes, and each method only records its call there.

`dispatch` parses the text before and carries out what was recorded after (ADR 3). jsonrpcserver is imported behind the
API (`load`): with jsonschema, which it brings, it takes a sixth of the time to the first answer.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fabstir_client.errors import InternalError, InvalidRequest, MethodNotFound
from fabstird.log import get_logger
from fabstird.metrics import UNKNOWN_METHOD, Counters
from fabstird.rpc.calls import Method, Recorded, failure

log = get_logger("rpc")

_INVALID = "rpc.invalid"  # jsonrpcserver has no way to refuse one element of a batch; this method does
_INVALID_CALL = {"jsonrpc": "2.0", "method": _INVALID, "id": None}


@dataclass(slots=True)
class _Pass:
    """One run of jsonrpcserver over a text: the calls that it recorded, in order."""

    recorded: list[Recorded] = field(default_factory=list)


class Recorder:
    """The methods as jsonrpcserver sees them; made of each and whether its handler is a coroutine function."""

    def __init__(self, methods: Iterable[tuple[Method, bool]]) -> None:
        self._registry: dict[str, Callable[..., Any]] = {
            _INVALID: _invalid,
            **{method.name: _recorder(method, waits) for method, waits in methods},
        }

    def record(self, parsed: Any) -> tuple[Any, list[Recorded]]:
        """jsonrpcserver's response, a list of them for a batch, None for notifications only; and the calls, in order.
        Once those have their outcomes, `wire` makes answers of the responses."""
        from jsonrpcserver import dispatch_to_response

        done = _Pass()
        responses = dispatch_to_response(
            "", self._registry, context=done, deserializer=lambda _: _prepared(parsed), validator=_validate
        )
        for response in responses if isinstance(responses, list) else [responses]:
            _name(response)
        return responses, done.recorded


def load() -> None:
    """Import jsonrpcserver, which the first text that needs it would else wait for."""
    importlib.import_module("jsonrpcserver.response")


def _invalid(_: _Pass) -> Any:
    from jsonrpcserver import Error

    return Error(InvalidRequest.rpc_code, "Invalid Request")


def _recorder(method: Method, waits: bool) -> Callable[..., Any]:
    def record(done: _Pass, /, *positional: Any, **named: Any) -> Any:
        from jsonrpcserver import Success

        item = Recorded(method, waits, positional, named)
        done.recorded.append(item)
        return Success(item)

    return record


def _well_formed(request: Any) -> bool:
    """Whether it is what `dispatch._Request` decodes."""
    if type(request) is not dict or request.get("jsonrpc") != "2.0" or type(request.get("method")) is not str:
        return False
    if request["method"] == _INVALID or type(request.get("id")) not in (str, int, type(None)):
        return False
    known = {"jsonrpc", "method", "id", "params"}
    return type(request.get("params", [])) in (list, dict) and request.keys() <= known


def _prepared(parsed: Any) -> Any:
    if type(parsed) is list:
        # An empty batch is an invalid request, not a batch of none
        return [one if _well_formed(one) else _INVALID_CALL for one in parsed] or None
    return parsed


def _validate(parsed: Any) -> Any:
    if type(parsed) is not list and not _well_formed(parsed):
        raise ValueError
    return parsed


def _name(response: Any) -> None:
    """Tell a recorded call the id of its request; notifications have neither response nor id."""
    from jsonrpcserver.response import SuccessResponse

    inner = getattr(response, "_value", None)
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        recorded.id = inner.id


def wire(response: Any, counters: Counters) -> dict[str, Any]:
    """jsonrpcserver's response as the answer's JSON object; recorded calls bring their own outcome."""
    from jsonrpcserver.response import ErrorResponse, SuccessResponse

    inner = response._value if hasattr(response, "_value") else response._error
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        return {"jsonrpc": "2.0", **recorded.outcome, "id": inner.id}
    assert isinstance(inner, ErrorResponse)
    if inner.code == InvalidRequest.rpc_code:
        counters.calls[UNKNOWN_METHOD, InvalidRequest.code] += 1
        return failure(inner.id, InvalidRequest("Invalid Request"))
    if inner.code == MethodNotFound.rpc_code:
        counters.calls[UNKNOWN_METHOD, MethodNotFound.code] += 1
        return failure(inner.id, MethodNotFound(f"Method not found: {inner.data}", method=inner.data))
    log_id = secrets.token_hex(8)
    log.error("jsonrpcserver failed", code=inner.code, detail=str(inner.data), log_id=log_id)
    return failure(inner.id, InternalError("Internal error", logId=log_id))
