"""What this node holds for others: values and providers, bounded in number, size and age. Pure; times are seconds.

Where a store is full, what lies closest to this node in the keyspace stays: that is what others will ask it for. A
value is what its validator lets pass; one whose key names its owner (`keys.owner`) cannot be replaced by a stranger
once the owner has put it here itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from fabstird.p2p.dht import keys
from fabstird.p2p.dht.messages import Peer
from fabstird.p2p.dht.routing import position

T = TypeVar("T")

LIFE = 48 * 3600.0  # seconds that a record lives: the specification's for providers, go-libp2p's for values
MAX_VALUES = 1024
MAX_PROVIDED = 4096  # keys
MAX_PROVIDERS = 64  # of one key
MAX_PROVIDED_BY = 512  # keys of one provider


class Refused(ValueError):
    """The record is not taken; the message says why."""


def validate(key: bytes, value: bytes) -> None:
    """Raises `Refused`. Whose word a value under a key without a namespace is, nobody knows, as in rust-libp2p."""
    name = keys.namespace(key)
    if name is None:
        return
    if name != "pk":
        raise Refused(f"there is no validator for /{name}/")
    expected = sha256(value).digest()
    if key != b"/pk/\x12\x20" + expected and key != b"/pk/\x00" + bytes([len(value)]) + value:
        raise Refused("the public key is not the one that its key names")


@dataclass(frozen=True, slots=True)
class Held:
    """``by_owner``: its owner put it here, over a connection that proves who it is."""

    value: bytes
    at: float
    by_owner: bool


class Values:
    """``max_value`` in bytes."""

    def __init__(self, own_id: bytes, max_value: int) -> None:
        self._own = position(own_id)
        self._max_value = max_value
        self._held: dict[bytes, Held] = {}

    def put(self, key: bytes, value: bytes, sender: bytes, now: float) -> None:
        """Raises `Refused`."""
        if not key or len(key) > keys.MAX_KEY:
            raise Refused(f"a key of {len(key)} bytes; 1 to {keys.MAX_KEY} are taken")
        if len(value) > self._max_value:
            raise Refused(f"a value of {len(value)} bytes; {self._max_value} are taken")
        validate(key, value)
        by_owner = keys.owner(key) == sender
        old = self.get(key, now)
        if old is not None and old.by_owner and not by_owner and old.value != value:
            raise Refused("its owner has put another value")
        if old is None:
            self._make_room(key, now)
        self._held[key] = Held(value, now, by_owner or (old is not None and old.by_owner))

    def get(self, key: bytes, now: float) -> Held | None:
        held = self._held.get(key)
        if held is not None and held.at + LIFE <= now:
            del self._held[key]
            return None
        return held

    def sweep(self, now: float) -> None:
        """Drop what has outlived its time."""
        self._held = {key: held for key, held in self._held.items() if held.at + LIFE > now}

    def _make_room(self, key: bytes, now: float) -> None:
        if len(self._held) < MAX_VALUES:
            return
        self.sweep(now)
        if len(self._held) >= MAX_VALUES:
            _drop_farthest(self._held, key, self._own)

    def __len__(self) -> int:
        return len(self._held)


@dataclass(slots=True)
class _Provided:
    providers: dict[bytes, tuple[float, tuple[bytes, ...]]] = field(default_factory=dict)  # when, and addresses


class Providers:
    """Who says that it has what a key stands for."""

    def __init__(self, own_id: bytes) -> None:
        self._own = position(own_id)
        self._keys: dict[bytes, _Provided] = {}
        self._by: dict[bytes, int] = {}

    def add(self, key: bytes, provider: Peer, now: float) -> None:
        """Raises `Refused`. A provider that comes again begins its time again."""
        if not key or len(key) > keys.MAX_PROVIDED:
            raise Refused(f"a provided key of {len(key)} bytes; 1 to {keys.MAX_PROVIDED} are taken")
        entry = self._keys.get(key)
        if entry is None or provider.id not in entry.providers:
            if self._by.get(provider.id, 0) >= MAX_PROVIDED_BY:
                raise Refused(f"it provides {MAX_PROVIDED_BY} keys already")
            if entry is None:
                self._make_room(key, now)
                entry = self._keys[key] = _Provided()
            if len(entry.providers) >= MAX_PROVIDERS:
                oldest = min(entry.providers, key=lambda one: entry.providers[one][0])
                self._forget(key, oldest)
            self._by[provider.id] = self._by.get(provider.id, 0) + 1
        entry.providers[provider.id] = (now, provider.addresses)

    def get(self, key: bytes, now: float) -> list[Peer]:
        """The providers of a key, the latest first."""
        entry = self._keys.get(key)
        if entry is None:
            return []
        alive = {peer: found for peer, found in entry.providers.items() if found[0] + LIFE > now}
        return [Peer(peer, alive[peer][1]) for peer in sorted(alive, key=lambda peer: -alive[peer][0])]

    def sweep(self, now: float) -> None:
        """Drop what has outlived its time."""
        for key in list(self._keys):
            for peer, (at, _) in list(self._keys[key].providers.items()):
                if at + LIFE <= now:
                    self._forget(key, peer)
            if not self._keys[key].providers:
                del self._keys[key]

    def _make_room(self, key: bytes, now: float) -> None:
        if len(self._keys) < MAX_PROVIDED:
            return
        self.sweep(now)
        if len(self._keys) >= MAX_PROVIDED:
            dropped = _drop_farthest(self._keys, key, self._own)
            for peer in dropped.providers:
                self._count_down(peer)

    def _forget(self, key: bytes, peer: bytes) -> None:
        del self._keys[key].providers[peer]
        self._count_down(peer)

    def _count_down(self, peer: bytes) -> None:
        self._by[peer] -= 1
        if not self._by[peer]:
            del self._by[peer]

    def __len__(self) -> int:
        return len(self._keys)


def _drop_farthest(held: dict[bytes, T], newcomer: bytes, own: int) -> T:
    farthest = max(held, key=lambda key: position(key) ^ own)
    if position(newcomer) ^ own >= position(farthest) ^ own:
        raise Refused("this node is full, and holds what is closer to it")
    return held.pop(farthest)
