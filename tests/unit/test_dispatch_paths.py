"""A call that goes past jsonrpcserver gets what jsonrpcserver would have made of it: byte for byte, whatever it is."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabstird.rpc.dispatch import LATER, Call, Dispatcher, Method
from tests.unit.own_methods import (
    METHODS,
    Everything,
    Nothing,
    Numbers,
    Subtract,
    call,
    texts,
)


class Clumsy:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


def subtract(_: Call, params: Subtract) -> int:
    return params.minuend - params.subtrahend


def take(_: Call, params: Everything) -> Any:
    return {"text": params.text, "number": params.number, "names": params.names, "byName": params.by_name}


def get_data(_: Call, __: Nothing) -> list[Any]:
    return ["hello", 5]


def sum_up(_: Call, params: Numbers) -> int:
    return params.first + params.second + params.third


def defect(_: Call, __: Nothing) -> None:
    raise ValueError(Clumsy())


PLAIN = [
    Method("plain.subtract", Subtract, int, "", subtract),
    Method("plain.take", Everything, dict[str, Any], "", take, changes=True),
    Method("plain.get_data", Nothing, list[Any], "", get_data),
    Method("plain.sum", Numbers, int, "", sum_up),
    Method("plain.defect", Nothing, None, "", defect),
]
WAITING = [method for method in METHODS if method.name not in ("forever", "wait", "enter", "without_end")]
DISPATCHER = Dispatcher([*WAITING, *PLAIN])
LOG_ID = re.compile(rb'"logId":"[0-9a-f]{16}"')


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """The tracebacks of so many defects take a minute to be made pretty."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    yield
    structlog.configure(**before)


def both(text: bytes) -> tuple[bytes | None, bytes | None]:
    """The answers by the short way and by jsonrpcserver, what differs by nature left out; the calls that they counted
    must be the same."""
    answers: list[bytes | None] = []
    counted: list[Counter[Any]] = []
    for way in (_short, DISPATCHER.dispatch_any):
        made = call()
        answer = trio.run(way, text, made)
        answers.append(answer and LOG_ID.sub(b"", answer))
        counted.append(Counter(made.services.counters.calls))
    assert counted[0] == counted[1]
    return answers[0], answers[1]


async def _short(text: bytes, made: Call) -> bytes | None:
    answer = DISPATCHER.at_once(text, made)
    if answer is not LATER:
        return answer
    assert not made.services.counters.calls, "something was done"
    return await DISPATCHER.dispatch(text, made)


# Requests as text, so that keys come twice, numbers in every spelling, and strings with escapes.
keys = st.sampled_from(["jsonrpc", "method", "id", "params", "param", "\\u0069d", "meth\\u006fd", "", "ID"])
spelled = st.sampled_from(
    """ "2.0" "2.\\u0030" 2.0 "1.0" "plain.subtract" "plain.take" "plain.get_data" "plain.sum" "plain.defect" "subtract"
    "get_data" "take" "limit" "defect" "rpc.invalid" "nothing" "" null true 0 -0 1 1.0 1e0 1e2 -1 18446744073709551616
    1e400 NaN "\\ud800" "\\u0000" "ä" [] {} [1] [1,2] [3,null] [1,2,3] [[],{}] {"minuend":3,"subtrahend":1}
    {"minuend":3,"minuend":4,"subtrahend":1.0} {"text":"x"} {"text":"x","number":null} {"text":null} ["x",1,["y"]]
    {"text":"x","byName":{"a":1,"a":2}} {"first":1e0} {"first":99999999999999999999} {"first":1,"self":2} [1,""" ""
    .replace("\n", " ")
    .split()
)  # fmt: skip
likely = {
    "jsonrpc": st.just('"2.0"') | spelled,
    "method": st.sampled_from([f'"{method.name}"' for method in [*WAITING, *PLAIN]]) | spelled,
    "id": st.sampled_from(["1", '"x"', "null", "-5"]) | spelled,
    "params": spelled,
}
members = keys.flatmap(lambda key: st.tuples(st.just(key), likely.get(key, spelled)))
right = st.permutations(list(likely)).flatmap(
    lambda order: st.tuples(*[st.tuples(st.just(key), likely[key]) for key in order]).map(list)
)
space = st.sampled_from(["", " ", "\n", "\t \r"])


@st.composite
def written(draw: st.DrawFn) -> bytes:
    parts = draw(right | st.lists(members, max_size=6))
    if draw(st.booleans()):
        parts = parts + draw(st.lists(members, max_size=2))
    blank = draw(space)
    inner = f"{blank},{blank}".join(f'"{key}"{blank}:{value}' for key, value in parts)
    after = draw(st.sampled_from(["", "", "", " ", "x", ",", "{}", "\0"]))
    return f"{blank}{{{inner}}}{after}".encode()


@settings(max_examples=700)
@given(written() | texts | st.binary(max_size=20))
@example(b'{"jsonrpc":"2.0","id":1,"method":"plain.get_data","params":' + b"[" * 5000 + b"]" * 5000 + b"}")
@example(b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"plain.get_data"}')
@example(b'{"jsonrpc":"2.0","id":1,"method":"plain.get_data","method":"plain.sum"}')
@example(b'{"jsonrpc":"2.0","id":1.0,"method":"plain.get_data"}')
@example(b'{"jsonrpc":"1.0","id":1,"method":"plain.get_data"}')
@example(b'{"jsonrpc":"2.0","id":1,"method":"plain.\xff"}')
@example(b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"plain.get_data"}')
def test_both_ways_answer_alike(text: bytes) -> None:
    short, long = both(text)
    assert short == long


@pytest.mark.parametrize("method", [*WAITING, *PLAIN], ids=lambda method: method.name)
def test_every_kind_of_single_call_is_answered_alike(method: Method) -> None:
    params = ["", *(f',"params":{one}' for one in ("[]", "{}", "[1]", "[1,2]", '{"text":"x"}', '{"x":1}', "[null]"))]
    for identity, one in itertools.product(("", ',"id":1', ',"id":null', ',"id":"x"'), params):
        short, long = both(f'{{"jsonrpc":"2.0","method":"{method.name}"{identity}{one}}}'.encode())
        assert short == long
        assert (short is None) == (identity == "")


batches = st.lists(written() | texts, min_size=1, max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]")


@settings(max_examples=300)
@given(batches)
@example(b"[]")
@example(b"[1]")
@example(b" [{}]")
@example(b'[{"jsonrpc":"2.0","method":"plain.get_data"}]')
@example(b'[{"jsonrpc":"2.0","method":"plain.get_data","id":1},{"jsonrpc":"2.0","method":"get_data","id":null}]')
@example(b'[{"jsonrpc":"2.0","method":"plain.sum","id":1},{"jsonrpc":"2.0","method":"nothing","id":2}]')
@example(b'[{"jsonrpc":"2.0","method":"plain.defect","id":1},{"jsonrpc":"2.0","method":"plain.sum","id":"x"}]')
@example(b'[{"jsonrpc":"2.0","method":"plain.take","params":["x"],"id":1},{"jsonrpc":"2.0","method":"take"}]x')
def test_both_ways_answer_batches_alike(text: bytes) -> None:
    short, long = both(text)
    assert short == long


async def test_a_short_batch_of_plain_functions_is_answered_by_the_reader_while_its_caller_is_there() -> None:
    def text(*names: str) -> bytes:
        return b"[" + b",".join(b'{"jsonrpc":"2.0","id":7,"method":"%s"}' % name.encode() for name in names) + b"]"

    async def answer(text: bytes, *, there: bool = True) -> object:
        made = call()
        found = await DISPATCHER.dispatch_plain_batch(text, made, lambda: there)
        assert bool(made.services.counters.calls) == (found is not LATER)
        return found

    assert await answer(text("plain.get_data")) == b'[{"jsonrpc":"2.0","result":["hello",5],"id":7}]'
    assert await answer(b'[{"jsonrpc":"2.0","method":"plain.get_data"}]') is None
    assert await answer(text("plain.get_data"), there=False) is LATER
    for left in (text("plain.get_data", "get_data"), text("nothing"), text(), b"[1]", text(*["plain.get_data"] * 65)):
        assert await answer(left) is LATER


def test_only_a_plain_function_is_answered_at_once() -> None:
    def text(name: str) -> bytes:
        return b'{"jsonrpc":"2.0","id":7,"method":"%s"}' % name.encode()

    assert DISPATCHER.at_once(text("plain.get_data"), call()) == b'{"jsonrpc":"2.0","result":["hello",5],"id":7}'
    assert DISPATCHER.at_once(text("plain.get_data").replace(b',"id":7', b""), call()) is None
    for left in (text("get_data"), text("nothing"), b"[" + text("plain.get_data") + b"]", b"", b"{", b"1"):
        assert DISPATCHER.at_once(left, call()) is LATER
