"""A thousand subscribers: each is told everything in order, and those who do not read are no trouble to the others."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.harness import Connection, Json, Process, daemon, ipc, process, until, ws

CROWD = 1000
DEAD = [f"/ip4/127.0.0.1/tcp/1/p2p/{'0' * 40}{number}" for number in range(20)]  # peer ids that cannot be decoded
PATIENCE = 300.0  # seconds, for a machine that is busy with other things
OPENING = 40  # connections that are opened at a time
STREAMS = {"ipc": ipc, "ws": ws}
LARGE = ["/ip4/127.0.0.1/tcp/1/p2p/" + "0" * 7000]  # events of 7 KB, which no bound cuts


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > CROWD + 200, "the tests need some 1,200 file descriptors"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def hall() -> Iterator[Process]:
    settings = {"node.auto_start": False, "node.max_retries": 0, "events.heartbeat": 600_000, "log.level": "warning"}
    with process(settings) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)


async def numbers(connection: Connection, last: int) -> list[int]:
    """The entries that a subscriber is told of, up to entry ``last``."""
    found: list[int] = []
    while not found or found[-1] < last:
        params = (await connection.notification("event"))["params"]
        assert params["subscription"] == "s1"
        found.append(params["seq"])
    return found


@pytest.mark.parametrize("transport", ["ipc", "ws"])
async def test_a_thousand_subscribers_are_told_everything_in_order(hall: Process, transport: str) -> None:
    told: list[list[int]] = []
    opening = trio.Semaphore(OPENING)
    begun = trio.Event()
    ready = first = last = 0

    async def subscriber() -> None:
        nonlocal ready
        await opening.acquire()
        async with STREAMS[transport](hall) as connection:
            assert (await connection.call("subscribe"))["head"] == first
            opening.release()
            ready += 1
            await begun.wait()
            told.append(await numbers(connection, last))

    with trio.fail_after(PATIENCE):
        async with ipc(hall) as caller, trio.open_nursery() as nursery:
            first = (await caller.call("status"))["head"]
            for _ in range(CROWD):
                nursery.start_soon(subscriber)
            await until(lambda: ready == CROWD, within=PATIENCE)
            await caller.call("start", [{"bootstrapNodes": DEAD}])
            await until_failed(caller, first)
            await caller.call("stop")
            last = (await caller.call("status"))["head"]
            begun.set()
    assert last - first >= 2 * len(DEAD) + 2
    assert told == [list(range(first + 1, last + 1))] * CROWD


async def until_failed(caller: Connection, after: int) -> None:
    """Wait until every dead bootstrap node has been given up."""
    failed = 0
    while failed < len(DEAD):
        found = await caller.call("events", {"after": after, "types": ["connection:failed"], "timeout": 1000})
        failed += len(found["events"])
        after = found["events"][-1]["seq"] if found["events"] else after


def accounted(message: Json, at: int) -> int:
    """Where a subscriber stands after a message that must follow on ``at``: nothing is left out in silence."""
    params = message["params"]
    if message["method"] == "lagged":
        assert params["resume"] == at + params["missed"] + 1
        return int(params["resume"]) - 1
    assert (message["method"], params["seq"]) == ("event", at + 1)
    return at + 1


def resident(running: Process) -> int:
    return int(Path(f"/proc/{running.pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def test_those_who_do_not_read_lag_and_neither_delay_nor_hold_much() -> None:
    """Half of forty do not read while megabytes are published to each. Then two of them do, and are told what they have
    missed; the others never do, and the daemon stops in time all the same."""
    settings = {
        "node.auto_start": False,
        "node.bootstrap_nodes": LARGE,
        "node.max_retries": 10**9,
        "node.retry_delay": 0,
        "events.history": 50,
        "events.heartbeat": 600_000,
        "log.level": "error",
    }
    first = 0
    deaf: list[Connection] = []
    seen = [0] * 20

    async def reader(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with STREAMS["ws" if number % 2 else "ipc"](running) as connection:
            await connection.call("subscribe")
            task_status.started()
            seen[number] = first
            while True:
                seen[number] = accounted(await connection.notification(), seen[number])

    async def not_reading(number: int, *, task_status: trio.TaskStatus[Connection]) -> None:
        async with STREAMS["ws" if number % 2 else "ipc"](running) as connection:
            await connection.call("subscribe")
            task_status.started(connection)
            await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with daemon(settings) as running, trio.open_nursery() as others:
            async with ipc(running) as caller, trio.open_nursery() as readers:
                first = (await caller.call("status"))["head"]
                for number in range(len(seen)):
                    await readers.start(reader, number)
                    deaf.append(await others.start(not_reading, number))
                await caller.call("start")
                await until(lambda: min(seen) > first + 300, within=PATIENCE)
                before = resident(running)
                await until(lambda: min(seen) > first + 1500, within=PATIENCE)  # 8 MB more for each
                assert resident(running) - before < 20_000_000
                for connection in deaf[:2]:
                    at, lagged = first, 0
                    while lagged == 0 or at < first + 1500:
                        message = await connection.notification()
                        lagged += message["method"] == "lagged"
                        at = accounted(message, at)
                readers.cancel_scope.cancel()
            await running.stop()
            others.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------------------------
# Many texts in one write


async def test_many_calls_in_one_write_are_each_answered(hall: Process) -> None:
    """Those that wait and those that do not; more than may be in flight, and a caller that reads late."""
    calls = []
    for number in range(2000):
        method = (
            {"method": "events", "params": {"timeout": 1, "after": 0}} if number % 10 == 0 else {"method": "status"}
        )
        calls.append(json.dumps({"jsonrpc": "2.0", "id": number, **method}).encode())
    async with ipc(hall) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(connection.stream.send_all, b"\n".join(calls) + b"\n")
        answers = [await connection.receive() for _ in calls]
    assert sorted(answer["id"] for answer in answers) == list(range(2000))
    assert all("result" in answer for answer in answers)


async def test_a_subscription_among_many_calls_begins_after_its_reply(hall: Process) -> None:
    async with ipc(hall) as connection:
        texts: list[Any] = [{"method": "status"}] * 5 + [{"method": "subscribe", "params": {"after": 0}}]
        texts += [{"method": "start", "params": [{"bootstrapNodes": []}]}, {"method": "stop"}, {"method": "status"}]
        lines = [json.dumps({"jsonrpc": "2.0", "id": number, **text}).encode() for number, text in enumerate(texts)]
        await connection.stream.send_all(b"\n".join(lines) + b"\n")
        seen: list[Json] = []
        while not {5, 7} <= {message.get("id") for message in seen}:  # calls that wait are answered in any order
            seen.append(await connection.receive())
        reply = [message.get("id") for message in seen].index(5)
        assert not any("method" in message for message in seen[:reply])
        while not any(message.get("method") == "event" for message in seen):
            seen.append(await connection.receive())


async def test_a_subscription_that_ends_in_the_same_write_sends_nothing(hall: Process) -> None:
    async with ipc(hall) as connection:
        await connection.send_text(
            b'{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"after":0}}\n'
            b'{"jsonrpc":"2.0","id":2,"method":"unsubscribe","params":["s1"]}\n'
            b'{"jsonrpc":"2.0","id":3,"method":"status"}'
        )
        assert [(await connection.receive())["id"] for _ in range(3)] == [1, 2, 3]
        await connection.call("start", [{"bootstrapNodes": []}])
        await connection.call("stop")
        assert connection.notifications == []
