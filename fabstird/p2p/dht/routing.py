"""The routing table: whom this node knows in the keyspace, near ones well, far ones a few (Kademlia, k-buckets).

Pure. Peers are the bytes of their ids; times are seconds of the caller's clock. At most `K` peers share a distance's
magnitude, so the table is bounded whoever fills it. A full bucket keeps those that have been known longest: they are
the likeliest to stay, and a newcomer cannot push them out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

K = 20  # the specification's replication parameter
BITS = 256


def position(key: bytes) -> int:
    """Where a key, or a peer by its id, lies in the keyspace: its SHA2-256."""
    return int.from_bytes(sha256(key).digest(), "big")


@dataclass(slots=True)
class _Entry:
    position: int
    heard: float  # when it last answered, or came
    network: str | None  # where it is, as far as diversity counts


class RoutingTable:
    """``per_network``: peers of one network in the whole table, so that who holds many ids in one place does not hold
    the table."""

    def __init__(self, own_id: bytes, *, k: int = K, per_network: int = 3 * K) -> None:
        self.own_id = own_id
        self.k = k
        self._own = position(own_id)
        self._per_network = per_network
        self._buckets: dict[int, dict[bytes, _Entry]] = {}
        self._size = 0
        self._networks: dict[str, int] = {}

    def add(self, peer: bytes, now: float, network: str | None = None) -> bool:
        """The peer speaks the DHT and was heard of now. Whether it is in the table: a full bucket takes nobody in."""
        if peer == self.own_id:
            return False
        where = position(peer)
        bucket = self._buckets.setdefault(self._index(where), {})
        known = bucket.get(peer)
        if known is not None:
            known.heard = now
            return True
        crowded = network is not None and self._networks.get(network, 0) >= self._per_network
        if len(bucket) >= self.k or crowded:
            return False
        bucket[peer] = _Entry(where, now, network)
        self._size += 1
        if network is not None:
            self._networks[network] = self._networks.get(network, 0) + 1
        return True

    def remove(self, peer: bytes) -> bool:
        """The peer does not answer, or speaks the DHT no longer. Whether it was there."""
        index = self._index(position(peer))
        entry = self._buckets.get(index, {}).pop(peer, None)
        if entry is None:
            return False
        self._size -= 1
        if entry.network is not None:
            self._networks[entry.network] -= 1
            if not self._networks[entry.network]:
                del self._networks[entry.network]
        if not self._buckets[index]:
            del self._buckets[index]
        return True

    def closest(self, key: bytes, count: int | None = None) -> list[bytes]:
        """The peers closest to a key, the closest first."""
        target = position(key)
        entries = (
            (entry.position ^ target, peer) for bucket in self._buckets.values() for peer, entry in bucket.items()
        )
        return [peer for _, peer in heapq.nsmallest(self.k if count is None else count, entries)]

    def peers(self) -> list[bytes]:
        return [peer for bucket in self._buckets.values() for peer in bucket]

    def stale(self, before: float) -> list[bytes]:
        """Peers that were last heard of before that time."""
        return [peer for bucket in self._buckets.values() for peer, one in bucket.items() if one.heard < before]

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._buckets.get(self._index(position(peer)), {})

    def __len__(self) -> int:
        return self._size

    def _index(self, where: int) -> int:
        return (where ^ self._own).bit_length()


def sorted_by_distance(key: bytes, peers: Iterable[bytes]) -> list[bytes]:
    """The closest first."""
    target = position(key)
    return sorted(peers, key=lambda peer: position(peer) ^ target)
