"""An iterative lookup: ask the closest known peers for closer ones until the `k` closest have all been asked.

Pure: the caller asks `due` peers, reports `answered` or `failed`, and stops when it is `done`. Whatever peers answer,
a lookup asks at most `MAX_ASKED` peers and remembers `MAX_HEARD`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fabstird.p2p.dht.routing import K, position

ALPHA = 10  # peers that are asked at a time; the specification's
MAX_ASKED = 120  # by one lookup: what a network of millions takes, and an end for one that is made up as we go
MAX_HEARD = 2000

State = Literal["heard", "asked", "answered", "failed"]


class Lookup:
    """``own_id`` is never asked."""

    def __init__(self, target: bytes, own_id: bytes, seeds: Iterable[bytes], *, k: int = K, alpha: int = ALPHA) -> None:
        self.target = target
        self.k = k
        self.alpha = alpha
        self.asked = 0
        self._where = position(target)
        self._peers: dict[bytes, State] = {}
        self._distance: dict[bytes, int] = {}
        self._own = own_id
        self.heard(seeds)

    def heard(self, peers: Iterable[bytes]) -> None:
        """There are these peers, somebody says."""
        for peer in peers:
            if peer != self._own and peer not in self._peers and len(self._peers) < MAX_HEARD:
                self._peers[peer] = "heard"
                self._distance[peer] = position(peer) ^ self._where

    def due(self) -> list[bytes]:
        """Whom to ask now; they count as asked from here on."""
        waiting = sum(state == "asked" for state in self._peers.values())
        room = min(self.alpha - waiting, MAX_ASKED - self.asked)
        if room <= 0:
            return []
        found = [peer for peer in self._front() if self._peers[peer] == "heard"][:room]
        for peer in found:
            self._peers[peer] = "asked"
        self.asked += len(found)
        return found

    def answered(self, peer: bytes, closer: Iterable[bytes]) -> None:
        self._peers[peer] = "answered"
        self.heard(closer)

    def failed(self, peer: bytes) -> None:
        """It did not answer: it is none of the closest, and the next one takes its place."""
        self._peers[peer] = "failed"

    @property
    def done(self) -> bool:
        """Each of the `k` closest that can be reached has answered, or nobody may be asked any more."""
        if any(state == "asked" for state in self._peers.values()):
            return False
        return self.asked >= MAX_ASKED or all(self._peers[peer] == "answered" for peer in self._front())

    def closest(self) -> list[bytes]:
        """Those that answered, the closest first, `k` at most."""
        there = [peer for peer, state in self._peers.items() if state == "answered"]
        return sorted(there, key=self._distance.__getitem__)[: self.k]

    def count(self, state: State) -> int:
        return sum(one == state for one in self._peers.values())

    def _front(self) -> list[bytes]:
        """The `k` closest that have not failed."""
        there = [peer for peer, state in self._peers.items() if state != "failed"]
        return sorted(there, key=self._distance.__getitem__)[: self.k]
