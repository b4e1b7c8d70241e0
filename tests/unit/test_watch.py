"""The watch over WebSockets: pings, grants that end, and a stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstird.api.watch import Watch
from fabstird.p2p.fence import Fence
from fabstird.rpc.access import Grant

INTERVAL = 30.0


class Socket:
    def __init__(self, *, gone: bool = False) -> None:
        self.pings: list[float] = []
        self.ends: list[tuple[int, str]] = []
        self.gone = gone

    def ping(self) -> None:
        self.pings.append(trio.current_time())
        if self.gone:
            raise trio.BrokenResourceError

    def end(self, code: int, why: str) -> None:
        self.ends.append((code, why))


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[Watch, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        yield Watch(nursery, Fence(), INTERVAL), nursery
        nursery.cancel_scope.cancel()


async def test_each_is_pinged_when_it_has_been_there_so_long(autojump_clock: MockClock) -> None:
    grant, early, late, gone, left = Grant("read", "a test"), Socket(), Socket(), Socket(gone=True), Socket()
    async with watching() as (watch, _):
        await trio.sleep(7)  # it has nobody to ping
        begun = trio.current_time()
        with watch.over(early, grant), watch.over(gone, grant):
            with watch.over(left, grant):
                await trio.sleep(10)
            with watch.over(late, grant):
                await trio.sleep(2.5 * INTERVAL)
        await trio.sleep(2 * INTERVAL)
    assert [at - begun for at in early.pings] == [30, 60]
    assert [at - begun for at in late.pings] == [40, 70]
    assert [at - begun for at in gone.pings] == [30]
    assert left.pings == []


async def test_who_has_a_grant_is_closed_when_it_ends(autojump_clock: MockClock) -> None:
    revoked, other = Grant("read", "the token x"), Grant("read", "the token y")
    sockets = [Socket() for _ in range(3)]
    async with watching() as (watch, nursery), trio.open_nursery():
        with ExitStack() as stack:
            for socket, grant in zip(sockets, (revoked, revoked, other), strict=True):
                stack.enter_context(watch.over(socket, grant))
            with watch.over(gone := Socket(), revoked):
                pass
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 3  # the pings', and one for each grant
            revoked.withdraw("was revoked")
            await wait_all_tasks_blocked()
            ends = [(1008, "the token x was revoked")]
            assert [socket.ends for socket in (*sockets, gone)] == [ends, ends, [], []]
            with watch.over(Socket(), revoked):  # its task has not begun yet
                pass
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1


async def test_a_stop_closes_them_and_who_comes_later(autojump_clock: MockClock) -> None:
    grant, there, late = Grant("read", "a test"), Socket(), Socket()
    async with watching() as (watch, _):
        with watch.over(there, grant):
            watch.stop("the daemon is stopping")
            with watch.over(late, grant):
                await wait_all_tasks_blocked()
    assert there.ends == late.ends == [(1001, "the daemon is stopping")]


async def test_who_goes_as_its_grant_ends_is_no_defect(autojump_clock: MockClock) -> None:
    """The task that waits for the grant looked for it among those that somebody holds."""
    fence, grant = Fence(), Grant("read", "the token x")
    async with trio.open_nursery() as nursery:
        watch = Watch(nursery, fence, INTERVAL)
        with watch.over(Socket(), grant):
            await wait_all_tasks_blocked()
            grant.withdraw("was revoked")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert fence.caught["caller"] == 0
