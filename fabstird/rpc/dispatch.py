"""A JSON-RPC 2.0 text in, its answer out, on trio.

jsonrpcserver 5.0.9 parses, checks and shapes; its own asynchronous dispatcher needs asyncio's `gather` and cannot run
under trio, so its public synchronous one is used: a method only records its call there, and the recorded calls are
awaited here (LAB.md, "jsonrpcserver on trio"; ADR 3). Every transport comes through here.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio
from jsonrpcserver import Error, Result, Success, dispatch_to_response
from jsonrpcserver.response import ErrorResponse, SuccessResponse

from fabstir_client.errors import (
    DeadlineExceeded,
    FabstirError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    TooLarge,
)
from fabstir_client.types import Params
from fabstir_client.types_access import Access
from fabstird.log import get_logger
from fabstird.rpc.services import Services

log = get_logger("rpc")

BATCH_CONCURRENCY = 16  # calls of one batch that run at a time


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as the transport knows."""

    transport: str  # ipc, http or ws
    uid: int | None = None
    pid: int | None = None


@dataclass(slots=True)
class Call:
    """One text on its way: what its methods may use, and what the transport does once the answer is sent.

    ``subscriber`` opens and closes subscriptions on the connection that the text came from; None for ``POST /rpc``.
    """

    services: Services
    caller: Caller
    subscriber: Any = None
    after_reply: list[Callable[[], None]] = field(default_factory=list)


Handler = Callable[[Call, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the method table. ``changes``: it changes something, and leaves an audit line in the log.
    ``access``: the level that a caller needs; where the line names none, ``write`` if it changes something, else
    ``read``. What concerns the daemon itself or its tokens says ``admin``.

    Every call is ended after ``request_timeout``, but one that brings a ``timeout``: its handler keeps that.
    """

    name: str
    params: type[Params]
    result: Any
    summary: str
    handler: Handler
    changes: bool = False
    access: Access | None = None

    @property
    def needs(self) -> Access:
        """The level that a caller must have been granted."""
        return self.access or ("write" if self.changes else "read")


@dataclass(slots=True)
class _Recorded:
    method: Method
    positional: tuple[Any, ...]
    named: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Pass:
    """One run of jsonrpcserver over a text: the calls that it recorded, in order."""

    recorded: list[_Recorded] = field(default_factory=list)


class Dispatcher:
    """Built once from the method table; raises ValueError where two methods have one name."""

    def __init__(self, methods: list[Method], max_batch: int) -> None:
        self.methods = {method.name: method for method in methods}
        if len(self.methods) != len(methods):
            raise ValueError("a method is declared twice")
        self._max_batch = max_batch
        self._registry: dict[str, Callable[..., Result]] = {
            _INVALID: lambda _: Error(-32600, "Invalid Request"),
            **{method.name: _recorder(method) for method in methods},
        }

    async def dispatch(self, text: bytes, call: Call) -> bytes | None:
        """The answer to one text; None where there is none to give, because it held only notifications."""
        try:
            parsed = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _encode(_error(None, ParseError(f"Parse error: {_first_line(error)}")))
        if isinstance(parsed, list) and len(parsed) > self._max_batch:
            return _encode(
                _error(
                    None,
                    TooLarge(
                        f"a batch of {len(parsed)} calls; {self._max_batch} are allowed",
                        limit=self._max_batch,
                        current=len(parsed),
                        configKey="api.max_batch",
                    ),
                )
            )
        done = _Pass()
        responses = dispatch_to_response(
            "", self._registry, context=done, deserializer=lambda _: _prepared(parsed), validator=_validate
        )
        await self._run_all(done.recorded, call)
        if responses is None:
            return None
        if isinstance(responses, list):
            return _encode([_wire(response) for response in responses]) if responses else None
        return _encode(_wire(responses))

    async def _run_all(self, recorded: list[_Recorded], call: Call) -> None:
        if len(recorded) == 1:
            await _run(recorded[0], call)
        elif recorded:
            limiter = trio.CapacityLimiter(BATCH_CONCURRENCY)

            async def one(item: _Recorded) -> None:
                async with limiter:
                    await _run(item, call)

            async with trio.open_nursery() as nursery:
                for item in recorded:
                    nursery.start_soon(one, item)


# --------------------------------------------------------------------------------------------------------------------
# One call


async def _run(item: _Recorded, call: Call) -> None:
    """Carry a recorded call out; its outcome is a result or an error object, never an exception."""
    method, services = item.method, call.services
    limit = services.node.settings.request_timeout
    try:
        params = _convert(method, item.positional, item.named)
        # A caller's own deadline is the method's to keep: it knows what to answer then
        own = getattr(params, "timeout", None) is not None
        with trio.move_on_after(math.inf if own else limit / 1000) as scope:
            item.outcome = {"result": await method.handler(call, params)}
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"{method.name} did not finish within {limit} ms", timeout=limit)
        outcome = "ok"
    except FabstirError as error:
        item.outcome, outcome = {"error": error.to_error_object()}, error.code
    except Exception:
        log_id = secrets.token_hex(8)
        log.exception("a method failed", method=method.name, log_id=log_id)
        defect = InternalError("Internal error", logId=log_id)
        item.outcome, outcome = {"error": defect.to_error_object()}, defect.code
    services.counters.calls[method.name, outcome] += 1
    if method.changes:
        caller = call.caller
        log.info(
            "call", method=method.name, outcome=outcome, transport=caller.transport, uid=caller.uid, pid=caller.pid
        )


def _convert(method: Method, positional: tuple[Any, ...], named: dict[str, Any]) -> Params:
    """Parameters by position or by name to the method's struct. Raises `InvalidParams` that names the parameter."""
    fields = msgspec.structs.fields(method.params)
    known = [one.encode_name for one in fields]
    takes = f"{method.name} takes {', '.join(known) or 'none'}"
    if len(positional) > len(fields):
        raise InvalidParams(f"Invalid params: {len(positional)} given, but {takes}")
    given = dict(zip(known, positional, strict=False)) or named
    for name in given:
        if name not in known:
            raise InvalidParams(f'Invalid params: unknown parameter "{name}"; {takes}', param=name)
    for one in fields:
        if one.required and given.get(one.encode_name) is None:
            raise InvalidParams(f'Invalid params: "{one.encode_name}" is missing; {takes}', param=one.encode_name)
    try:
        # null stands for "not given" where a parameter may be left out
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, method.params)
    except msgspec.ValidationError as error:
        # Expected `int`, got `str` - at `$.timeout`
        what, _, where = str(error).partition(" - at `$.")
        name = where.removesuffix("`")
        raise InvalidParams(f"Invalid params: {name}: {what[0].lower()}{what[1:]}", param=name) from error


# --------------------------------------------------------------------------------------------------------------------
# Between the text and jsonrpcserver

_INVALID = "rpc.invalid"  # jsonrpcserver has no way to refuse one element of a batch; this method does
_INVALID_CALL = {"jsonrpc": "2.0", "method": _INVALID, "id": None}


def _recorder(method: Method) -> Callable[..., Result]:
    def record(done: _Pass, /, *positional: Any, **named: Any) -> Result:
        item = _Recorded(method, positional, named)
        done.recorded.append(item)
        return Success(item)

    return record


def _well_formed(request: Any) -> bool:
    """A request object of the specification. An id is a string, an integer or null: fractions, which the
    specification advises against, do not survive other languages' parsers."""
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


def _wire(response: Any) -> dict[str, Any]:
    """jsonrpcserver's response as the answer's JSON object; recorded calls bring their own outcome."""
    inner = response._value if hasattr(response, "_value") else response._error
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        return {"jsonrpc": "2.0", **recorded.outcome, "id": inner.id}
    assert isinstance(inner, ErrorResponse)
    if inner.code == InvalidRequest.rpc_code:
        return _error(inner.id, InvalidRequest("Invalid Request"))
    if inner.code == MethodNotFound.rpc_code:
        return _error(inner.id, MethodNotFound(f"Method not found: {inner.data}", method=inner.data))
    log_id = secrets.token_hex(8)
    log.error("jsonrpcserver failed", code=inner.code, detail=str(inner.data), log_id=log_id)
    return _error(inner.id, InternalError("Internal error", logId=log_id))


def _error(identity: Any, error: FabstirError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.to_error_object(), "id": identity}


def _encode(answer: Any) -> bytes:
    return msgspec.json.encode(answer)


def _first_line(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
