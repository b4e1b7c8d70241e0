"""JSON-RPC 2.0 on trio: the specification's own examples, every kind of bad text, and calls that fail."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonrpcserver
import msgspec
import pytest
import structlog
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from fabstir_client.errors import DialFailed, LimitExceeded
from fabstir_client.types import Params
from fabstird import log
from fabstird.config import ApiConfig, Config, NodeConfig
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.metrics import Counters
from fabstird.p2p.book import Book
from fabstird.p2p.node import Node
from fabstird.rpc import dispatch as dispatching
from fabstird.rpc.access import Caller, Grant
from fabstird.rpc.dispatch import BATCH_CONCURRENCY, Call, Dispatcher, Method
from fabstird.rpc.services import Services
from fabstird.rpc.tokens import Tokens

SECRET = "the text of an exception"
MAX_BATCH = 50

# --------------------------------------------------------------------------------------------------------------------
# A method table of our own


class Subtract(Params, frozen=True):
    minuend: int
    subtrahend: int


class Numbers(Params, frozen=True):
    first: int
    second: int = 0
    third: int = 0
    fourth: int = 0
    fifth: int = 0


class Everything(Params, frozen=True):
    text: str
    number: int | None = None
    names: list[str] | None = None
    by_name: dict[str, int] | None = None


class Deadline(Params, frozen=True):
    timeout: int | None = None


class Nothing(Params, frozen=True):
    pass


notified: list[tuple[str, Any]] = []


async def subtract(_: Call, params: Subtract) -> int:
    return params.minuend - params.subtrahend


async def sum_up(_: Call, params: Numbers) -> int:
    notified.append(("sum", params.first))
    return params.first + params.second + params.third + params.fourth + params.fifth


async def get_data(_: Call, __: Nothing) -> list[Any]:
    return ["hello", 5]


async def take(_: Call, params: Everything) -> Any:
    return {"text": params.text, "number": params.number, "names": params.names, "byName": params.by_name}


async def defect(_: Call, __: Nothing) -> None:
    raise RuntimeError(SECRET)


async def several_defects(_: Call, __: Nothing) -> None:
    raise ExceptionGroup("group", [RuntimeError(SECRET), ValueError(SECRET)])


async def limit(_: Call, __: Nothing) -> None:
    raise LimitExceeded("there are too many", limit=1, current=1, configKey="connections.max")


async def dial(_: Call, __: Nothing) -> None:
    raise DialFailed("cannot connect", errors={"/ip4/1.2.3.4/tcp/1": "connection refused"})


async def forever(_: Call, __: Nothing) -> None:
    await trio.sleep_forever()


async def wait(_: Call, params: Deadline) -> str:
    with trio.move_on_after((params.timeout or 10**6) / 1000):
        await trio.sleep_forever()
    return "waited"


class Crowd:
    """How many calls of ``enter`` are inside at a time; they leave when ``door`` opens."""

    inside = most = 0
    door = trio.Event()


async def enter(_: Call, __: Nothing) -> None:
    Crowd.inside += 1
    Crowd.most = max(Crowd.most, Crowd.inside)
    await Crowd.door.wait()
    Crowd.inside -= 1


METHODS = [
    Method("subtract", Subtract, int, "", subtract),
    Method("sum", Numbers, int, "", sum_up),
    Method("update", Numbers, int, "", sum_up),
    Method("notify_hello", Numbers, int, "", sum_up),
    Method("notify_sum", Numbers, int, "", sum_up),
    Method("get_data", Nothing, list[Any], "", get_data),
    Method("take", Everything, dict[str, Any], "", take, changes=True),
    Method("defect", Nothing, None, "", defect),
    Method("several_defects", Nothing, None, "", several_defects),
    Method("limit", Nothing, None, "", limit, changes=True),
    Method("dial", Nothing, None, "", dial),
    Method("forever", Nothing, None, "", forever),
    Method("wait", Deadline, str, "", wait),
    Method("enter", Nothing, None, "", enter),
]


def call(config: Config | None = None, grant: Grant | None = None) -> Call:
    config = config or Config(api=ApiConfig(max_batch=MAX_BATCH))
    events, counters = EventLog(10), Counters()
    node = Node(config, Identity.from_seed(bytes(32)), events, counters, Book(Path("never written")))
    tokens = Tokens(Path("never written"), "no token of anybody", lambda: 0)
    caller = Caller("ipc", grant or Grant("admin", "the test"), uid=1000, pid=4711)
    return Call(Services(config, events, counters, node, lambda: None, tokens), caller)


async def dispatch(text: bytes, into: Call | None = None) -> bytes | None:
    return await Dispatcher(METHODS).dispatch(text, into or call())


async def ask(text: str | bytes, into: Call | None = None) -> Any:
    """The answer, decoded strictly; None where there is none."""
    answer = await dispatch(text.encode() if isinstance(text, str) else text, into)
    return None if answer is None else json.loads(answer, parse_constant=pytest.fail)


async def request(method: str, params: Any = None, **parts: Any) -> Any:
    message = {"jsonrpc": "2.0", "method": method, "id": 1} | ({} if params is None else {"params": params}) | parts
    return await ask(json.dumps(message))


def code(answer: Any) -> int:
    """The code of an answer that is a well-formed error."""
    assert answer.keys() == {"jsonrpc", "error", "id"}
    assert answer["jsonrpc"] == "2.0"
    assert answer["error"].keys() == {"code", "message", "data"}
    assert isinstance(answer["error"]["message"], str)
    assert answer["error"]["data"].keys() >= {"code", "retryable"}
    return int(answer["error"]["code"])


# --------------------------------------------------------------------------------------------------------------------
# The examples of the specification (jsonrpc.org/specification, section 7), all of them and in its order


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', 19),
        ('{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}', -19),
        ('{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}', 19),
        ('{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}', 19),
    ],
)
async def test_specification_calls(text: str, answer: int) -> None:
    assert await ask(text) == {"jsonrpc": "2.0", "result": answer, "id": json.loads(text)["id"]}


async def test_specification_notifications() -> None:
    notified.clear()
    assert await ask('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}') is None
    assert notified == [("sum", 1)]
    assert await ask('{"jsonrpc": "2.0", "method": "foobar"}') is None


@pytest.mark.parametrize(
    ("text", "number", "identity"),
    [
        ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', -32601, "1"),
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', -32700, None),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', -32600, None),
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]',
            -32700,
            None,
        ),
        ("[]", -32600, None),
    ],
)
async def test_specification_errors(text: str, number: int, identity: Any) -> None:
    answer = await ask(text)
    assert code(answer) == number
    assert answer["id"] == identity


@pytest.mark.parametrize(("text", "count"), [("[1]", 1), ("[1,2,3]", 3)])
async def test_specification_invalid_batches(text: str, count: int) -> None:
    answers = await ask(text)
    assert [(code(answer), answer["id"]) for answer in answers] == [(-32600, None)] * count


async def test_specification_batch() -> None:
    notified.clear()
    answers = await ask(
        """[
        {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
    ]"""
    )
    assert {one["id"]: one["result"] for one in answers if "result" in one} == {"1": 7, "2": 19, "9": ["hello", 5]}
    assert {one["id"]: code(one) for one in answers if "error" in one} == {None: -32600, "5": -32601}
    assert len(answers) == 5
    assert ("sum", 7) in notified


async def test_specification_batch_of_notifications() -> None:
    notified.clear()
    text = """[
        {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
    ]"""
    assert await ask(text) is None
    assert sorted(notified) == [("sum", 1), ("sum", 7)]


# --------------------------------------------------------------------------------------------------------------------
# Requests


@pytest.mark.parametrize("identity", ["", "a", "1", "ä\u0000☃", 0, -1, 2**53 + 1, 2**64, -(10**300), None])
async def test_an_id_comes_back_as_it_was(identity: Any) -> None:
    assert await request("get_data", id=identity) == {"jsonrpc": "2.0", "result": ["hello", 5], "id": identity}
    answer = await request("foobar", id=identity)
    assert (code(answer), answer["id"]) == (-32601, identity)


@pytest.mark.parametrize("identity", [1.5, 1.0, True, False, [1], {"a": 1}])
async def test_an_id_of_another_type_is_no_request(identity: Any) -> None:
    answer = await request("get_data", id=identity)
    assert (code(answer), answer["id"]) == (-32600, None)


@pytest.mark.parametrize(
    "text",
    [
        "1",
        '"x"',
        "null",
        "true",
        "{}",
        '{"method": "get_data", "id": 1}',
        '{"jsonrpc": "1.0", "method": "get_data", "id": 1}',
        '{"jsonrpc": 2.0, "method": "get_data", "id": 1}',
        '{"jsonrpc": "2.0", "id": 1}',
        '{"jsonrpc": "2.0", "method": null, "id": 1}',
        '{"jsonrpc": "2.0", "method": ["get_data"], "id": 1}',
        '{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": null}',
        '{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": 1}',
        '{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": "x"}',
        '{"jsonrpc": "2.0", "result": 1, "id": 1}',
        '{"jsonrpc": "2.0", "method": "rpc.invalid", "id": 1}',  # the dispatcher's own
    ],
)
async def test_what_is_no_request(text: str) -> None:
    for answer in (await ask(text), *await ask(f"[{text}]")):
        assert (code(answer), answer["id"]) == (-32600, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\0",
        b"{",
        b'{"jsonrpc": "2.0", "method": "get_data", "id": 1,}',
        b'{"jsonrpc": "2.0", "method": "get_data", "id": 1} x',
        b"{'jsonrpc': '2.0'}",
        b'{"jsonrpc": "2.0", "method": "get_data", "id": NaN}',
        b'{"jsonrpc": "2.0", "method": "subtract", "params": [Infinity, 1], "id": 1}',
        b'{"jsonrpc": "2.0", "method": "subtract", "params": [1e400, 1], "id": 1}',
        b'{"jsonrpc": "2.0", "method": "get_data", "id": ' + b"9" * 5000 + b"}",
        b'{"jsonrpc": "2.0", "method": "\xff", "id": 1}',
        b'{"jsonrpc": "2.0", "method": "get_data", "id": "\\ud800"}',
        b'\xef\xbb\xbf{"jsonrpc": "2.0", "method": "get_data", "id": 1}',
        '{"jsonrpc": "2.0", "method": "get_data", "id": 1}'.encode("utf-16"),
        b"[" * 5_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
async def test_what_is_no_json(text: bytes) -> None:
    answer = await ask(text)
    assert (code(answer), answer["id"]) == (-32700, None)
    assert answer["error"]["message"].startswith("Parse error")
    assert "\n" not in answer["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"1," * 10_000 + b"1]",
        b'{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": [' + b"[]," * 10_000 + b"1]}",
        b'{"jsonrpc": "2.0", "method": "start", "id": 1, "params": {"config": {' + b'"a":1,' * 10_000 + b'"a":1}}}',
    ],
)
async def test_too_many_values_are_refused_before_they_are_parsed(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, not time: no parser is called at all."""
    monkeypatch.setattr(dispatching, "_decode_request", pytest.fail)
    monkeypatch.setattr(jsonrpcserver, "dispatch_to_response", pytest.fail)
    monkeypatch.setattr(msgspec.json, "decode", pytest.fail)
    answer = await ask(text)
    assert (code(answer), answer["id"]) == (-32003, None)
    data = answer["error"]["data"]
    assert (data["limit"], data["configKey"]) == (10_000, "api.max_request_values")
    assert data["current"] > 10_000
    assert Dispatcher(METHODS).at_once(text, call()) is dispatching.LATER


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"jsonrpc": "2.0", "method": "get_data", "id": 1, "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_a_nest_that_no_parser_takes_is_not_parsed(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "_decode_request", pytest.fail)
    monkeypatch.setattr(jsonrpcserver, "dispatch_to_response", pytest.fail)
    monkeypatch.setattr(msgspec.json, "decode", pytest.fail)
    answer = await ask(text)
    assert (code(answer), answer["id"]) == (-32700, None)
    assert answer["error"]["message"] == "Parse error: nested too deeply"


@pytest.mark.parametrize("filler", [b",", b"[", b"{", b'\\"', b"\\\\"])
async def test_what_is_in_a_string_is_one_value(filler: bytes) -> None:
    """However much of it looks like values: a payload of 100,000 commas is no work."""
    text = b'{"jsonrpc": "2.0", "method": "take", "id": 1, "params": ["' + filler * 100_000 + b'"]}'
    assert (await ask(text))["result"]["text"] == json.loads(b'"' + filler * 100_000 + b'"')


async def test_a_string_without_end_does_not_make_the_count_slow_or_wrong() -> None:
    """Such patterns are where regular expressions go quadratic."""
    texts = (b'"' + b"\\" * 1_000_000, b'["' + b",[{" * 300_000, b'"' * 1_000_000, b'",' * 300_000 + b'"')
    for text in texts:
        with trio.fail_after(10):
            assert code(await ask(text)) in (-32700, -32003)


async def test_an_answer_that_is_too_large_is_an_error() -> None:
    into = call(Config(api=ApiConfig(max_answer_bytes=300)))
    text = '{"jsonrpc": "2.0", "method": "take", "params": ["%s"], "id": "a"}'
    assert (await ask(text % ("x" * 100), into))["result"]["text"] == "x" * 100
    answer = await ask(text % ("x" * 300), into)
    assert (code(answer), answer["id"]) == (-32003, "a")
    data = answer["error"]["data"]
    assert (data["limit"], data["configKey"], data["current"] > 300) == (300, "api.max_answer_bytes", True)


async def test_answers_of_a_batch_that_do_not_fit_are_errors() -> None:
    into = call(Config(api=ApiConfig(max_answer_bytes=400)))
    text = '{"jsonrpc": "2.0", "method": "take", "params": ["%s"], "id": %d}'
    answers = await ask("[" + ",".join(text % ("x" * 100, number) for number in range(3)) + "]", into)
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert ["result" in answer for answer in answers] == [True, True, False]
    assert code(answers[2]) == -32003


async def test_deep_nesting_that_can_be_parsed_is_a_wrong_parameter() -> None:
    text = '{"jsonrpc": "2.0", "method": "subtract", "id": 1, "params": [' + "[" * 200 + "]" * 200 + ", 1]}"
    assert code(await ask(text)) == -32602


async def test_of_duplicate_keys_the_last_counts() -> None:
    text = '{"jsonrpc": "2.0", "method": "subtract", "id": 1, "params": [1, 1], "params": [3, 1], "id": 2}'
    assert await ask(text) == {"jsonrpc": "2.0", "result": 2, "id": 2}


# --------------------------------------------------------------------------------------------------------------------
# Parameters


@pytest.mark.parametrize(
    "params", [["x", 1, ["n"], {"a": 1}], {"byName": {"a": 1}, "names": ["n"], "number": 1, "text": "x"}]
)
async def test_parameters_by_position_and_by_name(params: Any) -> None:
    answer = await request("take", params)
    assert answer["result"] == {"text": "x", "number": 1, "names": ["n"], "byName": {"a": 1}}


@pytest.mark.parametrize("params", [["x"], {"text": "x"}, ["x", None, None, None], {"text": "x", "number": None}])
async def test_optional_parameters_may_be_left_out_or_null(params: Any) -> None:
    answer = await request("take", params)
    assert answer["result"] == {"text": "x", "number": None, "names": None, "byName": None}


@pytest.mark.parametrize("params", [None, [], {}])
async def test_no_parameters(params: Any) -> None:
    assert (await request("get_data", params))["result"] == ["hello", 5]


@pytest.mark.parametrize(
    ("method", "params", "name", "words"),
    [
        ("take", None, "text", '"text" is missing; take takes text, number, names, byName'),
        ("take", [], "text", '"text" is missing'),
        ("take", {"number": 1}, "text", '"text" is missing'),
        ("take", [None], "text", '"text" is missing'),
        ("take", {"text": "x", "colour": 1}, "colour", 'unknown parameter "colour"; take takes text, number'),
        ("take", {"text": "x", "by_name": {}}, "by_name", 'unknown parameter "by_name"'),
        ("take", {"": 1, "text": "x"}, "", 'unknown parameter ""'),
        ("get_data", {"done": 1}, "done", 'unknown parameter "done"; get_data takes none'),
        ("take", [1], "text", "text: expected `str`, got `int`"),
        ("take", ["x", "1"], "number", "number: expected `int | null`, got `str`"),
        ("take", ["x", 1.5], "number", "number: expected `int | null`, got `float`"),
        ("take", ["x", True], "number", "number: expected `int | null`, got `bool`"),
        ("take", ["x", 1, "names"], "names", "names: expected `array | null`, got `str`"),
        ("take", ["x", 1, ["a", 2]], "names[1]", "names[1]: expected `str`, got `int`"),
        ("take", {"text": "x", "byName": {"a": "b"}}, "byName[...]", "byName[...]: expected `int`, got `str`"),
    ],
)
async def test_a_wrong_parameter_is_named(method: str, params: Any, name: str, words: str) -> None:
    answer = await request(method, params)
    assert code(answer) == -32602
    assert words in answer["error"]["message"]
    assert answer["error"]["data"] == {"code": "INVALID_PARAMS", "retryable": False, "param": name}


async def test_too_many_parameters() -> None:
    answer = await request("subtract", [1, 2, 3])
    assert code(answer) == -32602
    assert answer["error"]["message"] == "Invalid params: 3 given, but subtract takes minuend, subtrahend"


# --------------------------------------------------------------------------------------------------------------------
# Calls that fail


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as it is written, level debug."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level, stderr = root.handlers[:], root.level, sys.stderr
    sys.stderr = written
    log.configure("debug", "json")
    yield written
    sys.stderr = stderr
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("method", ["defect", "several_defects"])
async def test_a_defect_is_in_the_log_and_not_in_the_answer(lines: io.StringIO, method: str) -> None:
    answer = await request(method)
    assert code(answer) == -32603
    assert answer["error"]["message"] == "Internal error"
    assert answer["error"]["data"].keys() == {"code", "retryable", "logId"}
    assert SECRET not in json.dumps(answer)
    (line,) = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (line["level"], line["method"], line["log_id"]) == ("error", method, answer["error"]["data"]["logId"])
    assert SECRET in line["exception"]
    assert "in defect" in line["exception"] or "in several_defects" in line["exception"]


async def test_each_defect_has_its_own_id(lines: io.StringIO) -> None:
    answers = [await request("defect") for _ in range(20)]
    assert len({answer["error"]["data"]["logId"] for answer in answers}) == 20


async def test_an_error_of_the_api_brings_its_details() -> None:
    answer = await request("limit")
    assert code(answer) == -32005
    assert answer["error"]["message"] == "there are too many"
    assert answer["error"]["data"] == {
        "code": "LIMIT_EXCEEDED",
        "retryable": True,
        "limit": 1,
        "current": 1,
        "configKey": "connections.max",
    }
    assert (await request("dial"))["error"]["data"]["errors"] == {"/ip4/1.2.3.4/tcp/1": "connection refused"}


async def test_a_notification_that_fails_says_nothing(lines: io.StringIO) -> None:
    for method in ("defect", "limit", "subtract", "foobar"):
        assert await ask(json.dumps({"jsonrpc": "2.0", "method": method})) is None
    assert "a method failed" in lines.getvalue()


async def test_a_call_that_does_not_end_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    config = Config(node=NodeConfig(request_timeout=2500))
    answer = await ask('{"jsonrpc": "2.0", "method": "forever", "id": 1}', call(config))
    assert trio.current_time() - started == 2.5
    assert code(answer) == -32002
    assert answer["error"]["data"] == {"code": "TIMEOUT", "retryable": True, "timeout": 2500}


async def test_a_call_with_a_deadline_of_its_own_keeps_that_one(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    into = call(Config(node=NodeConfig(request_timeout=2500)))
    answer = await ask('{"jsonrpc": "2.0", "method": "wait", "params": [9000], "id": 1}', into)
    assert (answer["result"], trio.current_time() - started) == ("waited", 9.0)
    assert code(await ask('{"jsonrpc": "2.0", "method": "wait", "id": 1}', into)) == -32002
    assert trio.current_time() - started == 11.5


async def test_calls_are_counted_by_their_outcome() -> None:
    made = call()
    for method in ("get_data", "get_data", "limit", "foobar"):
        await ask(json.dumps({"jsonrpc": "2.0", "method": method, "id": 1}), made)
    assert made.services.counters.calls == {
        ("get_data", "ok"): 2,
        ("limit", "LIMIT_EXCEEDED"): 1,
        ("unknown", "METHOD_NOT_FOUND"): 1,
    }


async def test_a_changing_call_is_logged_with_its_caller(lines: io.StringIO) -> None:
    await request("get_data")
    await request("take", ["very private"])
    await request("limit")
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["method"], line["outcome"], line["transport"], line["uid"], line["pid"]) for line in told] == [
        ("take", "ok", "ipc", 1000, 4711),
        ("limit", "LIMIT_EXCEEDED", "ipc", 1000, 4711),
    ]
    assert "very private" not in lines.getvalue()


def test_one_name_is_one_method() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        Dispatcher([*METHODS, METHODS[0]])


# --------------------------------------------------------------------------------------------------------------------
# Batches


def batch(count: int, method: str = "get_data") -> str:
    return json.dumps([{"jsonrpc": "2.0", "method": method, "id": number} for number in range(count)])


async def test_a_batch_is_answered_in_its_order() -> None:
    answers = await ask(batch(MAX_BATCH))
    assert [answer["id"] for answer in answers] == list(range(MAX_BATCH))


async def test_a_batch_over_the_limit_is_one_error_and_runs_nothing() -> None:
    notified.clear()
    answer = await ask(batch(MAX_BATCH + 1, "sum"))
    assert (code(answer), answer["id"]) == (-32003, None)
    assert answer["error"]["data"] == {
        "code": "TOO_LARGE",
        "retryable": False,
        "limit": MAX_BATCH,
        "current": MAX_BATCH + 1,
        "configKey": "api.max_batch",
    }
    assert notified == []


async def test_a_huge_batch_is_refused_quickly() -> None:
    with trio.fail_after(5):
        answer = await ask(b"[" + b"1," * 500_000 + b"1]")
    assert code(answer) == -32003


async def test_calls_of_a_batch_run_together_and_not_too_many() -> None:
    Crowd.inside = Crowd.most = 0
    Crowd.door = trio.Event()
    answers: list[Any] = []

    async def run() -> None:
        answers.extend(await ask(batch(MAX_BATCH, "enter")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert Crowd.inside == BATCH_CONCURRENCY
        Crowd.door.set()
    assert len(answers) == MAX_BATCH
    assert Crowd.most == BATCH_CONCURRENCY


async def test_a_failing_call_spoils_no_other(lines: io.StringIO) -> None:
    methods = ["get_data", "defect", "foobar", "subtract", "get_data"]
    answers = await ask(json.dumps([{"jsonrpc": "2.0", "method": name, "id": n} for n, name in enumerate(methods)]))
    assert [one.get("error", {}).get("code") for one in answers] == [None, -32603, -32601, -32602, None]


async def test_one_id_twice_is_two_calls() -> None:
    one = '{"jsonrpc": "2.0", "method": "get_data", "id": 1}'
    assert len(await ask(f"[{one}, {one}]")) == 2


# --------------------------------------------------------------------------------------------------------------------
# Whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
methods = st.sampled_from(["subtract", "sum", "get_data", "take", "limit", "rpc.invalid", "__init__", ""])
names = st.sampled_from(["text", "number", "first", "minuend"])
parameters = st.lists(st.integers(), max_size=6) | st.dictionaries(names, json_values)
requests = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "method": methods | json_values,
        "params": parameters | json_values,
        "id": st.integers() | st.text() | json_values,
        "more": json_values,
    },
)  # fmt: skip
texts = (requests | st.lists(requests, max_size=4) | json_values).map(lambda value: json.dumps(value).encode())


@given(st.binary() | texts)
@example(b'{"jsonrpc": "2.0", "method": "subtract", "params": {"self": 1, "request": 2, "_": 3, "/": 4}, "id": 1}')
@example(b'{"jsonrpc": "2.0", "method": "subtract", "params": [' + b"9" * 400 + b', 1], "id": 1}')
def test_any_bytes_are_answered_in_json_or_not_at_all(text: bytes) -> None:
    async def run() -> bytes | None:
        return await dispatch(text)

    answer = trio.run(run)
    if answer is None:
        return
    decoded = json.loads(answer.decode(), parse_constant=pytest.fail)
    for one in decoded if isinstance(decoded, list) else [decoded]:
        assert one["jsonrpc"] == "2.0"
        assert one.keys() in ({"jsonrpc", "result", "id"}, {"jsonrpc", "error", "id"})
        if "error" in one:
            assert code(one) in (-32700, -32600, -32601, -32602, -32003, -32005)
