"""A JSON-RPC 2.0 text in, its answer out, on trio.

jsonrpcserver 5.0.9 parses, checks and shapes; its own asynchronous dispatcher needs asyncio's `gather` and cannot run
under trio, so its public synchronous one is used: a method only records its call there, and the recorded calls are
awaited here (LAB.md, "jsonrpcserver on trio"; ADR 3). Every transport comes through here.

A single call that is well formed goes past jsonrpcserver, which costs more than all the rest (ADR 9): it is decoded as
a `_Request`, found in the same table and run by the same functions. Whatever is not that, however slightly, is left to
jsonrpcserver untouched; a test holds the two ways equal. It is imported behind the API (`load`): with jsonschema, which
it brings, it takes a sixth of the time to the first answer.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

import msgspec
import trio

from fabstir_client.errors import (
    DeadlineExceeded,
    FabstirError,
    Forbidden,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    RpcError,
    TooLarge,
)
from fabstir_client.types import Params
from fabstir_client.types_access import Access
from fabstird.log import get_logger
from fabstird.metrics import UNKNOWN_METHOD, Counters
from fabstird.rpc.access import Caller as Caller
from fabstird.rpc.access import admit
from fabstird.rpc.services import Services
from fabstird.rpc.texts import check_values

log = get_logger("rpc")

BATCH_CONCURRENCY = 16  # calls of one batch that run at a time


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


class _Later(enum.Enum):
    LATER = "later"


Later: TypeAlias = Literal[_Later.LATER]
LATER: Later = _Later.LATER


@dataclass(slots=True)
class _Recorded:
    method: Method
    waits: bool  # its handler is a coroutine function
    positional: tuple[Any, ...] | list[Any]
    named: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)
    id: Any = None  # of the request, for the audit


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """A request object of the specification. An id is a string, an integer or null: fractions, which the
    specification advises against, do not survive other languages' parsers."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET
    params: dict[str, Any] | list[Any] | msgspec.UnsetType = msgspec.UNSET


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Pass:
    """One run of jsonrpcserver over a text: the calls that it recorded, in order."""

    recorded: list[_Recorded] = field(default_factory=list)


class Dispatcher:
    """Built once from the method table; raises ValueError where two methods have one name."""

    def __init__(self, methods: list[Method]) -> None:
        self.methods = {method.name: method for method in methods}
        if len(self.methods) != len(methods):
            raise ValueError("a method is declared twice")
        waits = {method.name: inspect.iscoroutinefunction(method.handler) for method in methods}
        self._single = {method.name: (method, waits[method.name]) for method in methods}
        self._registry: dict[str, Callable[..., Any]] = {
            _INVALID: _invalid,
            **{method.name: _recorder(method, waits[method.name]) for method in methods},
        }

    def at_once(self, text: bytes, call: Call) -> bytes | Later | None:
        """The answer, where it is there without waiting: to a well-formed single call of a method that is a plain
        function. Else `LATER`: nothing has been done, and the text is for `dispatch`."""
        if len(text) > call.services.config.api.max_request_values:
            return LATER  # `dispatch` looks at it before it is parsed
        request = _well_formed_single(text)
        if request is None:
            return LATER
        method, waits = self._single.get(request.method, (None, True))
        if method is None or waits:
            return LATER
        item = _recorded(method, waits, request)
        _run_plain(item, call)
        return _single_answer(item, request, call)

    async def dispatch(self, text: bytes, call: Call) -> bytes | None:
        """The answer to one text; None where there is none to give, because it held only notifications."""
        try:
            check_values(text, call.services.config.api.max_request_values)
        except TooLarge as error:
            return _refused(error, call)
        request = _well_formed_single(text)
        if request is not None and (found := self._single.get(request.method)):
            item = _recorded(*found, request)
            await _run(item, call)
            return _single_answer(item, request, call)
        return await self.dispatch_any(text, call)

    async def dispatch_any(self, text: bytes, call: Call) -> bytes | None:
        """As `dispatch`, every text by way of jsonrpcserver."""
        try:
            parsed = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _refused(ParseError(f"Parse error: {_first_line(error)}"), call)
        max_batch = call.services.config.api.max_batch
        if isinstance(parsed, list) and len(parsed) > max_batch:
            return _refused(
                TooLarge(
                    f"a batch of {len(parsed)} calls; {max_batch} are allowed",
                    limit=max_batch,
                    current=len(parsed),
                    configKey="api.max_batch",
                ),
                call,
            )
        done = _Pass()
        from jsonrpcserver import dispatch_to_response

        responses = dispatch_to_response(
            "", self._registry, context=done, deserializer=lambda _: _prepared(parsed), validator=_validate
        )
        for response in responses if isinstance(responses, list) else [responses]:
            _name(response)
        await self._run_all(done.recorded, call)
        if responses is None:
            return None
        counters = call.services.counters
        if isinstance(responses, list):
            return _batch([_wire(response, counters) for response in responses], call) if responses else None
        answer = _wire(responses, counters)
        return _fitting(_encode(answer), answer["id"], call)

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


def _well_formed_single(text: bytes) -> _Request | None:
    try:
        return _decode_request(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _recorded(method: Method, waits: bool, request: _Request) -> _Recorded:
    params, identity = request.params, None if request.id is msgspec.UNSET else request.id
    if type(params) is list:
        return _Recorded(method, waits, params, {}, id=identity)
    return _Recorded(method, waits, (), params if type(params) is dict else {}, id=identity)


def _single_answer(item: _Recorded, request: _Request, call: Call) -> bytes | None:
    if request.id is msgspec.UNSET:
        return None
    return _fitting(_encode({"jsonrpc": "2.0", **item.outcome, "id": request.id}), request.id, call)


def _batch(answers: list[dict[str, Any]], call: Call) -> bytes:
    """The answers to a batch in one; those that would make it too large are errors instead."""
    parts: list[bytes] = []
    size = 0
    for answer in answers:
        parts.append(_fitting(_encode(answer), answer["id"], call, size))
        size += len(parts[-1])
    return b"[" + b",".join(parts) + b"]"


def _fitting(answer: bytes, identity: Any, call: Call, before: int = 0) -> bytes:
    """The answer, or an error in its place where it is too large, after ``before`` bytes of the same batch."""
    limit, size = call.services.config.api.max_answer_bytes, before + len(answer)
    if size <= limit:
        return answer
    words = f"the call was carried out, but its answer would have {size} bytes; [api] max_answer_bytes allows {limit}"
    return _encode(_error(identity, TooLarge(words, limit=limit, current=size, configKey="api.max_answer_bytes")))


async def _run(item: _Recorded, call: Call) -> None:
    """Carry a recorded call out; its outcome is a result or an error object, never an exception.

    Whatever way a call takes to its handler, `_params` comes before and `_account` after it: access and the audit are
    held there, and nowhere else.
    """
    if not item.waits:
        _run_plain(item, call)
        return
    method, limit = item.method, call.services.node.settings.request_timeout
    began, outcome = time.perf_counter(), "CANCELLED"
    try:
        params = _params(item, call)
        # A caller's own deadline is the method's to keep: it knows what to answer then
        own = getattr(params, "timeout", None) is not None
        with trio.move_on_after(math.inf if own else limit / 1000) as scope:
            item.outcome = {"result": await method.handler(call, params)}
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"{method.name} did not finish within {limit} ms", timeout=limit)
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - it becomes the answer, and a defect is logged
        outcome = _fail(item, error)
    finally:  # also where the caller went away
        _account(item, call, outcome, began)


def _run_plain(item: _Recorded, call: Call) -> None:
    """As `_run`, for a handler that is a plain function."""
    began = time.perf_counter()
    try:
        item.outcome = {"result": item.method.handler(call, _params(item, call))}
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - as in `_run`
        outcome = _fail(item, error)
    _account(item, call, outcome, began)


def _params(item: _Recorded, call: Call) -> Params:
    """What comes before any handler. Raises `Forbidden` or `InvalidParams`."""
    admit(item.method.name, item.method.needs, call.caller)
    return _convert(item.method, item.positional, item.named)


def _fail(item: _Recorded, error: Exception) -> str:
    if not isinstance(error, FabstirError):
        log_id = secrets.token_hex(8)
        log.error("a method failed", method=item.method.name, log_id=log_id, exc_info=error)
        error = InternalError("Internal error", logId=log_id)
    item.outcome = {"error": error.to_error_object()}
    return error.code


def _account(item: _Recorded, call: Call, outcome: str, began: float) -> None:
    """What comes after any handler: the count, and the audit's line."""
    method, caller, took = item.method, call.caller, time.perf_counter() - began
    call.services.counters.call(method.name, outcome, took)
    if method.changes or outcome == Forbidden.code:
        call.services.audit.add(
            method.name,
            dict(zip(_signature(method.params).known, item.positional, strict=False)) or item.named,
            outcome,
            took,
            transport=caller.transport,
            id=None if item.id is None else _encode(item.id).decode(),
            uid=caller.uid,
            pid=caller.pid,
            token=caller.grant.token,
            remote=caller.remote,
        )


@dataclass(frozen=True, slots=True)
class _Signature:
    known: tuple[str, ...]
    required: tuple[str, ...]


@cache
def _signature(params: type[Params]) -> _Signature:
    fields = msgspec.structs.fields(params)
    return _Signature(
        tuple(one.encode_name for one in fields), tuple(one.encode_name for one in fields if one.required)
    )


def _convert(method: Method, positional: tuple[Any, ...] | list[Any], named: dict[str, Any]) -> Params:
    """Parameters by position or by name to the method's struct. Raises `InvalidParams` that names the parameter."""
    signature = _signature(method.params)
    known, required = signature.known, signature.required
    if not positional and not named and not required:
        return method.params()
    takes = f"{method.name} takes {', '.join(known) or 'none'}"
    if len(positional) > len(known):
        raise InvalidParams(f"Invalid params: {len(positional)} given, but {takes}")
    given = dict(zip(known, positional, strict=False)) or named
    for name in given:
        if name not in known:
            raise InvalidParams(f'Invalid params: unknown parameter "{name}"; {takes}', param=name)
    for name in required:
        if given.get(name) is None:
            raise InvalidParams(f'Invalid params: "{name}" is missing; {takes}', param=name)
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


def load() -> None:
    """Import jsonrpcserver, which the first text that needs it would else wait for."""
    importlib.import_module("jsonrpcserver.response")


def _invalid(_: _Pass) -> Any:
    from jsonrpcserver import Error

    return Error(InvalidRequest.rpc_code, "Invalid Request")


def _recorder(method: Method, waits: bool) -> Callable[..., Any]:
    def record(done: _Pass, /, *positional: Any, **named: Any) -> Any:
        from jsonrpcserver import Success

        item = _Recorded(method, waits, positional, named)
        done.recorded.append(item)
        return Success(item)

    return record


def _well_formed(request: Any) -> bool:
    """Whether it is what `_Request` decodes."""
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


def _wire(response: Any, counters: Counters) -> dict[str, Any]:
    """jsonrpcserver's response as the answer's JSON object; recorded calls bring their own outcome."""
    from jsonrpcserver.response import ErrorResponse, SuccessResponse

    inner = response._value if hasattr(response, "_value") else response._error
    if isinstance(inner, SuccessResponse):
        recorded: Any = inner.result
        return {"jsonrpc": "2.0", **recorded.outcome, "id": inner.id}
    assert isinstance(inner, ErrorResponse)
    if inner.code == InvalidRequest.rpc_code:
        counters.calls[UNKNOWN_METHOD, InvalidRequest.code] += 1
        return _error(inner.id, InvalidRequest("Invalid Request"))
    if inner.code == MethodNotFound.rpc_code:
        counters.calls[UNKNOWN_METHOD, MethodNotFound.code] += 1
        return _error(inner.id, MethodNotFound(f"Method not found: {inner.data}", method=inner.data))
    log_id = secrets.token_hex(8)
    log.error("jsonrpcserver failed", code=inner.code, detail=str(inner.data), log_id=log_id)
    return _error(inner.id, InternalError("Internal error", logId=log_id))


def _refused(error: FabstirError, call: Call) -> bytes:
    """The answer to a text that holds no call."""
    call.services.counters.calls[UNKNOWN_METHOD, error.code] += 1
    return _encode(_error(None, error))


def _error(identity: Any, error: FabstirError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.to_error_object(), "id": identity}


def _first_line(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
