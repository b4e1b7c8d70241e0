"""What only jsonrpcserver can answer. It validates and formats; each method only records its call there.

`dispatch` parses the text before, and carries out the recorded calls after (ADR 3). jsonrpcserver is imported after the
API has started (`load`): with jsonschema, which it needs, it takes a sixth of the time to the first answer.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fabstir_client.api.errors import InternalError, InvalidRequest, MethodNotFound
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import UNKNOWN_METHOD, Counters
from fabstird.rpc.calls import Method, Recorded, cut, failure

log = get_logger("rpc")

_INVALID = "rpc.invalid"  # jsonrpcserver cannot refuse one element of a batch; this method does


@dataclass(slots=True)
class _Pass:
    """One run of jsonrpcserver over a text: the calls that it recorded, in order."""

    recorded: list[Recorded] = field(default_factory=list)


class Recorder:
    """The methods as jsonrpcserver sees them, made from each method and whether its handler is a coroutine function."""

    def __init__(self, methods: Iterable[tuple[Method, bool]]) -> None:
        self._registry: dict[str, Callable[..., Any]] = {
            _INVALID: _invalid,
            **{method.name: _recorder(method, waits) for method, waits in methods},
        }

    def record(self, parsed: Any) -> tuple[Any, list[Recorded]]:
        """Run jsonrpcserver over a parsed text.

        Returns:
            Its response, which is a list for a batch and None for notifications only; and the recorded calls, in order.
            Once those have outcomes, `wire` makes answers from the responses.
        """
        from jsonrpcserver import dispatch_to_response

        done = _Pass()
        responses = dispatch_to_response(
            "", self._registry, context=done, deserializer=lambda _: _prepared(parsed), validator=_validate
        )
        for response in responses if isinstance(responses, list) else [responses]:
            _name(response)
        return responses, done.recorded


def load() -> None:
    """Import jsonrpcserver, so that the first text that needs it does not wait for that."""
    importlib.import_module("jsonrpcserver.response")


def _invalid(_: _Pass, reason: str) -> Any:
    from jsonrpcserver import Error

    return Error(InvalidRequest.rpc_code, reason)


def _recorder(method: Method, waits: bool) -> Callable[..., Any]:
    def record(done: _Pass, /, *positional: Any, **named: Any) -> Any:
        from jsonrpcserver import Success

        item = Recorded(method, waits, positional, named)
        done.recorded.append(item)
        return Success(item)

    return record


def _wrong(request: Any) -> str | None:
    """What is wrong with a request, in words; None for one that `dispatch._Request` decodes."""
    if type(request) is not dict:
        return "a request must be an object"
    if request.get("jsonrpc") != "2.0":
        return 'jsonrpc must be "2.0"'
    if type(request.get("method")) is not str or request["method"] == _INVALID:
        return "method must be a string"
    if type(request.get("id")) not in (str, int, type(None)):
        return "id must be a string, an integer or null"
    if type(request.get("params", [])) not in (list, dict):
        return "params must be an object or an array, or be left out"
    unknown = sorted(request.keys() - {"jsonrpc", "method", "id", "params"})
    return f'"{cut(unknown[0])}" is no member of a request' if unknown else None


def _checked(request: Any) -> Any:
    """The request, or a call of the method that refuses it, with its id where that can be read."""
    reason = _wrong(request)
    if reason is None:
        return request
    identity = request.get("id") if type(request) is dict else None
    identity = identity if type(identity) in (str, int) else None
    return {"jsonrpc": "2.0", "method": _INVALID, "id": identity, "params": [reason]}


def _prepared(parsed: Any) -> Any:
    if type(parsed) is list:
        # An empty batch is an invalid request, not a batch without calls
        return [_checked(one) for one in parsed] or _checked([])
    return _checked(parsed)


def _validate(parsed: Any) -> Any:
    return parsed  # `_prepared` has checked it


def _name(response: Any) -> None:
    """Give a recorded call the id of its request. Notifications have neither response nor id."""
    from jsonrpcserver.response import SuccessResponse

    inner = getattr(response, "_value", None)
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        recorded.id = inner.id


def wire(response: Any, counters: Counters) -> dict[str, Any]:
    """jsonrpcserver's response as the answer's JSON object; for a recorded call it is the call's outcome."""
    from jsonrpcserver.response import ErrorResponse, SuccessResponse

    inner = response._value if hasattr(response, "_value") else response._error
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        outcome, recorded.outcome = recorded.outcome, {}  # moved, since a batch may have many MiB of them
        return {"jsonrpc": "2.0", **outcome, "id": inner.id}
    assert isinstance(inner, ErrorResponse)
    if inner.code == InvalidRequest.rpc_code:
        counters.calls[UNKNOWN_METHOD, InvalidRequest.code] += 1
        return failure(inner.id, InvalidRequest(f"Invalid Request: {inner.message}"))
    if inner.code == MethodNotFound.rpc_code:
        counters.calls[UNKNOWN_METHOD, MethodNotFound.code] += 1
        name = cut(str(inner.data))
        return failure(inner.id, MethodNotFound(f"Method not found: {name}", method=name))
    log_id = secrets.token_hex(8)
    log.error("jsonrpcserver failed", code=inner.code, detail=str(inner.data), log_id=log_id)
    return failure(inner.id, InternalError("Internal error", logId=log_id))
