"""Provider records held for others, bounded in number, bytes and age. Pure; times are seconds.

As in `values`, where the store or a key's share of it is full, whoever holds most loses first: by network, then by
provider. A popular key has up to `PER_KEY` providers, and each answer names a random selection, balanced over networks,
so that neither many providers nor many made-up ones hide the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

from fabstird.p2p.dht import keys
from fabstird.p2p.dht.messages import Peer
from fabstird.p2p.dht.routing import position
from fabstird.p2p.dht.values import LIFE, OVERHEAD, Refused

MAX_RECORDS = 16384  # pairs of key and provider
MAX_BYTES = 8 * 1024 * 1024
PER_KEY = 1024
PER_PROVIDER = 512  # keys


@dataclass(frozen=True, slots=True)
class _Record:
    at: float
    addresses: tuple[bytes, ...]
    group: str | bytes  # the provider's network, or the provider itself
    size: int


@dataclass(slots=True)
class _Key:
    distance: int  # from this node
    records: dict[bytes, _Record] = field(default_factory=dict)  # by provider


class Providers:
    def __init__(self, own_id: bytes, chance: Random | None = None) -> None:
        self._own = position(own_id)
        self._chance = chance or Random()
        self._keys: dict[bytes, _Key] = {}
        self._groups: dict[str | bytes, Counter[bytes]] = {}  # by network: how many records of each provider
        self._by: defaultdict[bytes, set[bytes]] = defaultdict(set)  # keys by provider
        self.records = 0
        self.size = 0  # bytes

    def add(self, key: bytes, provider: Peer, now: float, network: str | None = None) -> None:
        """Add a provider; one that comes again starts its time again. ``network`` is where it is. Raises `Refused`."""
        if not key or len(key) > keys.MAX_PROVIDED:
            raise Refused(f"a provided key of {len(key)} bytes; 1 to {keys.MAX_PROVIDED} are taken")
        entry = self._keys.get(key)
        if entry is not None and provider.id in entry.records:
            self._drop(key, provider.id)
        elif len(self._by.get(provider.id, ())) >= PER_PROVIDER:
            raise Refused(f"it provides {PER_PROVIDER} keys already")
        size = OVERHEAD + len(key) + len(provider.id) + sum(map(len, provider.addresses))
        record = _Record(now, provider.addresses, provider.id if network is None else network, size)
        if entry is not None and len(entry.records) >= PER_KEY:
            self._make_room_under(key, entry)
        if self.records >= MAX_RECORDS or self.size + size > MAX_BYTES:
            self.sweep(now)
        while self.records >= MAX_RECORDS or self.size + size > MAX_BYTES:
            self._make_room()
        entry = self._keys.setdefault(key, _Key(position(key) ^ self._own))
        entry.records[provider.id] = record
        self._groups.setdefault(record.group, Counter())[provider.id] += 1
        self._by[provider.id].add(key)
        self.records += 1
        self.size += size

    def get(self, key: bytes, now: float, count: int = PER_KEY, asker: bytes = b"") -> list[Peer]:
        """Providers of a key. Of more than ``count``, a random selection, balanced over networks. An asker that
        provides the key itself is included: it wants to know whether it still is a provider."""
        entry = self._keys.get(key)
        if entry is None:
            return []
        alive = [peer for peer, record in entry.records.items() if record.at + LIFE > now]
        if len(alive) > count:
            chosen = self._some(entry, alive, count)
            alive = [asker, *[peer for peer in chosen if peer != asker][: count - 1]] if asker in alive else chosen
        return [Peer(peer, entry.records[peer].addresses) for peer in alive]

    def sweep(self, now: float) -> None:
        """Drop expired records."""
        for key, entry in list(self._keys.items()):
            for peer, record in list(entry.records.items()):
                if record.at + LIFE <= now:
                    self._drop(key, peer)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._keys)

    def _some(self, entry: _Key, alive: list[bytes], count: int) -> list[bytes]:
        groups: defaultdict[str | bytes, list[bytes]] = defaultdict(list)
        for peer in alive:
            groups[entry.records[peer].group].append(peer)
        if len(groups) == len(alive):
            return self._chance.sample(alive, count)
        chosen: list[bytes] = []
        left = list(groups.values())
        while len(chosen) < count:
            self._chance.shuffle(left)
            for group in left[: count - len(chosen)]:
                chosen.append(group.pop(self._chance.randrange(len(group))))
            left = [group for group in left if group]
        return chosen

    def _make_room_under(self, key: bytes, entry: _Key) -> None:
        groups = Counter(record.group for record in entry.records.values())
        most = max(groups.values())
        self._drop(
            key,
            min(
                (peer for peer, record in entry.records.items() if groups[record.group] == most),
                key=lambda peer: entry.records[peer].at,
            ),
        )

    def _make_room(self) -> None:
        group = max(self._groups.values(), key=Counter.total)
        provider = max(group, key=lambda peer: group[peer])
        self._drop(max(self._by[provider], key=lambda key: self._keys[key].distance), provider)

    def _drop(self, key: bytes, provider: bytes) -> None:
        entry = self._keys[key]
        record = entry.records.pop(provider)
        if not entry.records:
            del self._keys[key]
        group = self._groups[record.group]
        group[provider] -= 1
        if not group[provider]:
            del group[provider]
        if not group:
            del self._groups[record.group]
        self._by[provider].discard(key)
        if not self._by[provider]:
            del self._by[provider]
        self.records -= 1
        self.size -= record.size
