"""The node, stopped and started again in one daemon: the same peer, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

from tests.harness import Daemon, asked_until, fabstird, until
from tests.support.holding import held, released, resident, settled

CYCLES = 100
WARM_UP = 5
MEMORY = 10 * 1024 * 1024  # bytes that resident memory may grow by; issue 2, "Done when"


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
        await released(daemon, before)
        await asked_until(lambda: held(daemon), lambda now: now.threads <= before.threads)
        await until(lambda: resident(daemon) - memory < MEMORY)
        assert (await daemon.call("status"))["peerId"] == daemon.peer_id


async def test_restarts_with_a_connected_peer_leave_nothing_behind() -> None:
    """Each start connects to the other daemon, each stop disconnects: on both sides everything goes with it."""
    async with fabstird() as other, fabstird(bootstrap_nodes=[other.address("tcp")]) as daemon:
        await daemon.wait_event("peer:identify", peerId=other.peer_id)
        before, before_other = await settled(daemon), await settled(other)
        for count in range(2, 22):
            await restart(daemon)
            await daemon.wait_event("peer:identify", count=count, peerId=other.peer_id)
        await released(daemon, before)
        await released(other, before_other)
        await other.wait_event("peer:connect", count=21)
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
