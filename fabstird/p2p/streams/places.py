"""Places that peers, or callers, have to share: when all are taken, one that has fewer gets one from the one that has
most. Peers share them by network first, since peer ids cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from fabstird.p2p.wire.ips import block_of_host, group_of_host

if TYPE_CHECKING:
    from fabstird.p2p.net.link import Link

T = TypeVar("T")
Holder = tuple[Hashable, ...]  # who holds a place, and before that what it belongs to, the widest first


def holder(link: Link) -> Holder:
    """The peer of a connection, within its IP address, within its network. One that a relay brings counts for the
    relay's network: nobody knows where it is itself."""
    return *_network(link.pipe.remote.host), link.peer_id


def network(link: Link) -> str:
    """The widest of what the peer of a connection belongs to."""
    return _network(link.pipe.remote.host)[0]


@lru_cache(maxsize=1024)
def _network(host: str) -> tuple[str, str]:
    return block_of_host(host), group_of_host(host)


class Places(Generic[T]):
    """``count`` places in all. A peer alone may have every one; as more peers come, each gets its share: networks share
    all places, the addresses of a network what it has, and the peers of an address what that has. All holders are
    described as deeply."""

    def __init__(self, count: int, give_up: Callable[[T], None]) -> None:
        """``give_up`` is told of what has lost its place to another peer's."""
        self.count = count
        self._give_up = give_up
        self._taken: dict[T, Holder] = {}  # whose it is, the oldest first
        self._parts: dict[Holder, Counter[Holder]] = {}  # how many are held, by what belongs to something
        self._of: dict[Holder, dict[T, None]] = {}  # what a holder has, the oldest first

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, one: T) -> bool:
        return one in self._taken

    def all(self) -> list[T]:
        """Those that have one, the oldest first."""
        return list(self._taken)

    def of(self, peer: Hashable) -> int:
        """How many the peer has, wherever it is."""
        return sum(holder[-1] == peer for holder in self._taken.values())

    def has_room(self, holder: Holder) -> bool:
        """Whether `take` has a place for it: a free one, or that of another which has more even then."""
        return len(self._taken) < self.count or self._from_whom(holder) is not None

    def take(self, one: T, holder: Holder) -> None:
        """Take a place; where all are taken, the newest of who has most gives its place up."""
        if len(self._taken) >= self.count and (most := self._from_whom(holder)) is not None:
            newest = next(reversed(self._of[most]))
            self.leave(newest)
            self._give_up(newest)
        self._taken[one] = holder
        self._of.setdefault(holder, {})[one] = None
        for depth in range(len(holder)):
            self._parts.setdefault(holder[:depth], Counter())[holder[: depth + 1]] += 1

    def leave(self, one: T) -> None:
        """It needs its place no longer; does nothing where it has none."""
        holder = self._taken.pop(one, None)
        if holder is None:
            return
        del self._of[holder][one]
        if not self._of[holder]:
            del self._of[holder]
        for depth in range(len(holder)):
            parts, part = self._parts[holder[:depth]], holder[: depth + 1]
            parts[part] -= 1
            if not parts[part]:
                del parts[part]
            if not parts:
                del self._parts[holder[:depth]]

    def _from_whom(self, holder: Holder) -> Holder | None:
        """Who has to give a place up for it: at the widest level at which somebody has more than it has even then."""
        for depth in range(len(holder)):
            parts = self._parts.get(holder[:depth])
            if parts is None:
                return None
            most = _busiest(parts)
            if parts[most] > parts[holder[: depth + 1]] + 1:
                while most in self._parts:
                    most = _busiest(self._parts[most])
                return most
        return None


def _busiest(parts: Counter[Holder]) -> Holder:
    """Who has most, and has come last of several."""
    return max(reversed(parts), key=parts.__getitem__)
