"""Decides when the routing table is refreshed, and which peers are checked. Pure.

A node looks itself up as soon as there is a peer to ask. While it knows few peers, it repeats that soon after
newcomers, and ever less often without. In any case it does so every ten minutes, and refreshes some of its buckets in
turn. Of peers that have long been silent, and suspect ones, a few are asked each minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from fabstird.p2p.dht.routing import BITS, K, RoutingTable, position

REFRESH = 600.0  # seconds between two refreshes; the specification's ten minutes
SETTLE = 0.5  # seconds after a newcomer until it is asked for others
EAGER = 5.0  # seconds between two refreshes caused by newcomers, while the table is small
REVIEW = 60.0  # seconds between two checks for silent peers
SILENT = 1800.0  # seconds of silence after which a peer is checked
SUSPECT = 30.0  # seconds after which a suspect one is
BUCKETS = 2  # refreshed at a time
DEEPEST = 10  # bits shared with us up to which buckets are refreshed; our own lookup fills the others
CHECKS = 6  # peers asked in one check


@dataclass(frozen=True, slots=True)
class Plan:
    """Look these keys up, ask these peers, and plan again at ``wake_at``."""

    walks: tuple[bytes, ...]
    checks: tuple[bytes, ...]
    wake_at: float


class Upkeep:
    """Plans the upkeep. ``chance`` spreads what many nodes would do at once."""

    def __init__(self, table: RoutingTable, now: float, chance: Random) -> None:
        self._table = table
        self._chance = chance
        self._own = position(table.own_id)
        self._walked = now - EAGER
        self._regular = now + self._spread(REFRESH)
        self._walk = self._regular
        self._review = now + self._spread(REVIEW)
        self._bucket = 0
        self._pause = EAGER

    def arrived(self, now: float) -> None:
        """The table gained a peer."""
        if len(self._table) <= K:
            self._pause = EAGER
            self._walk = min(self._walk, max(now + SETTLE, self._walked + EAGER))

    def plan(self, now: float) -> Plan:
        walks: list[bytes] = []
        checks: list[bytes] = []
        if now >= self._walk:
            if len(self._table):
                walks.append(self._table.own_id)
                self._walked = now
            if now >= self._regular:
                walks += self._buckets() if walks else []
                self._regular = now + self._spread(REFRESH)
            self._walk = self._regular
            if walks and len(self._table) < K:
                self._walk = min(self._regular, now + self._pause)
                self._pause *= 2
        if now >= self._review:
            checks = [*self._table.suspects(now - SUSPECT), *self._table.stale(now - SILENT)]
            self._review = now + self._spread(REVIEW)
        return Plan(tuple(walks), tuple(dict.fromkeys(checks))[:CHECKS], min(self._walk, self._review))

    def _buckets(self) -> list[bytes]:
        """Keys in the next buckets, farthest first, round and round."""
        depth = min(DEEPEST, max(1, (len(self._table) // K)))
        found = []
        for _ in range(BUCKETS):
            found.append(self._within(self._bucket % depth))
            self._bucket += 1
        return found

    def _within(self, shared: int) -> bytes:
        """A random key that shares exactly this many bits with our id."""
        while True:
            key = self._chance.randbytes(BITS // 8)
            if BITS - (position(key) ^ self._own).bit_length() == shared:
                return key

    def _spread(self, seconds: float) -> float:
        return seconds * self._chance.uniform(0.9, 1.1)
