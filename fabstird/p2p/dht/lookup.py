"""An iterative lookup: ask the closest known peers for closer ones until the `k` closest have all answered.

Pure: the caller asks the peers in `due`, reports `answered` or `failed`, looks again at `wake_at`, and stops when it is
`done`. Whatever peers answer, a lookup asks at most `MAX_ASKED` peers and takes the `k` closest of each answer.

A peer that has not answered within `SLOW` seconds no longer blocks others, and after ``give_up`` (`patience`) is no
longer awaited; a later answer still counts. At most `PER_NETWORK` of the closest are in one network. Where ``radius``
says how densely peers lie, not many more peers than that are taken (`density`).

A lookup begins with a few peers that are already ``connected``. They answer in one round trip instead of five, with
peers closer than all that it could ask meanwhile.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fabstird.p2p.dht.density import SLACK, allowed
from fabstird.p2p.dht.patience import UNKNOWN
from fabstird.p2p.dht.routing import K, position

ALPHA = 10  # peers asked at a time; the specification's
QUIET = 3  # in the background: so that peers known to all are not asked by all
FIRST = 5  # connected peers asked before any other
MAX_ASKED = 120  # by one lookup: enough for a network of millions, and an end to one that is made up as we go
PER_NETWORK = 2  # peers of one network among the closest
SLOW = 0.6  # seconds; several round trips of most peers

State = Literal["heard", "asked", "slow", "answered", "failed"]


@dataclass(slots=True)
class _Candidate:
    peer: bytes
    distance: int
    network: str | None
    state: State = "heard"


def _unknown(_: bytes) -> str | None:
    return None


def _nobody(_: bytes) -> bool:
    return False


class Lookup:
    """One lookup. ``own_id`` is never asked. ``network`` returns where a peer is, if known."""

    def __init__(
        self,
        target: bytes,
        own_id: bytes,
        seeds: Iterable[bytes],
        *,
        k: int = K,
        alpha: int = ALPHA,
        network: Callable[[bytes], str | None] = _unknown,
        radius: int | None = None,
        give_up: float = UNKNOWN,
        connected: Callable[[bytes], bool] = _nobody,
    ) -> None:
        self.target = target
        self.k = k
        self.alpha = alpha
        self.asked = 0
        self._where = position(target)
        self._own = own_id
        self._network = network
        self._radius = radius
        self._give_up = give_up
        self._connected = connected
        self._begun = False
        self.late: set[bytes] = set()  # no longer awaited, neither answered nor failed
        self._slots = 0  # requests that block others
        self._known: dict[bytes, _Candidate] = {}
        self._waiting: dict[bytes, float] = {}  # since when; the oldest first
        self._order: list[int] = []  # distances of the peers that have not failed, sorted
        self._at: dict[int, _Candidate] = {}  # by distance
        self._closest: list[_Candidate] | None = None  # the front; None when it may have changed
        self.heard(seeds)

    # ----------------------------------------------------------------------------------------------------------------
    # What has happened

    def heard(self, peers: Iterable[bytes]) -> None:
        """Add peers that somebody named."""
        for peer in peers:
            if peer not in self._known and peer != self._own:
                found = _Candidate(peer, position(peer) ^ self._where, self._network(peer))
                self._known[peer] = self._at[found.distance] = found
                self._insert(found)

    def answered(self, peer: bytes, closer: Iterable[bytes]) -> None:
        """A peer answered, late or not. The `k` closest of ``closer`` are added."""
        found = self._known[peer]
        self._settle(found)
        if found.state == "failed":
            self._insert(found)
        found.state = "answered"
        network = self._network(peer)
        if network != found.network:
            found.network = network
            self._closest = None
        fresh = [one for one in closer if one not in self._known]
        if len(fresh) > self.k:
            fresh.sort(key=lambda one: position(one) ^ self._where)
        self.heard(fresh[: self.k])

    def failed(self, peer: bytes) -> None:
        """A peer did not answer. The next one takes its place among the closest."""
        found = self._known[peer]
        self._settle(found)
        if found.state != "failed":
            found.state = "failed"
            del self._order[bisect_left(self._order, found.distance)]
            self._closest = None

    # ----------------------------------------------------------------------------------------------------------------
    # What follows

    def due(self, now: float) -> list[bytes]:
        """The peers to ask now; they count as asked from here on."""
        self._look_at_the_clock(now)
        room = min(self.alpha - self._slots, MAX_ASKED - self.asked)
        if room <= 0:
            return []
        front = self._front(slow=False) if self._slots < len(self._waiting) else self._front()
        found = [one for one in front if one.state == "heard"][:room] if self._begun else self._first(front)[:room]
        self._begun = True
        for one in found:
            one.state = "asked"
            self._waiting[one.peer] = now
        self._slots += len(found)
        self.asked += len(found)
        return [one.peer for one in found]

    def wake_at(self) -> float:
        """When time alone changes what is due."""
        for peer, since in self._waiting.items():
            return since + (self._give_up if self._known[peer].state == "slow" else SLOW)
        return math.inf

    def done(self, now: float) -> bool:
        """Whether each of the `k` closest reachable peers has answered, or nobody is left to ask."""
        self._look_at_the_clock(now)
        if self.asked >= MAX_ASKED:
            return not self._waiting
        return all(one.state == "answered" for one in self._front())

    def closest(self) -> list[bytes]:
        """The peers that answered, closest first, at most `k`."""
        return [one.peer for one in self._front(answered=True)]

    def near(self) -> set[bytes]:
        """The peers that answered among the `k` closest known so far. Only their answers count: a peer asked on the way
        is no longer among them once closer ones are known."""
        return {one.peer for one in self._front() if one.state == "answered"}

    def distances(self) -> list[int]:
        """The distances of `closest`."""
        return [one.distance for one in self._front(answered=True)]

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self._known.values())

    def _settle(self, found: _Candidate) -> None:
        """Stop waiting for a peer."""
        self._waiting.pop(found.peer, None)
        self.late.discard(found.peer)
        self._slots -= found.state == "asked"

    def _look_at_the_clock(self, now: float) -> None:
        late = []
        for peer, since in self._waiting.items():
            found = self._known[peer]
            if since + self._give_up <= now:
                late.append(peer)
            elif since + SLOW > now:
                break
            elif found.state == "asked":
                found.state = "slow"
                self._slots -= 1
        for peer in late:
            self.failed(peer)
            self.late.add(peer)

    def _first(self, front: list[_Candidate]) -> list[_Candidate]:
        """The first peers to ask, out of those known at the start. The closest is one: it may be the target itself."""
        connected = [one for one in front[1:] if self._connected(one.peer)][: FIRST - 1]
        return front if not connected else [*front[:1], *connected]

    def _insert(self, found: _Candidate) -> None:
        insort(self._order, found.distance)
        front = self._closest
        if front is not None and (len(front) < self.k or found.distance < front[-1].distance):
            self._closest = None

    def _front(self, *, slow: bool = True, answered: bool = False) -> list[_Candidate]:
        """The `k` closest that have not failed; without ``slow`` ones, or only those that ``answered``."""
        everyone = slow and not answered
        if everyone and self._closest is not None:
            return self._closest
        front: list[_Candidate] = []
        networks: dict[str, int] = {}
        for distance in self._order:
            one = self._at[distance]
            if (answered and one.state != "answered") or (not slow and one.state == "slow"):
                continue
            taken = len(front)
            if self._radius is not None and taken >= SLACK and taken >= allowed(distance, self._radius, self.k):
                continue
            if one.network is not None:
                there = networks.get(one.network, 0)
                if there >= PER_NETWORK:
                    continue
                networks[one.network] = there + 1
            front.append(one)
            if taken + 1 >= self.k:
                break
        if everyone:
            self._closest = front
        return front
