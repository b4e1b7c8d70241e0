"""Calls drawn from the OpenRPC document, against a live daemon: whatever they hold, no internal error, no ERROR in the
log, and every answer as documented.

A few seconds of it in every run; `FABSTIR_FUZZ_SECONDS` makes it longer: a minute in CI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from tests.faults.chance import seed
from tests.harness import Ipc, Process, ipc, process
from tests.harness.schema import Json, document

SECONDS = float(os.environ.get("FABSTIR_FUZZ_SECONDS") or 5)
ANSWER = 60.0  # seconds for any call
ROUND = 200  # calls drawn at a time
PEER = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
# It would end the daemon, or go on for too long: `connect` and `request` dial what they are given
SKIPPED = {"shutdown"}
LIKELY: dict[str, list[Any]] = {  # values that get past the first checks
    "peerId": [PEER],
    "target": [PEER, "192.0.2.0/24", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"],
    "address": [f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}", PEER, "/ip4/127.0.0.1/tcp/1"],
    "ip": ["192.0.2.1"],
    "cidr": ["192.0.2.0/24"],
    "subscription": ["s1", "s2"],
    "types": [["peer:connect"], ["p2p:started", "p2p:stopped"]],
    "protocol": ["/fuzz/1.0.0", "/ipfs/ping/1.0.0"],
    "data": ["", "aGVsbG8="],
    "timeout": [1, 50],
    "after": [0, 1],
    "name": ["fuzz"],
}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(),
    "integer": st.integers(-(2**65), 2**65) | st.integers(-2, 100000),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "null": st.none(),
    "object": st.dictionaries(st.text(max_size=5), ANY_JSON, max_size=3),
}


def from_schema(schema: Json) -> st.SearchStrategy[Any]:
    """What fits a schema, as far as msgspec writes them."""
    if "$ref" in schema:
        return from_schema(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return st.one_of([from_schema(one) for one in schema[several]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "array":
        return st.lists(from_schema(schema["items"]) if "items" in schema else ANY_JSON, max_size=3)
    if "properties" in schema:
        return st.fixed_dictionaries({}, optional={key: from_schema(one) for key, one in schema["properties"].items()})
    return PLAIN.get(schema.get("type", ""), ANY_JSON)


def values(param: Json) -> st.SearchStrategy[Any]:
    """What fits the parameter's schema, what is likely to be meant, and now and then anything."""
    fitting = from_schema(param["schema"])
    likely = st.sampled_from(LIKELY[param["name"]]) if param["name"] in LIKELY else fitting
    drawn: st.SearchStrategy[Any] = st.one_of(fitting, likely, likely, ANY_JSON)
    return drawn.map(soon) if param["name"] == "timeout" else drawn


def soon(timeout: Any) -> Any:
    """A time that the daemon would really wait is a short one here."""
    return 50 if isinstance(timeout, int | float) and 200 < timeout < 2**53 else timeout


@st.composite
def requests(draw: st.DrawFn) -> Json:
    method = draw(st.sampled_from([one for one in document()["methods"] if one["name"] not in SKIPPED]))
    given_names = [one for one in method["params"] if one["required"] or draw(st.booleans())]
    params: Any = {one["name"]: draw(values(one)) for one in given_names}
    shape = draw(st.sampled_from(["by name", "by name", "by position", "unknown", "none"]))
    if shape == "by position":
        params = [draw(values(one)) for one in method["params"]]
    elif shape == "unknown":
        params[draw(st.text(max_size=8))] = draw(ANY_JSON)
    request = {"jsonrpc": "2.0", "method": method["name"], "params": params}
    if shape == "none":
        del request["params"]
    return request


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Process]:
    """A daemon that gives up quickly whatever it is asked to do."""
    settings = {
        "node.dial_timeout": 200,
        "node.request_timeout": 500,
        "node.max_retries": 0,
        "log.level": "warning",
    }
    with process(settings) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)  # fails where the log has an ERROR


async def ask(connection: Ipc, request: Json) -> None:
    with trio.fail_after(ANSWER):
        answer = await connection.answer(request["method"], request.get("params"))
    assert answer.get("error", {}).get("code") != -32603, f"{json.dumps(request)}: {answer}"
    connection.notifications.clear()


async def test_calls_drawn_from_the_document(fuzzed: Process) -> None:
    number, rounds = seed(), 0
    deadline = trio.current_time() + SECONDS
    async with ipc(fuzzed) as connection:

        async def one_call(request: Json) -> None:
            if trio.current_time() < deadline:
                await ask(connection, request)

        def drive(number: int) -> None:
            @hypothesis.seed(number)
            @hypothesis.settings(
                max_examples=ROUND,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],  # shrinking a failure on a live daemon would take minutes
                suppress_health_check=list(HealthCheck),
            )
            @given(requests())
            def one(request: Json) -> None:
                trio.from_thread.run(one_call, request)

            one()

        while trio.current_time() < deadline:
            await trio.to_thread.run_sync(drive, number + rounds)
            rounds += 1
        metrics = await connection.call("metrics")
    print(f"{rounds} rounds of {ROUND} calls; {metrics['eventsPublished']} events")
    assert rounds > 0
