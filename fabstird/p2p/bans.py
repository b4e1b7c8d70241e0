"""Who is kept out: peers by id, and addresses by IP or network, for a time or for good.

Times are instants in milliseconds of the wall clock, because a ban outlives the daemon. Bounded: the ban that ends
first makes room.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable

import msgspec

MAX_BANS = 1000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Ban(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """``target`` is a peer id, or a network in CIDR notation (a single address is a network of one)."""

    target: str
    since: int
    until: int | None = None  # None: for good
    reason: str | None = None

    def covers(self, host: str, peer_id: str) -> bool:
        """Whether it forbids a connection with this peer at this IP address."""
        cidr = network(self.target)
        return self.target == peer_id if cidr is None else ipaddress.ip_address(host) in ipaddress.ip_network(cidr)

    def __str__(self) -> str:
        until = "for good" if self.until is None else f"until {_utc(self.until)}"
        return f"{self.target} is banned {until}" + (f": {self.reason}" if self.reason else "")


def network(text: str) -> str | None:
    """An IP address or network in CIDR notation; None where the text is neither."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


class Bans:
    """``clock`` gives seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bans: dict[str, Ban] = {}
        self._networks: dict[str, Network] = {}

    def restore(self, bans: Iterable[Ban]) -> None:
        """Take over what was stored; what has ended by now is left out."""
        for ban in bans:
            self._put(ban)
        self._expire()

    def add(self, target: str, duration: int | None, reason: str | None) -> Ban:
        """Ban a peer id or a `network` for ``duration`` milliseconds, None for good; replaces a ban that is there."""
        now = int(self._clock() * 1000)
        ban = Ban(target, now, None if duration is None else now + duration, reason)
        self._put(ban)
        self._expire()
        while len(self._bans) > MAX_BANS:
            first = min(self._bans.values(), key=lambda one: (one.until is None, one.until or one.since))
            self.remove(first.target)
        return ban

    def remove(self, target: str) -> bool:
        """Whether there was such a ban."""
        self._networks.pop(target, None)
        return self._bans.pop(target, None) is not None

    def all(self) -> list[Ban]:
        self._expire()
        return list(self._bans.values())

    def of_peer(self, peer_id: str) -> Ban | None:
        self._expire()
        return self._bans.get(peer_id)

    def of_ip(self, host: str) -> Ban | None:
        if not self._networks:
            return None
        self._expire()
        address = ipaddress.ip_address(host)
        for target, one in self._networks.items():
            if address in one:
                return self._bans[target]
        return None

    def _put(self, ban: Ban) -> None:
        self._bans[ban.target] = ban
        if (cidr := network(ban.target)) is not None:
            self._networks[ban.target] = ipaddress.ip_network(cidr)

    def _expire(self) -> None:
        now = self._clock() * 1000
        for ban in [ban for ban in self._bans.values() if ban.until is not None and ban.until <= now]:
            self.remove(ban.target)

    def __len__(self) -> int:
        return len(self._bans)


def _utc(instant: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(instant / 1000))
