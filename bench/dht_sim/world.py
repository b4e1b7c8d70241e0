"""The clock, the wires and everybody's whereabouts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import exp, log
from random import Random
from typing import TYPE_CHECKING, Any

from fabstird.p2p.dht import lookup, providers, routing, upkeep, values

if TYPE_CHECKING:
    from bench.dht_sim.node import Node

_computed = routing.position.__wrapped__
_positions: dict[bytes, int] = {}


def position(key: bytes) -> int:
    """The product's, remembered without a bound: many nodes share one process here. And an attacker's ids lie where
    `World.id_at` has put them, as if he had hashed for long enough."""
    found = _positions.get(key)
    if found is None:
        found = _positions[key] = _computed(key)
    return found


@contextmanager
def simulated() -> Iterator[None]:
    """The product takes positions from here, for as long as networks are simulated."""
    users = [module for module in (routing, lookup, providers, upkeep, values) if hasattr(module, "position")]
    kept = [module.position for module in users]
    for module in users:
        setattr(module, "position", position)  # noqa: B010 - the modules are looked up as what they are for mypy
    try:
        yield
    finally:
        _positions.clear()
        for module, was in zip(users, kept, strict=True):
            setattr(module, "position", was)  # noqa: B010


@dataclass(frozen=True)
class Setting:
    """``rtt`` is the median round trip in seconds, log-normal with ``sigma``. A connection takes ``dial`` round trips,
    before the one of the question. ``low`` and ``high`` are the watermarks of the connection manager."""

    rtt: float = 0.080
    sigma: float = 0.5
    dial: int = 4
    clients: float = 0.3  # share of nodes behind a translator, which only ask
    low: int = 64
    high: int = 192
    grace: float = 20.0


class World:
    def __init__(self, seed: int, setting: Setting | None = None) -> None:
        _positions.clear()
        self.setting = setting or Setting()
        self.chance = Random(seed)
        self.now = 0.0
        self.nodes: dict[bytes, Node] = {}  # alive ones, by id
        self.networks: dict[bytes, str] = {}  # where each node is, and was
        self.messages = 0
        self.background = 0  # of them, that nobody waits for
        self.removed_alive = 0  # peers that lost their place in a table while they were there
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()
        self._mean = log(self.setting.rtt)

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._number), what, arguments))

    def run(self, until: float) -> None:
        """Let everything happen that happens before."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, what, arguments = heapq.heappop(events)
            what(*arguments)
        self.now = until

    def run_while(self, busy: Callable[[], bool]) -> None:
        events = self._events
        while events and busy():
            self.now, _, what, arguments = heapq.heappop(events)
            what(*arguments)

    def round_trip(self) -> float:
        return exp(self.chance.gauss(self._mean, self.setting.sigma))

    def new_id(self) -> bytes:
        return b"\x00\x24\x08\x01\x12\x20" + self.chance.randbytes(32)

    def id_at(self, where: int) -> bytes:
        """An id that lies there."""
        made = self.new_id()
        _positions[made] = where
        return made

    def servers(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.server]
