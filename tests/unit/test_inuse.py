"""Idle connections are asked now and then, by a clock that is moved by hand."""

from __future__ import annotations

from typing import Any, cast

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstird.p2p.fence import Fence
from fabstird.p2p.host.host import Host
from fabstird.p2p.peers.keepalive import EARLIEST, RECONSIDER, keep_in_use

INTERVAL = 40.0


class Idle:
    def __init__(self, peer_id: str, used: float) -> None:
        self.peer_id = peer_id
        self.used = used
        self.is_closed = False
        self.streams: tuple[object, ...] = ()
        self.asked: list[float] = []


class Links:
    """What `keep_in_use` uses of the host."""

    def __init__(self, count: int, used: float = 0.0) -> None:
        self.up = [Idle(f"peer {number}", used) for number in range(count)]
        self.fence = Fence()

    def links(self) -> list[Any]:
        return list(self.up)

    async def identify_again(self, link: Idle) -> None:
        link.asked.append(trio.current_time())
        await trio.sleep(0.5)  # a slow answer, which holds up nobody else
        link.used = trio.current_time()


async def run(clock: MockClock, host: Links, interval: list[float], seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_in_use, cast(Host, host), lambda: interval[0])
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await wait_all_tasks_blocked()
            clock.jump(0.1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_nobody_is_left_alone_for_longer_than_the_interval_nor_asked_much_sooner(mock_clock: MockClock) -> None:
    host = Links(50, trio.current_time())
    began = trio.current_time()
    await run(mock_clock, host, [INTERVAL], 4 * INTERVAL)
    for link in host.up:
        used = [began, *(at + 0.5 for at in link.asked)]
        pauses = [at - since for at, since in zip(link.asked, used, strict=False)]
        assert len(pauses) >= 4
        assert INTERVAL / 2 < min(pauses) <= max(pauses) <= INTERVAL


async def test_those_that_came_together_are_asked_at_different_times(mock_clock: MockClock) -> None:
    host = Links(200, trio.current_time())
    await run(mock_clock, host, [INTERVAL], 3 * INTERVAL)
    times = sorted(at for link in host.up for at in link.asked[-1:])
    assert times[-1] - times[0] > INTERVAL / 4
    assert max(times.count(at) for at in times) <= 20, "in one turn"


async def test_what_is_in_use_or_gone_is_left_alone(mock_clock: MockClock) -> None:
    host = Links(4, trio.current_time())
    host.up[0].streams = (object(),)
    host.up[1].is_closed = True
    host.up[2].used += EARLIEST * INTERVAL
    await run(mock_clock, host, [INTERVAL], INTERVAL)
    assert [len(link.asked) for link in host.up] == [0, 0, 0, 1]


async def test_a_newcomer_waits_no_longer_than_the_interval(mock_clock: MockClock) -> None:
    host = Links(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, mock_clock, host, [INTERVAL], 2 * INTERVAL)
        await trio.sleep(1)
        newcomer = Idle("newcomer", trio.current_time())
        host.up.append(newcomer)
    assert newcomer.asked[0] <= 1 + INTERVAL


async def test_nobody_is_asked_while_it_is_switched_off(mock_clock: MockClock) -> None:
    host = Links(1)
    interval = [0.0]
    await run(mock_clock, host, interval, 100)
    assert host.up[0].asked == []
    interval[0] = 10.0
    await run(mock_clock, host, interval, 10 + RECONSIDER)
    assert host.up[0].asked
