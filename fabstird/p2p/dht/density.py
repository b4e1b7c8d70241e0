"""Estimates how densely peers lie in the keyspace from our own walks. Pure.

Ids are hashes, so honest peers are evenly distributed. Where many more peers claim to be near a key than elsewhere,
somebody has made ids for that key to hide it, or has made up peers. A walk that knows the usual density takes no more
of them than chance allows, and goes on to the honest ones behind them (arXiv 2505.01139 stores in such a region, rather
than at the twenty closest).
"""

from __future__ import annotations

from collections import deque

from fabstird.p2p.dht.routing import K

WALKS = 15  # walks remembered: towards our own id and random ones, which nobody else chose
ENOUGH = 3  # walks needed for an estimate
SLACK = 5.0  # peers above the expected number that chance may put anywhere
FACTOR = 3.0  # times the expected number that chance and the error of the estimate may put anywhere


class Density:
    def __init__(self, k: int = K) -> None:
        self.k = k
        self._distances: deque[int] = deque(maxlen=WALKS)

    def observe(self, distances: list[int]) -> None:
        """Record the distances from a walk's target to the closest peers found, in ascending order."""
        if len(distances) >= self.k:
            self._distances.append(distances[self.k - 1])

    @property
    def radius(self) -> int | None:
        """The distance from any key within which `k` peers are expected. None in a small network, or before it is
        known.

        A quarter of the walks found them closer: a growing network is denser than older walks have seen.
        """
        return sorted(self._distances)[len(self._distances) // 4] if len(self._distances) >= ENOUGH else None


def allowed(distance: int, radius: int, k: int = K) -> float:
    """How many peers may lie within ``distance`` of a key."""
    return SLACK + FACTOR * k * (distance / radius)
