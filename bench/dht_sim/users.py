"""What users do: provide and put, and look for it. As `announcing` and `commands` do in the daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.dht_sim.node import Answer, Node, Walk
from fabstird.p2p.dht.findings import FoundProviders, FoundValues
from fabstird.p2p.dht.holders import Holders, Job

REVIEW = 60.0  # seconds; the engine's
QUORUM = 4  # the command's
Name = tuple[bool, bytes]


@dataclass
class Told:
    """``took`` seconds until the last peer had been told, or had failed."""

    took: float
    stored: int
    walk: Walk


@dataclass
class Found:
    """``first`` and ``took`` in seconds; ``hops`` to the first record."""

    first: float | None
    took: float
    hops: int
    asked: int
    providers: list[bytes]
    value: bytes | None


class Publisher:
    """Keeps records announced by one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.holders = Holders(node.chance)
        self._announced: dict[Name, tuple[bytes | None, float]] = {}
        node.world.at(node.world.now + REVIEW, self._review)

    def announce(self, key: bytes, value: bytes | None, then: Callable[[Told], None] = lambda _: None) -> None:
        """Provide a key, or put a value."""
        name = (value is not None, key)
        self._announced[name] = (value, 0.0)
        began = self.node.world.now

        def walked(walk: Walk) -> None:
            closest = walk.lookup.closest()
            stored: dict[bytes, bool] = {}
            waiting = set(closest)

            def told(peer: bytes, answer: Answer | None) -> None:
                waiting.discard(peer)
                if answer is not None:
                    stored[peer] = True
                if not waiting:
                    self._told(name, stored)
                    then(Told(self.node.world.now - began, len(stored), walk))

            for peer in closest:
                self.node.ask(peer, "add_provider" if value is None else "put_value", key, told, value=value)

        Walk(self.node, key, "find_node", then=walked)

    def _told(self, name: Name, stored: dict[bytes, bool]) -> None:
        now = self.node.world.now
        self.holders.told(name, now, stored)
        if stored:
            self._announced[name] = (self._announced[name][0], now)

    def _review(self) -> None:
        world = self.node.world
        if not self.node.alive:
            return
        dates = [(name, announced) for name, (_, announced) in self._announced.items()]
        for job in self.holders.due(dates, world.now, world.now):
            value, _ = self._announced[job.name]
            if job.holders:
                self._probe(job, value)
            else:
                self.announce(job.name[1], value)
        world.at(world.now + REVIEW, self._review)

    def _probe(self, job: Job, value: bytes | None) -> None:
        answers: dict[bytes, bool] = {}
        waiting = set(job.holders)

        def told(peer: bytes, answer: Answer | None) -> None:
            waiting.discard(peer)
            if answer is not None:
                answers[peer] = answer[2] == value if value is not None else self.node.id in answer[1]
            if not waiting and not self.holders.probed(job.name, self.node.world.now, answers):
                self.announce(job.name[1], value)

        for peer in job.holders:
            self.node.ask(peer, "get_providers" if value is None else "get_value", job.name[1], told, background=True)


def find_providers(node: Node, key: bytes, wanted: int, then: Callable[[Found], None]) -> None:
    findings = FoundProviders(wanted)
    found = Found(None, 0.0, 0, 0, [], None)
    began = node.world.now

    def take(peer: bytes, answer: Answer) -> bool:
        if findings.learn(peer, answer[1]) and found.first is None:
            found.first = node.world.now - began
            found.hops = walk.hops.get(peer, 1)
        return findings.enough(walk.lookup.near())

    def end(ended: Walk) -> None:
        found.took, found.asked = ended.took, ended.lookup.asked
        found.providers = findings.result()
        then(found)

    walk = Walk(node, key, "get_providers", take=take, then=end)


def get_value(node: Node, key: bytes, then: Callable[[Found], None]) -> None:
    findings = FoundValues(None, QUORUM)
    found = Found(None, 0.0, 0, 0, [], None)
    began = node.world.now

    def take(peer: bytes, answer: Answer) -> bool:
        if answer[2] is not None:
            findings.values[peer] = answer[2]
            if found.first is None:
                found.first = node.world.now - began
                found.hops = walk.hops.get(peer, 1)
        return findings.enough(walk.lookup.near())

    def end(ended: Walk) -> None:
        found.took, found.asked, found.value = ended.took, ended.lookup.asked, findings.best
        then(found)

    walk = Walk(node, key, "get_value", take=take, then=end)
