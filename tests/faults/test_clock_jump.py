"""The machine sleeps, or somebody moves its clock: links are checked at once, and what was waited for begins afresh."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fabstird.p2p.peers.manager import CLOCK_CHECK, CLOCK_JUMP
from tests.harness import Json, fabstird, until
from tests.support.minipeer import mini_peers
from tests.support.ports import refusing_port
from tests.unit.manager import A1, A, B, Bench, FakeLink, running

HOUR = 3600.0
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


async def jump(bench: Bench, seconds: float) -> None:
    """The wall clock runs away from the steady one, which stands still while a machine sleeps."""
    bench.wall_ahead += seconds
    await bench.settle(CLOCK_CHECK)


@pytest.mark.parametrize("seconds", [8 * HOUR, CLOCK_JUMP + 1, -CLOCK_JUMP - 1, -8 * HOUR])
async def test_links_are_checked_and_cycles_begin_afresh(mock_clock: MockClock, tmp_path: Path, seconds: float) -> None:
    resting = "/ip4/9.9.9.9/tcp/9/p2p/" + A  # its cycle has failed
    waiting = "/ip4/8.8.8.8/tcp/8/p2p/" + A  # it is between two dials
    settings = {"max_retries": 1, "retry_delay": 600_000, "keepalive_interval": 0}
    async with running(mock_clock, tmp_path / "peers.json", resting, waiting, **settings) as bench:
        bench.dial(resting).fail()
        bench.dial(waiting).fail()
        await bench.settle(600)
        bench.dial(resting).fail()
        dials = len(bench.host.dials)
        bench.dial(waiting).fail()
        await bench.settle()
        link = FakeLink(B, "/ip4/7.7.7.7/tcp/7/p2p/" + B, "inbound")
        bench.host.bring_up(link)
        await bench.settle(CLOCK_CHECK)
        assert (len(bench.host.dials), link.checked) == (dials, 0), "nothing is due"

        await jump(bench, seconds)
        assert link.checked == 1
        assert len(bench.host.dials) == dials + 2
        bench.news()
        for address in (resting, waiting):
            bench.dial(address).fail()
        await bench.settle()
        attempts = [data["attempt"] for kind, data in bench.news() if kind == "connection:retry"]
        assert attempts == [1, 1], "a cycle that begins afresh counts from one"

        await jump(bench, 0)
        assert link.checked == 1, "once for each jump"
        assert len(bench.host.dials) == dials + 2
        await jump(bench, seconds)
        assert link.checked == 2


async def test_a_clock_that_is_slewed_is_no_jump(mock_clock: MockClock, tmp_path: Path) -> None:
    async with running(mock_clock, tmp_path / "peers.json", A1, max_retries=0, keepalive_interval=0) as bench:
        bench.dial().fail()
        link = FakeLink(B, "/ip4/7.7.7.7/tcp/7/p2p/" + B, "inbound")
        bench.host.bring_up(link)
        for _ in range(100):
            await jump(bench, CLOCK_JUMP - 1)
        assert (link.checked, len(bench.host.dials)) == (0, 1)


SHIM = """
import os, time
_real, _file = time.time, os.environ["WALL_CLOCK_AHEAD"]
def _moved():
    with open(_file) as file:
        return _real() + float(file.read() or 0)
time.time = _moved
"""


async def test_a_real_daemon_whose_clock_is_moved(tmp_path: Path) -> None:
    """The clock is moved inside the process, by a module that Python loads before anything else."""
    (tmp_path / "sitecustomize.py").write_text(SHIM)
    ahead = tmp_path / "ahead"
    ahead.write_text("0")
    moved = ("env", f"PYTHONPATH={tmp_path}", f"WALL_CLOCK_AHEAD={ahead}")
    settings = {"connections.ping_interval": int(HOUR * 1000), "connections.ping_timeout": 4000}
    node: Json = {"max_retries": 0, "keepalive_interval": 0}
    async with mini_peers(2) as [alive, dead]:
        with refusing_port() as port:
            address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"
            async with fabstird(None, settings, prefix=moved, bootstrap_nodes=[address], **node) as daemon:
                assert abs(daemon.status["startTime"] / 1000 - time.time()) < 60
                await daemon.wait_event("connection:failed", address=address)
                links = [await peer.dial(daemon.address("tcp")) for peer in (alive, dead)]
                await daemon.wait_event("peer:identify", count=2)
                await until(lambda: all(link.pinged == 1 for link in links))
                links[1].freeze()

                temporary = tmp_path / "next"
                temporary.write_text(str(8 * HOUR))
                temporary.rename(ahead)
                began = trio.current_time()
                await daemon.wait_event("connection:failed", count=2, address=address)
                await until(lambda: links[0].pinged == 2)
                print(f"asked for a sign of life after {trio.current_time() - began:.2f} s")
                gone = await daemon.wait_event("peer:disconnect", peerId=dead.peer_id)
                assert gone["reason"] == "dead", gone
                assert 0 <= gone["duration"] < 60_000, "durations are not of the wall clock"
                assert (await daemon.call("ping", peerId=alive.peer_id))["rtt"] > 0
                assert len(await daemon.call("peers")) == 1
                assert [entry["level"] for entry in daemon.said if "clock" in entry["event"]] == ["warning"]
                assert len(daemon.warnings(dead=address)) == 1
