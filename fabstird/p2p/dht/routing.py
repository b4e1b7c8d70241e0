"""The routing table: the peers that this node knows, many near its own id and few far from it (Kademlia, k-buckets).

Pure. Peers are the bytes of their ids; times are seconds of the caller's clock. At most `K` peers are in a bucket, so
the table is bounded whoever fills it. A full bucket keeps those known longest: they are the likeliest to stay, and a
newcomer cannot push them out.

A peer that does not answer is suspect: it is not named to others, is asked last, and gives its place to a newcomer. It
is removed when it fails again later, so one lost message, or an outage of our own network, costs no peer its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

K = 20  # the specification's replication parameter
BITS = 256
PER_BUCKET = 2  # peers of one network in a bucket; go-libp2p-kad-dht's maxPrefixCountPerCpl
PER_NETWORK = 3  # peers of one network in the table; its maxPrefixCount
SECOND = 30.0  # seconds after a failure until another one counts


@functools.lru_cache(maxsize=4096)
def position(key: bytes) -> int:
    """Where a key, or a peer by its id, lies in the keyspace: its SHA2-256."""
    return int.from_bytes(sha256(key).digest(), "big")


@dataclass(frozen=True, slots=True)
class Seen:
    """A peer in the table, when it was last heard, and whether it has failed since."""

    peer: bytes
    heard: float
    suspect: bool
    network: str | None


@dataclass(slots=True)
class _Entry:
    position: int
    heard: float  # when it last answered or dialled us
    network: str | None  # where it is, for the limits per network
    failed: float | None = None  # when it first failed since it was last heard


class RoutingTable:
    """The routing table.

    Args:
        own_id: This node.
        k: Peers in a bucket.
        per_bucket: Peers of one network in a bucket. Whoever has many ids in one network gets little of the table.
        per_network: Peers of one network in the table.
        left: Called with each peer that loses its place.
    """

    def __init__(
        self,
        own_id: bytes,
        *,
        k: int = K,
        per_bucket: int = PER_BUCKET,
        per_network: int = PER_NETWORK,
        left: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.own_id = own_id
        self.k = k
        self._own = position(own_id)
        self._per_bucket = per_bucket
        self._per_network = per_network
        self._buckets: dict[int, dict[bytes, _Entry]] = {}
        self._size = 0
        self._suspects = 0
        self._networks: dict[str, int] = {}
        self._left = left

    def add(self, peer: bytes, now: float, network: str | None = None) -> bool:
        """Add a peer that speaks the DHT and was heard now. Whether it is in the table: a full bucket takes it only in
        place of a suspect peer."""
        if peer == self.own_id:
            return False
        where = position(peer)
        index = (where ^ self._own).bit_length()
        bucket = self._buckets.get(index)
        known = bucket.get(peer) if bucket else None
        if known is not None and (known.network == network or network is None):
            self._is_there(known, now)
            return True
        if known is not None:
            self.remove(peer)  # it has moved, or its network was not known: it must fit in again
            bucket = self._buckets.get(index)
        suspect = None
        if bucket and len(bucket) >= self.k:
            if self._suspects:
                suspect = next((one for one, entry in bucket.items() if entry.failed is not None), None)
            if suspect is None:
                return False
        if network is not None and self._crowded(bucket or {}, network):
            return False
        if suspect is not None:
            self.remove(suspect)
        self._buckets.setdefault(index, {})[peer] = _Entry(where, now, network)
        self._size += 1
        if network is not None:
            self._networks[network] = self._networks.get(network, 0) + 1
        return True

    def heard(self, peer: bytes, now: float) -> None:
        """A peer has shown that it is alive; it need not be in the table."""
        entry = self._entry(peer)
        if entry is not None:
            self._is_there(entry, now)

    def failed(self, peer: bytes, now: float) -> bool:
        """A peer could not be reached or did not answer. Whether it lost its place."""
        entry = self._entry(peer)
        if entry is None:
            return False
        if entry.failed is None:
            entry.failed = now
            self._suspects += 1
            return False
        return now - entry.failed >= SECOND and self.remove(peer)

    def remove(self, peer: bytes) -> bool:
        """Remove a peer that no longer speaks the DHT. Whether it was in the table."""
        index = (position(peer) ^ self._own).bit_length()
        entry = self._buckets.get(index, {}).pop(peer, None)
        if entry is None:
            return False
        self._size -= 1
        self._suspects -= entry.failed is not None
        if entry.network is not None:
            self._networks[entry.network] -= 1
            if not self._networks[entry.network]:
                del self._networks[entry.network]
        if not self._buckets[index]:
            del self._buckets[index]
        self._left(peer)
        return True

    def closest(self, key: bytes, count: int | None = None) -> list[bytes]:
        """The peers closest to a key, closest first; suspect ones only where there are not enough others."""
        found = self._closest(position(key), self.k if count is None else count, suspects=False)
        return found or self._closest(position(key), self.k if count is None else count, suspects=True)

    def _closest(self, target: int, count: int, *, suspects: bool) -> list[bytes]:
        """As `closest`. It visits buckets by distance: first the one that holds the target, then all nearer to us
        together, then the farther ones one by one."""
        found: list[bytes] = []
        for peers in self._by_distance((target ^ self._own).bit_length()):
            ordered = sorted([(one.position ^ target, peer) for peer, one in peers if suspects or one.failed is None])
            found += [peer for _, peer in ordered[: count - len(found)]]
            if len(found) >= count:
                break
        return found

    def _by_distance(self, index: int) -> Iterator[Iterable[tuple[bytes, _Entry]]]:
        yield self._buckets.get(index, {}).items()
        yield [entry for near, bucket in self._buckets.items() if near < index for entry in bucket.items()]
        for far in sorted(self._buckets):
            if far > index:
                yield self._buckets[far].items()

    def peers(self) -> list[bytes]:
        return [peer for bucket in self._buckets.values() for peer in bucket]

    def buckets(self) -> list[tuple[int, list[Seen]]]:
        """The buckets that are not empty, farthest first, by the number of bits that their peers share with our id."""
        return [
            (
                BITS - index,
                [
                    Seen(peer, one.heard, one.failed is not None, one.network)
                    for peer, one in self._buckets[index].items()
                ],
            )
            for index in sorted(self._buckets, reverse=True)
        ]

    def suspects(self, before: float) -> list[bytes]:
        """Peers that failed before that time and have not been heard since."""
        entries = ((peer, one.failed) for bucket in self._buckets.values() for peer, one in bucket.items())
        return [peer for peer, failed in entries if failed is not None and failed < before]

    def stale(self, before: float) -> list[bytes]:
        """Peers last heard before that time, longest ago first."""
        entries = [(one.heard, peer) for bucket in self._buckets.values() for peer, one in bucket.items()]
        return [peer for heard, peer in sorted(entries) if heard < before]

    def __contains__(self, peer: bytes) -> bool:
        return self._entry(peer) is not None

    def __len__(self) -> int:
        return self._size

    def _entry(self, peer: bytes) -> _Entry | None:
        bucket = self._buckets.get((position(peer) ^ self._own).bit_length())
        return bucket.get(peer) if bucket else None

    def _is_there(self, entry: _Entry, now: float) -> None:
        self._suspects -= entry.failed is not None
        entry.heard, entry.failed = now, None

    def _crowded(self, bucket: dict[bytes, _Entry], network: str) -> bool:
        if self._networks.get(network, 0) >= self._per_network:
            return True
        return sum(entry.network == network for entry in bucket.values()) >= self._per_bucket
