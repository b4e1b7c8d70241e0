"""JSON-RPC 2.0 on trio: parameters, calls that fail, and batches."""

from __future__ import annotations

import io
import json
import socket
import sys
from typing import Any

import pytest
import trio
import trio.testing

from fabstir_client.api.types import NoParams
from fabstird.api.sockets import Outbox
from fabstird.config import Config, NodeConfig
from fabstird.log import logger as log
from fabstird.rpc import batches
from fabstird.rpc.batches import CONCURRENCY
from fabstird.rpc.dispatch import Dispatcher, Method
from tests.unit.own_methods import MAX_BATCH, METHODS, SECRET, Crowd, ask, call, code, notified, request

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
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The log as it is written, level debug."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure("debug", "json")
    return written


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


UNENCODABLE = ("half_a_character", "half_a_character_at_once", "error_with_half_a_character", "without_end")


@pytest.mark.parametrize("method", UNENCODABLE)
async def test_what_cannot_be_encoded_is_the_failure_of_its_call_alone(lines: io.StringIO, method: str) -> None:
    into = call()
    single = await request(method)
    assert (code(single), single["error"]["data"].keys()) == (-32603, {"code", "retryable", "logId"})
    text = [{"jsonrpc": "2.0", "method": one, "id": one} for one in ("get_data", method)]
    well, badly = await ask(json.dumps(text), into)
    assert (well["result"], code(badly), badly["id"]) == (["hello", 5], -32603, method)
    written = [json.loads(line) for line in lines.getvalue().splitlines()]
    logged = [line["log_id"] for line in written if line["event"] == "a method failed"]
    assert logged == [answer["error"]["data"]["logId"] for answer in (single, badly)]
    assert into.services.counters.calls[method, "INTERNAL_ERROR"] == 1


async def test_errors_of_the_parts_of_a_call_are_its_own() -> None:
    assert code(await request("limits")) == -32005
    assert code(await request("limit_and_defect")) == -32603


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
    with trio.fail_after(60):
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
        assert Crowd.inside == CONCURRENCY
        Crowd.door.set()
    assert len(answers) == MAX_BATCH
    assert Crowd.most == CONCURRENCY


class Passes(trio.abc.Instrument):
    """How many calls of ``method`` began in each turn of the loop."""

    def __init__(self) -> None:
        self.most = self.now = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most, self.now = max(self.most, self.now), 0

    def call(self, *_: object) -> None:
        self.now += 1


async def test_batches_take_turns_with_calls_that_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 batches at once, 4,096 calls were carried out before anybody else was answered."""
    passes = Passes()
    monkeypatch.setattr(batches, "SLICE", 0.0)
    trio.lowlevel.add_instrument(passes)
    try:
        dispatcher = Dispatcher([Method("quick", NoParams, None, "", passes.call)])
        own = call()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(dispatcher.dispatch, batch(MAX_BATCH, "quick").encode(), own)
    finally:
        trio.lowlevel.remove_instrument(passes)
    assert passes.most == 1


async def test_a_batch_that_ends_before_its_turn_leaves_the_others_of_its_connection_what_they_share() -> None:
    """Their account went with it, and the next batch began as if there were none."""
    turns = Dispatcher(METHODS)._batches
    ours, theirs = socket.socketpair()
    with ours, theirs, trio.fail_after(60):
        own = call()
        own.sender = Outbox(trio.socket.from_stdlib_socket(ours))
        async with turns.begun(own) as first:
            with trio.move_on_after(0):
                async with turns.begun(own):
                    raise AssertionError("the first has the turn")
            first.end_turn()
            async with turns.begun(own) as next_one:
                assert next_one.share is first.share


async def test_a_failing_call_spoils_no_other(lines: io.StringIO) -> None:
    methods = ["get_data", "defect", "foobar", "subtract", "get_data"]
    answers = await ask(json.dumps([{"jsonrpc": "2.0", "method": name, "id": n} for n, name in enumerate(methods)]))
    assert [one.get("error", {}).get("code") for one in answers] == [None, -32603, -32601, -32602, None]


async def test_one_id_twice_is_two_calls() -> None:
    one = '{"jsonrpc": "2.0", "method": "get_data", "id": 1}'
    assert len(await ask(f"[{one}, {one}]")) == 2
