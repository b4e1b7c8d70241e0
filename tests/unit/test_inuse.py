"""Idle connections are asked now and then, by a clock that is moved by hand."""

from __future__ import annotations

from typing import Any, cast

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstird.p2p.fence import Fence
from fabstird.p2p.host.host import Host
from fabstird.p2p.peers.keepalive import RECONSIDER, keep_in_use


class Idle:
    def __init__(self) -> None:
        self.is_closed = False
        self.streams: tuple[object, ...] = ()
        self.asked: list[float] = []


class Links:
    """What `keep_in_use` uses of the host."""

    def __init__(self, count: int) -> None:
        self.up = [Idle() for _ in range(count)]
        self.fence = Fence()

    def links(self) -> list[Any]:
        return list(self.up)

    async def identify_again(self, link: Idle) -> None:
        link.asked.append(trio.current_time())
        await trio.sleep(5)  # a slow answer, which holds up nobody else


async def run(clock: MockClock, host: Links, interval: list[float], seconds: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_in_use, cast(Host, host), lambda: interval[0])
        for _ in range(seconds):
            await wait_all_tasks_blocked()
            clock.jump(1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_each_is_asked_once_a_round_and_never_all_at_once(mock_clock: MockClock) -> None:
    host = Links(4)
    began = trio.current_time()
    await run(mock_clock, host, [40.0], 80)
    assert [[round(at - began) for at in link.asked] for link in host.up] == [[10, 50], [20, 60], [30, 70], [40, 80]]


async def test_what_is_in_use_or_gone_is_left_alone(mock_clock: MockClock) -> None:
    host = Links(3)
    host.up[0].streams = (object(),)
    host.up[1].is_closed = True
    await run(mock_clock, host, [30.0], 30)
    assert [len(link.asked) for link in host.up] == [0, 0, 1]


async def test_a_newcomer_waits_no_longer_than_twice_the_interval(mock_clock: MockClock) -> None:
    host = Links(1)
    newcomer = Idle()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, mock_clock, host, [40.0], 81)
        await trio.sleep(1)
        host.up.append(newcomer)
    assert newcomer.asked
    assert newcomer.asked[0] - host.up[0].asked[0] <= 40


async def test_nobody_is_asked_while_it_is_switched_off(mock_clock: MockClock) -> None:
    host = Links(1)
    interval = [0.0]
    await run(mock_clock, host, interval, 100)
    assert host.up[0].asked == []
    interval[0] = 10.0
    await run(mock_clock, host, interval, 10 + int(RECONSIDER))
    assert host.up[0].asked
