"""Calls that wait for the node: one look for all of them at each change, and none is forgotten."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import trio

from fabstir_client.api.errors import LimitExceeded
from fabstir_client.api.types import NodeState, Peer, Status, WaitParams, WaitResult
from fabstird.rpc.waits import Now, Waits

MANY = 500
US = ("us",)


class Node:
    """Its status, its peers, and how often it was looked at."""

    def __init__(self) -> None:
        self.status = Status("stopped", False, "US", 0, 0, [], [], "1", "e", 0)
        self.peers: list[Peer] = []
        self.looks = 0
        self._changed = trio.Event()

    def now(self) -> Now:
        self.looks += 1
        return Now(self.status, lambda: self.peers)

    async def change(self) -> None:
        await self._changed.wait()

    def changes(self, state: NodeState = "stopped", **protocols: list[str]) -> None:
        self.peers = [Peer(name, "inbound", 0, [], [], spoken, {}, False, False) for name, spoken in protocols.items()]
        self.status = msgspec.structs.replace(self.status, state=state, peers=len(self.peers))
        self._changed.set()
        self._changed = trio.Event()


def wanting(**what: Any) -> WaitParams:
    return WaitParams(timeout=1, **what)


def met(node: Node, wanted: WaitParams) -> bool:
    return node.now().answer(wanted) is not None


def test_everything_that_is_given_must_hold() -> None:
    node = Node()
    assert met(node, wanting())
    assert not met(node, wanting(state="started"))
    assert not met(node, wanting(peers=1))
    assert not met(node, wanting(protocol="/p"))
    node.changes("started", A=["/p"], B=["/q"])
    assert met(node, wanting(state="started", peers=2, peer_id="A", protocol="/p"))
    assert met(node, wanting(protocol="/q"))
    assert met(node, wanting(peer_id="B"))
    for unmet in (
        wanting(peers=3),
        wanting(peer_id="C"),
        wanting(peer_id="A", protocol="/q"),
        wanting(state="stopped", peer_id="A"),
    ):
        assert not met(node, unmet), unmet


async def test_a_change_costs_one_look_for_all_who_wait(autojump_clock: trio.testing.MockClock) -> None:
    """Each of them looked at the whole node, all its peers, at each event: a thousand took the loop for a second."""
    node, waits = Node(), Waits()
    found: list[WaitResult] = []

    async def wait(wanted: WaitParams) -> None:
        found.append(await waits.until(wanted, US, node.now, node.change))

    async with trio.open_nursery() as nursery:
        for number in range(MANY):
            nursery.start_soon(wait, wanting(protocol="/early" if number % 2 else "/late"))
        await trio.sleep(1)
        before = node.looks
        for _ in range(3):
            node.changes(A=["/other"])
            await trio.sleep(1)
        assert node.looks - before == 3
        node.changes(A=["/early"])
        await trio.sleep(1)
        assert len(found) == MANY // 2
        assert node.looks - before <= 5  # whoever looked had found what it wanted, and another looks on
        node.changes(A=["/late"])
    assert len(found) == MANY


async def test_all_who_wait_have_a_bound(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all connections together: 64,000 took half a GiB, and seconds of the loop at each event."""
    monkeypatch.setattr("fabstird.rpc.waits.MOST", 2)
    node, waits = Node(), Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.until, wanting(peer_id="A"), US, node.now, node.change)
        nursery.start_soon(waits.until, wanting(peer_id="A"), US, node.now, node.change)
        await trio.sleep(1)
        with pytest.raises(LimitExceeded) as raised:
            await waits.until(wanting(peer_id="B"), US, node.now, node.change)
        assert raised.value.data == {"limit": 2, "current": 2, "configKey": None}
        assert await waits.until(wanting(state="stopped"), US, node.now, node.change), "it need not wait"
        node.changes(A=[])
    assert waits.held == 0


async def test_callers_share_the_places(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them took all of them for as long as it liked."""
    monkeypatch.setattr("fabstird.rpc.waits.MOST", 4)
    node, waits = Node(), Waits()
    told: list[tuple[str, int, str]] = []

    async def wait(caller: str, number: int) -> None:
        try:
            await waits.until(wanting(peer_id="A"), ("somebody", caller), node.now, node.change)
            told.append((caller, number, "found"))
        except LimitExceeded:
            told.append((caller, number, "limit"))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(wait, "greedy", number)
            await trio.sleep(1)
        for caller in ("other", "third", "other", "greedy"):
            nursery.start_soon(wait, caller, 9)
            await trio.sleep(1)
        assert told == [("greedy", 3, "limit"), ("greedy", 2, "limit"), ("other", 9, "limit"), ("greedy", 9, "limit")]
        assert waits.held == 4
        node.changes(A=[])
    found = {(caller, number) for caller, number, how in told if how == "found"}
    assert found == {("greedy", 0), ("greedy", 1), ("other", 9), ("third", 9)}
    assert waits.held == 0


async def test_who_has_many_connections_has_no_more_than_a_share(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many connections as there were places, with a call each, kept everybody else out."""
    monkeypatch.setattr("fabstird.rpc.waits.MOST", 4)
    waits = Waits()
    refused: list[tuple[str, str]] = []

    async def wait(caller: tuple[str, str]) -> None:
        try:
            with waits.place(caller):
                await trio.sleep_forever()
        except LimitExceeded:
            refused.append(caller)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(wait, ("greedy", f"connection {number}"))
            await trio.sleep(1)
        for number in range(2):
            nursery.start_soon(wait, ("other", f"connection {number}"))
            await trio.sleep(1)
        assert refused == [("greedy", "connection 3"), ("greedy", "connection 2")]
        nursery.cancel_scope.cancel()


async def test_nobody_is_forgotten_whoever_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    node, waits, chance = Node(), Waits(), random.Random(82)
    found: list[str] = []

    async def wait(name: str, patience: float) -> None:
        with trio.move_on_after(patience):
            await waits.until(wanting(peer_id=name), US, node.now, node.change)
            found.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(MANY):
            nursery.start_soon(wait, f"P{number}", chance.choice([0.0, 0.5, 1.5, 2.5, 10.0]))
        for _ in range(4):
            await trio.sleep(1)
            node.changes(**{f"P{number}": [] for number in range(0, MANY, 7)})
        await trio.sleep(1)
        kept = len(nursery.child_tasks)
        assert 0 < kept < MANY
        node.changes(**{f"P{number}": [] for number in range(MANY)})
        await trio.sleep(1)
        assert not nursery.child_tasks
    assert len(set(found)) == len(found) >= kept
