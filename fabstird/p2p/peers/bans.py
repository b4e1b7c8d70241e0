"""Bans of peer ids, IP addresses and networks, for a time or for good.

Times are milliseconds of the wall clock, because a ban outlives the daemon. Bans are bounded: the one that ends first
makes room.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

from fabstird.config import LARGEST
from fabstird.p2p.wire.ips import Network, to_ip, to_network

MAX_BANS = 1000
Instant = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]  # milliseconds; a file may hold any number


class Ban(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """``target`` is a peer id, or a network in CIDR notation (a single address is a network of one)."""

    target: str
    since: Instant
    until: Instant | None = None  # None for a permanent ban
    reason: str | None = None

    def covers(self, host: str, peer_id: str) -> bool:
        """Whether the ban forbids a connection with this peer at this IP address."""
        cidr = network(self.target)
        if cidr is None:
            return self.target == peer_id
        ip = to_ip(host)
        return ip is not None and ip in ipaddress.ip_network(cidr)

    def __str__(self) -> str:
        until = "for good" if self.until is None else f"until {_utc(self.until)}"
        return f"{self.target} is banned {until}" + (f": {self.reason}" if self.reason else "")


def network(text: str) -> str | None:
    """The network of an IP address or CIDR text; None where the text is neither."""
    found = to_network(text)
    return None if found is None else str(found)


class Bans:
    """The bans. ``clock`` returns seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bans: dict[str, Ban] = {}
        self._networks: dict[str, Network] = {}

    def restore(self, bans: Iterable[Ban]) -> None:
        """Restore stored bans; expired ones are dropped."""
        for ban in bans:  # possibly of another version, spelled differently
            self._put(msgspec.structs.replace(ban, target=network(ban.target) or ban.target))
        self._expire()

    def add(self, target: str, duration: int | None, reason: str | None) -> Ban:
        """Ban a peer id or a `network` for ``duration`` milliseconds, None for good. It replaces an existing ban."""
        now = int(self._clock() * 1000)
        ban = Ban(target, now, None if duration is None else min(now + duration, LARGEST), reason)
        self._put(ban)
        self._expire()
        while len(self._bans) > MAX_BANS:
            first = min(self._bans.values(), key=lambda one: (one.until is None, one.until or one.since))
            self.remove(first.target)
        return ban

    def remove(self, target: str) -> bool:
        """Remove a ban; whether there was one."""
        self._networks.pop(target, None)
        return self._bans.pop(target, None) is not None

    def all(self) -> list[Ban]:
        self._expire()
        return list(self._bans.values())

    def of_peer(self, peer_id: str) -> Ban | None:
        self._expire()
        return self._bans.get(peer_id)

    def of_ip(self, host: str) -> Ban | None:
        """The ban that covers an IP address. Names are checked once they are resolved."""
        ip = to_ip(host) if self._networks else None
        if ip is None:
            return None
        self._expire()
        for target, one in self._networks.items():
            if ip in one:
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
