"""Answers a JSON-RPC 2.0 text, on trio.

jsonrpcserver 5.0.9 parses, validates and formats. Its asynchronous dispatcher needs asyncio's `gather` and cannot run
under trio, so its synchronous one is used: each method only records its call there, and the recorded calls are awaited
here (ADR 3). Every transport uses this module.

A well-formed call, or a batch of them, bypasses jsonrpcserver, which costs more than everything else (ADR 9). It is
decoded as a `_Request`, found in the same table and run by the same functions. Anything else is left to jsonrpcserver
untouched (`recording`); a test compares both ways.
"""

from __future__ import annotations

import enum
import inspect
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import trio

from fabstir_client.api.errors import (
    DeadlineExceeded,
    FabstirError,
    Forbidden,
    InternalError,
    ParseError,
    TooLarge,
)
from fabstir_client.api.types import Params
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import UNKNOWN_METHOD
from fabstird.nursery import unwrapped
from fabstird.rpc import jsonrpcserver_adapter as recording
from fabstird.rpc.access import Caller as Caller
from fabstird.rpc.access import admit, admit_named
from fabstird.rpc.batches import Batch, Batches
from fabstird.rpc.calls import Call as Call
from fabstird.rpc.calls import Method as Method
from fabstird.rpc.calls import Recorded, encoded, failure
from fabstird.rpc.request_guard import check_values, readable_id
from fabstird.rpc.scope import named
from fabstird.rpc.signature import convert, signature

log = get_logger("rpc")

PLAIN_BATCH = 64  # calls of a batch that a transport may answer in the task that reads
SHORT = 1024  # bytes of an error that a batch keeps, however large its other answers are


class _Later(enum.Enum):
    LATER = "later"


Later: TypeAlias = Literal[_Later.LATER]
LATER: Later = _Later.LATER


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """A request object of the specification. An id is a string, an integer or null: fractions, which the specification
    discourages, do not survive other languages' parsers."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET
    params: dict[str, Any] | list[Any] | msgspec.UnsetType = msgspec.UNSET


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_batch = msgspec.json.Decoder(list[_Request]).decode
_encode = msgspec.json.Encoder().encode


class Dispatcher:
    """Answers texts. Built once from the method table; raises ValueError where two methods have the same name."""

    def __init__(self, methods: list[Method]) -> None:
        self.methods = {method.name: method for method in methods}
        if len(self.methods) != len(methods):
            raise ValueError("a method is declared twice")
        waits = {method.name: inspect.iscoroutinefunction(method.handler) for method in methods}
        self._single = {method.name: (method, waits[method.name]) for method in methods}
        self._recorder = recording.Recorder(self._single.values())
        self._batches = Batches(_run, _run_plain)

    def at_once(self, text: bytes, call: Call) -> bytes | Later | None:
        """The answer to a well-formed single call of a method that is a plain function, without waiting. Otherwise
        `LATER`: nothing has been done, and the text is for `dispatch`."""
        if len(text) > call.services.config.api.max_request_values:
            return LATER  # `dispatch` checks it before it is parsed
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
        """The answer to one text; None for notifications only. If others need the memory that it holds (`held`), its
        calls are cancelled, and the answer says so."""
        if call.held is None:
            return await self._dispatch(text, call)
        with call.held.scope:
            return await self._dispatch(text, call)
        identity = readable_id(text)
        if identity is None and not text.lstrip().startswith(b"["):
            return None
        return _refused(call.services.usage.memory.refusal("others need what this caller has more"), call, identity)

    async def _dispatch(self, text: bytes, call: Call) -> bytes | None:
        try:
            check_values(text, call.services.config.api.max_request_values)
        except (ParseError, TooLarge) as error:
            return _refused(error, call, readable_id(text))
        request = _well_formed_single(text)
        if request is not None and (found := self._single.get(request.method)):
            item = _recorded(*found, request)
            await _run(item, call)
            return _single_answer(item, request, call)
        if request is None and (batch := self._well_formed_batch(text, call)) is not None:
            async with self._batches.begun(call) as turn:
                return await self._batch(batch, turn, call)
        return await self.dispatch_any(text, call)

    async def dispatch_plain_batch(self, text: bytes, call: Call, there: Callable[[], bool]) -> bytes | Later | None:
        """The answer to a well-formed batch of at most `PLAIN_BATCH` calls, all of plain functions. Otherwise, and
        where ``there`` returns False when its turn has come, `LATER`: nothing has been done."""
        if len(text) > call.services.config.api.max_request_values:
            return LATER
        batch = self._well_formed_batch(text, call)
        if batch is None or len(batch) > PLAIN_BATCH or any(self._single[one.method][1] for one in batch):
            return LATER
        async with self._batches.begun(call) as turn:
            return await self._batch(batch, turn, call) if there() else LATER

    async def dispatch_any(self, text: bytes, call: Call) -> bytes | None:
        """As `dispatch`, but always by jsonrpcserver."""
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
        counters = call.services.counters
        if isinstance(parsed, list) and parsed:
            async with self._batches.begun(call) as batch:
                responses, recorded = self._recorder.record(parsed)
                await batch.run(recorded)
                return _joined((recording.wire(one, counters) for one in responses), call) if responses else None
        response, recorded = self._recorder.record(parsed)
        for item in recorded:
            await _run(item, call)
        if response is None:
            return None
        answer = recording.wire(response, counters)
        return _fitting(_encode(answer), answer["id"], call)

    def _well_formed_batch(self, text: bytes, call: Call) -> list[_Request] | None:
        """The requests of a well-formed batch; None where jsonrpcserver must answer any of it."""
        if text[:1] != b"[":
            return None
        try:
            batch = _decode_batch(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if not 0 < len(batch) <= call.services.config.api.max_batch:
            return None
        return batch if all(one.method in self._single for one in batch) else None

    async def _batch(self, batch: list[_Request], turn: Batch, call: Call) -> bytes | None:
        items = [_recorded(*self._single[one.method], one) for one in batch]
        await turn.run(items)
        answered = [(one, item) for one, item in zip(batch, items, strict=True) if one.id is not msgspec.UNSET]
        return _joined((_taken(item, one) for one, item in answered), call) if answered else None


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


def _taken(item: Recorded, request: _Request) -> dict[str, Any]:
    """A call's answer, which is removed from the call: a batch may have many MiB of them."""
    outcome, item.outcome = item.outcome, {}
    return {"jsonrpc": "2.0", **outcome, "id": request.id}


def _joined(answers: Iterable[dict[str, Any]], call: Call) -> bytes:
    """The answers of a batch as one text. Answers that would make it too large become errors."""
    parts: list[bytes] = []
    size = 0
    for answer in answers:
        text = _encode(answer)
        if "error" not in answer or len(text) > SHORT:  # a short error already says why there is no result
            text = _fitting(text, answer["id"], call, size)
        parts += (b"," if parts else b"[", text)
        size += len(text)
    parts.append(b"]")
    return b"".join(parts)


def _fitting(answer: bytes, identity: Any, call: Call, before: int = 0) -> bytes:
    """The answer, or an error in its place if it is too large after ``before`` bytes of the same batch."""
    limit, size = call.services.config.api.max_answer_bytes, before + len(answer)
    if size <= limit:
        return answer
    words = f"the call was carried out, but its answer would have {size} bytes; [api] max_answer_bytes allows {limit}"
    return _encode(failure(identity, TooLarge(words, limit=limit, current=size, configKey="api.max_answer_bytes")))


async def _run(item: Recorded, call: Call) -> None:
    """Carry out a recorded call. Its outcome is a result or an error object, never an exception.

    On every way to a handler, `_params` comes before it and `_account` after it: access control and the audit are
    there, and nowhere else.
    """
    if not item.waits:
        _run_plain(item, call)
        return
    method, limit = item.method, call.services.node.settings.request_timeout
    began, outcome = time.perf_counter(), "CANCELLED"
    try:
        params = _params(item, call)
        # The method observes a caller's own deadline: it knows what to answer then
        own = getattr(params, "timeout", None) is not None
        with trio.move_on_after(math.inf if own else limit / 1000) as scope:
            _succeed(item, await method.handler(call, params))
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"{method.name} did not finish within {limit} ms", timeout=limit)
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - it becomes the answer, and a defect is logged
        outcome = _fail(item, error)
    finally:  # also where the caller has gone
        _account(item, call, outcome, began)


def _run_plain(item: Recorded, call: Call) -> None:
    """As `_run`, for a handler that is a plain function."""
    began = time.perf_counter()
    try:
        _succeed(item, item.method.handler(call, _params(item, call)))
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - as in `_run`
        outcome = _fail(item, error)
    _account(item, call, outcome, began)


def _params(item: Recorded, call: Call) -> Params:
    """What comes before any handler: access control and parameters. Raises `Forbidden`, `InvalidParams`."""
    method, caller = item.method, call.caller
    admit(method.name, method.needs, caller)
    params = convert(method, item.positional, item.named)
    if caller.grant.scope.limited:
        admit_named(method.name, method.needs, caller, named(method.name, params))
    return params


def _succeed(item: Recorded, result: Any) -> None:
    item.outcome = encoded("result", result)
    item.idle = item.method.idle is not None and item.method.idle(result)


def _fail(item: Recorded, error: Exception) -> str:
    error = unwrapped(error)
    if isinstance(error, FabstirError):
        try:
            item.outcome = encoded("error", error.to_error_object())
            return error.code
        except Exception as unencodable:  # noqa: BLE001 - the error's details cannot be encoded
            error = unencodable
    log_id = secrets.token_hex(8)
    log.error("a method failed", method=item.method.name, log_id=log_id, exc_info=error)
    item.outcome = encoded("error", InternalError("Internal error", logId=log_id).to_error_object())
    return InternalError.code


def _account(item: Recorded, call: Call, outcome: str, began: float) -> None:
    """What comes after any handler: the count, and the audit. A defect here does not fail the call."""
    try:
        _note(item, call, outcome, time.perf_counter() - began)
    except Exception:
        log.exception("a call is not in the audit", method=item.method.name)


def _note(item: Recorded, call: Call, outcome: str, took: float) -> None:
    method, caller = item.method, call.caller
    call.services.counters.call(method.name, outcome, took)
    if method.changes or outcome == Forbidden.code:
        call.services.audit.add(
            method.name,
            dict(zip(signature(method.params).known, item.positional, strict=False)) or item.named,
            "unchanged" if item.idle and outcome == "ok" else outcome,
            took,
            transport=caller.transport,
            id=None if item.id is None else _encode(item.id).decode(),
            uid=caller.uid,
            pid=caller.pid,
            token=caller.grant.token,
            remote=caller.remote,
        )


def _refused(error: FabstirError, call: Call, identity: str | int | None = None) -> bytes:
    """The answer to a text that is not a call."""
    call.services.counters.calls[UNKNOWN_METHOD, error.code] += 1
    return _encode(failure(identity, error))


def _first_line(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
