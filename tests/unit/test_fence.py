"""The fence: what leaves a task ends there, is counted and logged; what was cancelled stays cancelled."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fabstird.log import logger as log
from fabstird.p2p.fence import PAUSE, Fence


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure("info", "json")
    return written


async def fail(error: BaseException | None = None) -> None:
    await trio.lowlevel.checkpoint()
    raise error or ZeroDivisionError("secret of a peer")


async def test_whatever_leaves_a_task_ends_there_and_is_counted() -> None:
    fence = Fence()
    async with trio.open_nursery() as nursery:
        for error in (ValueError(), ExceptionGroup("", [KeyError()]), trio.BrokenResourceError(), RecursionError()):
            fence.spawn(nursery, "stream", fail, error)
        fence.spawn(nursery, "dial", fail)
    assert {kind: count for kind, count in fence.caught.items() if count} == {"stream": 4, "dial": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_the_end_of_the_process_is_not_stopped(error: BaseException) -> None:
    fence = Fence()
    with pytest.raises(type(error)):
        await fence.run("stream", fail, error)
    assert fence.caught.total() == 0


async def test_what_is_expected_goes_on() -> None:
    fence = Fence()
    with pytest.raises(KeyError), fence.around("dial", but=LookupError):
        raise KeyError
    with fence.around("dial", but=LookupError):
        raise ValueError
    assert fence.caught["dial"] == 1


async def test_a_cancelled_task_in_which_something_fails_is_cancelled_all_the_same() -> None:
    """The nursery of such a task raises a group of both, which no ``except Exception`` stops."""
    fence = Fence()
    ended = False

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def both() -> None:
        nonlocal ended
        try:
            async with trio.open_nursery() as inner:
                inner.start_soon(fail_when_cancelled)
                await trio.sleep_forever()
        finally:
            ended = True

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            fence.spawn(nursery, "stream", both)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert ended
    assert fence.caught["stream"] == 1


async def test_a_loop_that_fails_is_begun_again(mock_clock: MockClock) -> None:
    fence, begun = Fence(), list[float]()

    async def loop(name: str) -> None:
        begun.append(trio.current_time())
        if len(begun) < 4:
            raise ValueError(name)

    mock_clock.autojump_threshold = 0
    async with trio.open_nursery() as nursery:
        fence.keep(nursery, "dht", loop, "x")
    assert [round(time - begun[0], 3) for time in begun] == [0, PAUSE, 2 * PAUSE, 3 * PAUSE]
    assert fence.caught["dht"] == 3


@pytest.mark.parametrize("starts", [False, True])
async def test_what_a_task_raises_before_it_has_started_is_its_callers(starts: bool) -> None:
    fence = Fence()

    async def task(task_status: trio.TaskStatus[str]) -> None:
        if starts:
            task_status.started("up")
        raise ZeroDivisionError

    value: Any = None
    try:
        async with trio.open_nursery() as nursery:
            value = await fence.start(nursery, "connection", task)
    except* ZeroDivisionError:
        assert not starts
    assert value == ("up" if starts else None)
    assert fence.caught["connection"] == (1 if starts else 0)


async def test_each_kind_is_logged_once_a_minute_with_its_traceback(lines: io.StringIO) -> None:
    fence = Fence()
    for _ in range(100):
        await fence.run("stream", fail)
        await fence.run("mdns", fail)
    written = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["level"], line["kind"]) for line in written] == [("error", "stream"), ("error", "mdns")]
    assert all("in fail" in line["exception"] and "ZeroDivisionError" in line["exception"] for line in written)
    assert fence.caught["stream"] == 100
