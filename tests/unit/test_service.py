"""The canary, what decides whether the watchdog is fed, and what is said when, on a clock moved by hand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstird.canary import INTERVAL, Canary
from fabstird.config import Config
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p.node import Node
from fabstird.p2p.peers.book import Book
from fabstird.service import SILENCE, Supervised, describe, is_alive, supervised


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.setblocking(False)
        yield bound


def heard(supervisor: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(supervisor.recv(4096).decode())
        except BlockingIOError:
            return found


class Told:
    """What the daemon says about itself."""

    def __init__(self) -> None:
        self.text = "as it stands"
        self.silence = 0.0


@asynccontextmanager
async def telling(supervisor: socket.socket, told: Told, **environ: str) -> AsyncIterator[Supervised]:
    environ["NOTIFY_SOCKET"] = supervisor.getsockname()
    async with supervised(lambda: told.text, lambda: told.silence, Canary(), environ=environ) as supervision:
        yield supervision


async def move(clock: MockClock, seconds: float) -> None:
    """In small steps: everybody has his turn at his time."""
    for _ in range(round(seconds / INTERVAL)):
        await wait_all_tasks_blocked()
        clock.jump(INTERVAL)
    await wait_all_tasks_blocked()


async def test_the_canary_measures_how_late_the_loop_is(mock_clock: MockClock) -> None:
    canary = Canary()
    assert (canary.last, canary.max) == (0.0, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(canary.run)
        await wait_all_tasks_blocked()
        mock_clock.jump(INTERVAL + 2)
        await wait_all_tasks_blocked()
        assert (canary.last, canary.max) == pytest.approx((2, 2))
        await move(mock_clock, 1)
        assert (canary.last, canary.max) == pytest.approx((0, 2))
        await move(mock_clock, 61)
        assert canary.max == pytest.approx(0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("delay", "silence", "alive"),
    [(0.0, 0.0, True), (4.9, SILENCE - 1, True), (5.0, 0.0, False), (0.0, SILENCE, False)],
)
def test_who_is_alive(delay: float, silence: float, alive: bool) -> None:
    assert is_alive(delay, silence, 10.0) is alive


async def test_the_watchdog_is_fed_while_all_is_well(mock_clock: MockClock, supervisor: socket.socket) -> None:
    told = Told()
    async with telling(supervisor, told, WATCHDOG_USEC="9000000"):
        await move(mock_clock, 9)
        assert heard(supervisor).count("WATCHDOG=1") in (3, 4)
        told.silence = SILENCE
        await move(mock_clock, 3)
        heard(supervisor)
        await move(mock_clock, 30)
        assert "WATCHDOG=1" not in heard(supervisor), "the node does nothing"
        told.silence = 0.0
        await move(mock_clock, 9)
        assert "WATCHDOG=1" in heard(supervisor), "it has come back in time"


async def test_without_a_watchdog_nothing_is_fed(mock_clock: MockClock, supervisor: socket.socket) -> None:
    async with telling(supervisor, Told()):
        await move(mock_clock, 60)
    assert heard(supervisor) == ["STATUS=as it stands"]


async def test_the_status_changes_once_a_second_at_most(mock_clock: MockClock, supervisor: socket.socket) -> None:
    told = Told()
    async with telling(supervisor, told) as supervision:
        supervision.ready()
        assert heard(supervisor) == ["READY=1\nSTATUS=as it stands"]
        for number in range(20):
            told.text = str(number)
            await move(mock_clock, INTERVAL)
        assert 4 <= len(heard(supervisor)) <= 6


async def test_a_failed_reload_is_shown_until_one_succeeds(mock_clock: MockClock, supervisor: socket.socket) -> None:
    async with telling(supervisor, Told()) as supervision:
        supervision.ready()
        heard(supervisor)
        supervision.reload(lambda: "configuration not reloaded: x")
        began, ended = heard(supervisor)
        assert began.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ended == "READY=1\nSTATUS=as it stands; configuration not reloaded: x"
        await move(mock_clock, 5)
        assert heard(supervisor) == []
        supervision.reload(lambda: "")
        assert heard(supervisor)[1] == "READY=1\nSTATUS=as it stands"


async def test_closing_asks_for_time_while_the_loop_turns(mock_clock: MockClock, supervisor: socket.socket) -> None:
    async with telling(supervisor, Told()) as supervision:
        supervision.ready()
        heard(supervisor)
        supervision.stopping()
        assert heard(supervisor) == ["STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=5000000"]
        await move(mock_clock, 3)
        assert set(heard(supervisor)) == {"EXTEND_TIMEOUT_USEC=5000000"}


async def test_how_a_node_stands(tmp_path: Path) -> None:
    node = Node(Config(), Identity.from_seed(bytes(32)), EventLog(10), Counters(), Book(tmp_path / "peers.json"))
    assert describe(node) == "the node is stopped"
    assert node.silence() == 0
    node.state, node.error = "failed", "cannot listen on X"
    assert describe(node) == "the node failed: cannot listen on X"
