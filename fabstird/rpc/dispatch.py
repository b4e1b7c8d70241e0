"""A JSON-RPC 2.0 text in, its answer out, on trio.

jsonrpcserver 5.0.9 parses, checks and shapes; its own asynchronous dispatcher needs asyncio's `gather` and cannot run
under trio, so its public synchronous one is used: a method only records its call there, and the recorded calls are
awaited here (LAB.md, "jsonrpcserver on trio"; ADR 3). Every transport comes through here.

A single call that is well formed goes past jsonrpcserver, which costs more than all the rest (ADR 9): it is decoded as
a `_Request`, found in the same table and run by the same functions. Whatever is not that, however slightly, is left to
jsonrpcserver untouched (`recording`); a test holds the two ways equal.
"""

from __future__ import annotations

import enum
import inspect
import math
import secrets
import time
from typing import Any, Literal, TypeAlias

import msgspec
import trio

from fabstir_client.errors import (
    DeadlineExceeded,
    FabstirError,
    Forbidden,
    InternalError,
    ParseError,
    TooLarge,
)
from fabstir_client.types import Params
from fabstird.log import get_logger
from fabstird.metrics import UNKNOWN_METHOD
from fabstird.rpc import recording
from fabstird.rpc.access import Caller as Caller
from fabstird.rpc.access import admit
from fabstird.rpc.calls import Call as Call
from fabstird.rpc.calls import Method as Method
from fabstird.rpc.calls import Recorded, failure
from fabstird.rpc.signature import convert, signature
from fabstird.rpc.texts import check_values

log = get_logger("rpc")

BATCH_CONCURRENCY = 16  # calls of one batch that run at a time


class _Later(enum.Enum):
    LATER = "later"


Later: TypeAlias = Literal[_Later.LATER]
LATER: Later = _Later.LATER


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """A request object of the specification. An id is a string, an integer or null: fractions, which the
    specification advises against, do not survive other languages' parsers."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET
    params: dict[str, Any] | list[Any] | msgspec.UnsetType = msgspec.UNSET


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


class Dispatcher:
    """Built once from the method table; raises ValueError where two methods have one name."""

    def __init__(self, methods: list[Method]) -> None:
        self.methods = {method.name: method for method in methods}
        if len(self.methods) != len(methods):
            raise ValueError("a method is declared twice")
        waits = {method.name: inspect.iscoroutinefunction(method.handler) for method in methods}
        self._single = {method.name: (method, waits[method.name]) for method in methods}
        self._recorder = recording.Recorder(self._single.values())

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
        except (ParseError, TooLarge) as error:
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
        responses, recorded = self._recorder.record(parsed)
        await self._run_all(recorded, call)
        if responses is None:
            return None
        counters = call.services.counters
        if isinstance(responses, list):
            return _batch([recording.wire(response, counters) for response in responses], call) if responses else None
        answer = recording.wire(responses, counters)
        return _fitting(_encode(answer), answer["id"], call)

    async def _run_all(self, recorded: list[Recorded], call: Call) -> None:
        if len(recorded) == 1:
            await _run(recorded[0], call)
        elif recorded:
            limiter = trio.CapacityLimiter(BATCH_CONCURRENCY)

            async def one(item: Recorded) -> None:
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


def _recorded(method: Method, waits: bool, request: _Request) -> Recorded:
    params, identity = request.params, None if request.id is msgspec.UNSET else request.id
    if type(params) is list:
        return Recorded(method, waits, params, {}, id=identity)
    return Recorded(method, waits, (), params if type(params) is dict else {}, id=identity)


def _single_answer(item: Recorded, request: _Request, call: Call) -> bytes | None:
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
    return _encode(failure(identity, TooLarge(words, limit=limit, current=size, configKey="api.max_answer_bytes")))


async def _run(item: Recorded, call: Call) -> None:
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


def _run_plain(item: Recorded, call: Call) -> None:
    """As `_run`, for a handler that is a plain function."""
    began = time.perf_counter()
    try:
        item.outcome = {"result": item.method.handler(call, _params(item, call))}
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - as in `_run`
        outcome = _fail(item, error)
    _account(item, call, outcome, began)


def _params(item: Recorded, call: Call) -> Params:
    """What comes before any handler. Raises `Forbidden` or `InvalidParams`."""
    admit(item.method.name, item.method.needs, call.caller)
    return convert(item.method, item.positional, item.named)


def _fail(item: Recorded, error: Exception) -> str:
    if not isinstance(error, FabstirError):
        log_id = secrets.token_hex(8)
        log.error("a method failed", method=item.method.name, log_id=log_id, exc_info=error)
        error = InternalError("Internal error", logId=log_id)
    item.outcome = {"error": error.to_error_object()}
    return error.code


def _account(item: Recorded, call: Call, outcome: str, began: float) -> None:
    """What comes after any handler: the count, and the audit's line."""
    method, caller, took = item.method, call.caller, time.perf_counter() - began
    call.services.counters.call(method.name, outcome, took)
    if method.changes or outcome == Forbidden.code:
        call.services.audit.add(
            method.name,
            dict(zip(signature(method.params).known, item.positional, strict=False)) or item.named,
            outcome,
            took,
            transport=caller.transport,
            id=None if item.id is None else _encode(item.id).decode(),
            uid=caller.uid,
            pid=caller.pid,
            token=caller.grant.token,
            remote=caller.remote,
        )


def _refused(error: FabstirError, call: Call) -> bytes:
    """The answer to a text that holds no call."""
    call.services.counters.calls[UNKNOWN_METHOD, error.code] += 1
    return _encode(failure(None, error))


def _first_line(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
