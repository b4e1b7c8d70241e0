"""Values held for others, bounded in number, bytes and age. Pure; times are seconds.

Senders share the store fairly. A sender has `PER_SENDER` places. Where the store is full, whoever holds most, by
network and then by sender, loses the value farthest from this node. So many keys, or many ids in one network, push each
other out and not what others have put. A value put by its owner (`keys.owner`) outlasts strangers' values, and no
stranger replaces it. Our own values have separate places.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

from fabstird.p2p.dht import keys
from fabstird.p2p.dht.routing import position

LIFE = 48 * 3600.0  # seconds that a record is held: the specification's for providers, go-libp2p's for values
MAX_VALUES = 1024
MAX_BYTES = 4 * 1024 * 1024  # of all values and keys
PER_SENDER = 64
OVERHEAD = 400  # bytes that a record takes besides its contents


class Refused(ValueError):
    """The record is not accepted; the message says why."""


def validate(key: bytes, value: bytes) -> None:
    """Check a value. Raises `Refused`. Nobody can tell who owns the value of a key without a namespace, as in
    rust-libp2p."""
    name = keys.namespace(key)
    if name is None:
        return
    if name != "pk":
        raise Refused(f"there is no validator for /{name}/")
    inlined = b"/pk/\x00" + bytes([len(value)]) + value if len(value) < 128 else None
    if key != b"/pk/\x12\x20" + sha256(value).digest() and key != inlined:
        raise Refused("the public key is not the one that its key names")


@dataclass(frozen=True, slots=True)
class Held:
    """A value. ``by_owner``: its owner put it, over a connection that proves its id."""

    value: bytes
    at: float
    by_owner: bool
    sender: bytes
    network: str | None
    distance: int  # from this node
    size: int


class Values:
    """The values of one node. ``max_value`` is in bytes."""

    def __init__(self, own_id: bytes, max_value: int) -> None:
        self._own_id = own_id
        self._own = position(own_id)
        self._max_value = max_value
        self._mine: dict[bytes, Held] = {}
        self._held: dict[bytes, Held] = {}
        self._senders: Counter[bytes] = Counter()
        self._networks: Counter[str | bytes] = Counter()
        self.size = 0  # bytes held for others

    def put(self, key: bytes, value: bytes, sender: bytes, now: float, network: str | None = None) -> None:
        """Hold a value. ``network`` is where the sender is. Raises `Refused`."""
        if not key or len(key) > keys.MAX_KEY:
            raise Refused(f"a key of {len(key)} bytes; 1 to {keys.MAX_KEY} are taken")
        if len(value) > self._max_value:
            raise Refused(f"a value of {len(value)} bytes; {self._max_value} are taken")
        validate(key, value)
        by_owner = keys.owner(key) == sender
        old = self.get(key, now)
        if old is not None and old.by_owner and not by_owner and old.value != value:
            raise Refused("its owner has put another value")
        by_owner = by_owner or (old is not None and old.by_owner)
        size = len(key) + len(value) + OVERHEAD
        new = Held(value, now, by_owner, sender, network, position(key) ^ self._own, size)
        if sender == self._own_id:
            self._drop(key)
            self._mine[key] = new
        elif old is not None and old.sender == self._own_id:
            if old.value != value:
                raise Refused("this node has put another value")
        else:
            self._make_room(key, new, now)
            self._drop(key)
            self._held[key] = new
            self._count(new, 1)

    def get(self, key: bytes, now: float) -> Held | None:
        held = self._mine.get(key) or self._held.get(key)
        if held is not None and held.at + LIFE <= now:
            self._drop(key)
            self._mine.pop(key, None)
            return None
        return held

    def forget(self, key: bytes) -> None:
        """This node no longer puts the value itself."""
        self._mine.pop(key, None)

    def sweep(self, now: float) -> None:
        """Drop expired values."""
        for key, held in list(self._held.items()):
            if held.at + LIFE <= now:
                self._drop(key)
        self._mine = {key: held for key, held in self._mine.items() if held.at + LIFE > now}

    def __len__(self) -> int:
        """The number of values held for others."""
        return len(self._held)

    def _make_room(self, key: bytes, new: Held, now: float) -> None:
        """Make room for a new value. Raises `Refused`."""
        old = self._held.get(key)
        if self._senders[new.sender] - (old is not None and old.sender == new.sender) >= PER_SENDER:
            self._replace(key, new, [one for one, held in self._held.items() if held.sender == new.sender])
        swept = False
        while len(self._held) + (key not in self._held) > MAX_VALUES or self._size_with(key, new) > MAX_BYTES:
            if not swept:
                self.sweep(now)
                swept = True
                continue
            group = max([*self._networks, _group(new)], key=lambda one: self._networks[one] + (one == _group(new)))
            counts = Counter(held.sender for held in self._held.values() if _group(held) == group)
            if group == _group(new):
                counts[new.sender] += 1
            sender = max(counts, key=lambda one: counts[one])
            self._replace(
                key, new, [one for one, held in self._held.items() if (_group(held), held.sender) == (group, sender)]
            )

    def _replace(self, key: bytes, new: Held, candidates: list[bytes]) -> None:
        """Drop the lowest-ranking candidate, unless the new value ranks lower and has the same sender. Raises
        `Refused`."""
        worst = max((one for one in candidates if one != key), key=lambda one: _rank(self._held[one]), default=None)
        if worst is None or (self._held[worst].sender == new.sender and _rank(self._held[worst]) <= _rank(new)):
            raise Refused("this node is full, and holds what is closer to it")
        self._drop(worst)

    def _size_with(self, key: bytes, new: Held) -> int:
        old = self._held.get(key)
        return self.size + new.size - (old.size if old is not None else 0)

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._count(held, -1)

    def _count(self, held: Held, change: int) -> None:
        self.size += change * held.size
        self._senders[held.sender] += change
        self._networks[_group(held)] += change
        if not self._senders[held.sender]:
            del self._senders[held.sender]
        if not self._networks[_group(held)]:
            del self._networks[_group(held)]


def _group(held: Held) -> str | bytes:
    return held.sender if held.network is None else held.network


def _rank(held: Held) -> tuple[bool, int]:
    """The higher, the sooner the value is dropped."""
    return not held.by_owner, held.distance
