"""The node, stopped and started again in one daemon: the same peer, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.interop.daemon import Daemon, fabstird
from tests.support.waiting import until

CYCLES = 100
WARM_UP = 5
MEMORY = 10 * 1024 * 1024  # bytes that resident memory may differ by; issue 2, "Done when"


@dataclass(frozen=True)
class Held:
    """What the daemon's process holds. Tasks are told by itself, in its log, on SIGUSR1."""

    tasks: int
    descriptors: int
    threads: int


async def held(daemon: Daemon) -> Held:
    pid = daemon.process.pid
    daemon.log.clear()
    daemon.process.send_signal(signal.SIGUSR1)
    tree = await until(lambda: next((line for line in daemon.log if '"task tree"' in line), None))
    return Held(
        tasks=len(json.loads(tree)["tree"]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
    )


def resident(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def restart(daemon: Daemon) -> None:
    assert (await daemon.call("stop"))["state"] == "stopped"
    assert (await daemon.call("start"))["state"] == "started"


async def test_a_hundred_restarts_leave_nothing_behind() -> None:
    async with fabstird(bootstrap_nodes=[]) as daemon:
        for _ in range(WARM_UP):
            await restart(daemon)
        before, memory = await settled(daemon), resident(daemon)
        for _ in range(CYCLES):
            await restart(daemon)
        after = await until_same(daemon, before)
        assert after == before
        assert abs(resident(daemon) - memory) < MEMORY
        assert (await daemon.call("status"))["peerId"] == daemon.peer_id


async def test_restarts_with_a_connected_peer_leave_nothing_behind() -> None:
    """Each start connects to the other daemon, each stop disconnects: on both sides everything goes with it."""
    async with fabstird() as other, fabstird(bootstrap_nodes=[other.address("tcp")]) as daemon:
        await daemon.wait_event("peer:identify", peerId=other.peer_id)
        before, before_other = await settled(daemon), await settled(other)
        for count in range(2, 22):
            await restart(daemon)
            await daemon.wait_event("peer:identify", count=count, peerId=other.peer_id)
        assert await until_same(daemon, before) == before
        assert await until_same(other, before_other) == before_other
        assert len(other.found("peer:connect")) == 21
        await other.wait_event("peer:disconnect", count=20)
        assert len(other.found("peer:disconnect")) == 20


async def test_a_killed_daemon_comes_back_as_the_same_peer(tmp_path: Path) -> None:
    async with fabstird(tmp_path) as first:
        peer_id = first.peer_id
        first.process.kill()
        await first.process.wait()
    async with fabstird(tmp_path) as second:
        assert second.peer_id == peer_id
        assert second.status["epoch"] != first.status["epoch"]


async def settled(daemon: Daemon) -> Held:
    """What is held when two looks agree: the task that answers a call is still there at the first."""
    previous = await held(daemon)
    for _ in range(50):
        now = await held(daemon)
        if now == previous:
            return now
        previous = now
    raise AssertionError(f"the daemon does not come to rest: {previous}")


async def until_same(daemon: Daemon, before: Held) -> Held:
    """What is held once it has settled: links that have just ended need a moment to go."""
    for _ in range(50):
        now = await held(daemon)
        if now == before:
            break
    return now
