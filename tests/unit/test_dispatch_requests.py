"""What the dispatcher makes of any text: the examples of the specification, what is no request, and whatever comes."""

from __future__ import annotations

import json
from typing import Any

import jsonrpcserver
import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from fabstird.config import ApiConfig, Config
from fabstird.rpc import dispatch as dispatching
from fabstird.rpc.dispatch import Dispatcher
from tests.unit.own_methods import METHODS, ask, call, code, dispatch, notified, request, texts

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
        told = json.loads(text)
        identity = told.get("id") if isinstance(told, dict) else None
        readable = isinstance(identity, str | int) and not isinstance(identity, bool)
        assert (code(answer), answer["id"]) == (-32600, identity if readable else None)
        assert answer["error"]["message"].startswith("Invalid Request: ")


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
    assert (code(answer), answer["id"]) == (-32003, None if text.startswith(b"[") else 1)
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
        with trio.fail_after(60):
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


async def test_a_batch_begins_its_calls_in_order_and_says_of_each_whether_it_was_carried_out() -> None:
    into = call(Config(api=ApiConfig(max_answer_bytes=400)))
    text = '{"jsonrpc": "2.0", "method": "take", "params": ["%s"], "id": %d}'
    answers = await ask("[" + ",".join(text % ("x" * 100, number) for number in range(60)) + "]", into)
    assert ["result" in answer for answer in answers] == [True] * 2 + [False] * 58
    idle = ["not carried out" in answer["error"]["message"] for answer in answers[2:]]
    assert idle == sorted(idle), "those that come last"
    assert sum(idle) > 50, "the errors of others do not make it untrue"


async def test_deep_nesting_that_can_be_parsed_is_a_wrong_parameter() -> None:
    text = '{"jsonrpc": "2.0", "method": "subtract", "id": 1, "params": [' + "[" * 200 + "]" * 200 + ", 1]}"
    assert code(await ask(text)) == -32602


async def test_of_duplicate_keys_the_last_counts() -> None:
    text = '{"jsonrpc": "2.0", "method": "subtract", "id": 1, "params": [1, 1], "params": [3, 1], "id": 2}'
    assert await ask(text) == {"jsonrpc": "2.0", "result": 2, "id": 2}


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
