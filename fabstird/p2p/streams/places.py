"""A limited number of places, shared fairly by peers or callers: when all are taken, a newcomer with fewer places gets
one from the holder with the most. Peers share by network first, because peer ids cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from fabstird.p2p.wire.ips import block_of_host, group_of_host

if TYPE_CHECKING:
    from fabstird.p2p.net.link import Link

T = TypeVar("T")
Holder = tuple[Hashable, ...]  # who holds a place, last; before it the groups that it belongs to, the widest first


def holder(link: Link) -> Holder:
    """The peer of a connection, within its IP address, within its network. A relayed peer counts towards the relay's
    network, because its own is unknown."""
    return *_groups(link.pipe.remote.host), link.peer_id


def network(link: Link) -> str:
    """The network of a connection's peer, as in `holder`."""
    return _groups(link.pipe.remote.host)[0]


@lru_cache(maxsize=1024)
def _groups(host: str) -> tuple[str, str]:
    return block_of_host(host), group_of_host(host)


class Places(Generic[T]):
    """``count`` places. One peer alone may have all of them. As more peers come, each gets its share: networks share
    all places, the addresses of a network share the network's, and the peers of an address share the address's. All
    holders of one `Places` must have the same length."""

    def __init__(self, count: int, give_up: Callable[[T], None]) -> None:
        """``give_up`` is called with each item that loses its place to another holder's."""
        self.count = count
        self._give_up = give_up
        self._taken: dict[T, Holder] = {}  # oldest first
        self._members: dict[Holder, Counter[Holder]] = {}  # of each group: how many places each of its members has
        self._of: dict[Holder, dict[T, None]] = {}  # the items of each holder, oldest first

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, item: T) -> bool:
        return item in self._taken

    def all(self) -> list[T]:
        """The items that have a place, oldest first."""
        return list(self._taken)

    def of(self, peer: Hashable) -> int:
        """How many places a peer has, over all its addresses."""
        return sum(holder[-1] == peer for holder in self._taken.values())

    def has_room(self, holder: Holder) -> bool:
        """Whether `take` would find a place: a free one, or one of a holder that would still have at least as many."""
        return len(self._taken) < self.count or self._from_whom(holder) is not None

    def take(self, item: T, holder: Holder) -> None:
        """Take a place. If all are taken, the holder with the most loses the place of its newest item."""
        if len(self._taken) >= self.count and (most := self._from_whom(holder)) is not None:
            newest = next(reversed(self._of[most]))
            self.leave(newest)
            self._give_up(newest)
        self._taken[item] = holder
        self._of.setdefault(holder, {})[item] = None
        for depth in range(len(holder)):
            self._members.setdefault(holder[:depth], Counter())[holder[: depth + 1]] += 1

    def leave(self, item: T) -> None:
        """Free the item's place; does nothing if it has none."""
        holder = self._taken.pop(item, None)
        if holder is None:
            return
        del self._of[holder][item]
        if not self._of[holder]:
            del self._of[holder]
        for depth in range(len(holder)):
            members, member = self._members[holder[:depth]], holder[: depth + 1]
            members[member] -= 1
            if not members[member]:
                del members[member]
            if not members:
                del self._members[holder[:depth]]

    def _from_whom(self, holder: Holder) -> Holder | None:
        """The holder that must give up a place for ``holder``. This is decided at the widest level where another group
        has at least two places more than the newcomer's: after the exchange it still has no fewer."""
        for depth in range(len(holder)):
            members = self._members.get(holder[:depth])
            if members is None:
                return None
            most = _busiest(members)
            if members[most] > members[holder[: depth + 1]] + 1:
                while most in self._members:
                    most = _busiest(self._members[most])
                return most
        return None


def _busiest(members: Counter[Holder]) -> Holder:
    """The member with the most places; of several, the one that came last."""
    return max(reversed(members), key=members.__getitem__)
