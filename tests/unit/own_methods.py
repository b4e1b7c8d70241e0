"""A table of methods for tests of the dispatcher, and ways to ask it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from hypothesis import strategies as st

from fabstir_client.api.errors import DialFailed, LimitExceeded
from fabstir_client.api.types import Params
from fabstird.config import ApiConfig, Config
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p.node import Node
from fabstird.p2p.peers.book import Book
from fabstird.rpc.access import Caller, Grant
from fabstird.rpc.bridge import Bridge
from fabstird.rpc.dispatch import Call, Dispatcher, Method
from fabstird.rpc.services import Services, ipc_group_grant
from fabstird.rpc.tokens import Tokens

MAX_BATCH = 50
SECRET = "the text of an exception"


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
    PAYLOADS: ClassVar[tuple[str, ...]] = ("text",)
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


async def half_a_character(_: Call, __: Nothing) -> str:
    return "\ud800"


def half_a_character_at_once(_: Call, __: Nothing) -> list[str]:
    return ["\udfff"]


async def error_with_half_a_character(_: Call, __: Nothing) -> None:
    raise DialFailed("cannot connect", errors={"\ud800": "refused"})


async def without_end(_: Call, __: Nothing) -> list[Any]:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    return nest


async def limit(_: Call, __: Nothing) -> None:
    raise LimitExceeded("there are too many", limit=1, current=1, configKey="connections.max")


async def limits(call: Call, params: Nothing) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, call, params)
        nursery.start_soon(limit, call, params)


async def limit_and_defect(call: Call, params: Nothing) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, call, params)
        nursery.start_soon(defect, call, params)


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
    Method("half_a_character", Nothing, str, "", half_a_character, changes=True),
    Method("half_a_character_at_once", Nothing, list[str], "", half_a_character_at_once),
    Method("error_with_half_a_character", Nothing, None, "", error_with_half_a_character),
    Method("without_end", Nothing, list[Any], "", without_end),
    Method("limits", Nothing, None, "", limits),
    Method("limit_and_defect", Nothing, None, "", limit_and_defect),
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
    tokens = Tokens(Path("never written"), "no token of anybody", 0)
    caller = Caller("ipc", grant or Grant("admin", "the test"), uid=1000, pid=4711)
    bridge, group = Bridge(node), ipc_group_grant(config.api.ipc_group_access)
    return Call(Services(config, events, counters, node, lambda: None, tokens, bridge, group), caller)


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
