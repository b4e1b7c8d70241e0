"""Decides which connections get a place. It is synchronous and takes times from the caller; the swarm owns the
connections.

A connection takes a place when it is up, or when we dial it. Newcomers shake hands in the places that are left, and may
lose them to others meanwhile, so silent strangers keep out neither our own dials nor newcomers from elsewhere. A few
places are reserved for our own dials. One IP address, or one IPv6 /64, gets at most `Limits.max_per_ip` places.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import trio

from fabstird.p2p.muxer.pulse import Liveness
from fabstird.p2p.net.link import Link
from fabstird.p2p.wire.ips import IP, canonical, group, group_of_host, to_ip

RESERVED = 8  # places reserved for our own dials, or a sixteenth of all if that is fewer
ORIGINS = 4096  # IP addresses whose rate of arrival is remembered


@dataclass(slots=True)
class Limits:
    """The limits for connections. They are read at each decision, so a change applies from then on."""

    max: int
    max_per_ip: int
    handshake_timeout: float  # seconds
    liveness: Liveness = field(default_factory=Liveness)
    max_new_per_ip: int = 0  # a second, after `max_per_ip` at once; 0 for no limit


class Gate(Protocol):
    """Says which connections to refuse: before the handshake by IP address, after it by peer."""

    def refusal(self, host: str | None, peer_id: str | None) -> str | None: ...


class Observer(Protocol):
    """Called with each connection, synchronously and in order. It must be quick and must not raise."""

    def connected(self, link: Link) -> None: ...

    def disconnected(self, link: Link) -> None: ...


@dataclass(slots=True, eq=False)
class Newcomer:
    """An inbound connection. ``origin`` counts towards `max_per_ip`; it is None for a relayed one, whose address is the
    relay's. ``handshake`` is cancelled when another connection takes its place."""

    origin: str | None
    handshake: trio.CancelScope = field(default_factory=trio.CancelScope)


class Admission:
    """The places. ``taken`` counts connections that are up, and our own dials."""

    def __init__(self) -> None:
        self.taken = 0
        self._shaking: dict[Newcomer, None] = {}  # newcomers during their handshake, oldest first
        self._from: Counter[str] = Counter()  # inbound connections by origin, handshakes included

    @property
    def shaking(self) -> int:
        """Newcomers during their handshake."""
        return len(self._shaking)

    def dial(self, most: int) -> bool:
        """Take a place for our own dial, if there is one; `leave` returns it."""
        if self.taken >= most:
            return False
        self.taken += 1
        if self.taken + self.shaking > most:
            self._send_away(self._crowd())
        return True

    def leave(self) -> None:
        """Our own dial failed, or its connection has ended."""
        self.taken -= 1

    def come(self, host: str, most: int, most_of_origin: int, *, relayed: bool = False) -> Newcomer | None:
        """Admit a newcomer to its handshake; None where there is no place."""
        newcomer = Newcomer(None if relayed else group_of_host(host))
        if newcomer.origin is not None and self._from[newcomer.origin] >= most_of_origin:
            return None
        if self.taken >= _open_to_all(most):
            return None
        if self.taken + self.shaking >= most:
            crowd = self._crowd()
            if crowd == newcomer.origin:
                return None
            self._send_away(crowd)
        self._shaking[newcomer] = None
        if newcomer.origin is not None:
            self._from[newcomer.origin] += 1
        return newcomer

    def settle(self, newcomer: Newcomer, most: int) -> bool:
        """The newcomer's handshake is done: whether there is a place for it. `go` must be called in either case."""
        if newcomer not in self._shaking or self.taken >= _open_to_all(most):
            return False
        del self._shaking[newcomer]
        self.taken += 1
        return True

    def go(self, newcomer: Newcomer, *, settled: bool) -> None:
        """The newcomer has gone."""
        self._shaking.pop(newcomer, None)
        self.taken -= settled
        if newcomer.origin is not None:
            self._from[newcomer.origin] -= 1
            if not self._from[newcomer.origin]:
                del self._from[newcomer.origin]

    def _crowd(self) -> str | None:
        """The origin with most newcomers."""
        return Counter(one.origin for one in self._shaking).most_common(1)[0][0]

    def _send_away(self, origin: str | None) -> None:
        first = next(one for one in self._shaking if one.origin == origin)
        del self._shaking[first]
        first.handshake.cancel()


class Arrivals:
    """Limits how often newcomers come from an IP address, or an IPv6 /64: a token bucket each. An address that has been
    away longest has a full bucket, and is forgotten first. As in go-libp2p's resource manager, programs on the same
    machine are not limited."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Addresses remembered, and their bound."""
        return {"newcomerAddresses": (len(self._buckets), ORIGINS)}

    def admits(self, remote: str, local: str, a_second: int, at_once: int, now: float) -> bool:
        """Whether one more newcomer from ``remote`` may come to our address ``local``. An ``a_second`` of 0 means no
        limit."""
        ip = to_ip(remote)
        if not a_second or ip is None or _is_of_this_machine(ip, local):
            return True
        origin = group(ip)
        tokens, counted = self._buckets.pop(origin, (float(at_once), now))
        tokens = min(float(at_once), tokens + (now - counted) * a_second)
        admitted = tokens >= 1
        self._buckets[origin] = (tokens - admitted, now)
        if len(self._buckets) > ORIGINS:
            self._buckets.popitem(last=False)
        return admitted


def _is_of_this_machine(ip: IP, local: str) -> bool:
    return canonical(ip).is_loopback or ip == to_ip(local)


def _open_to_all(most: int) -> int:
    return most - min(RESERVED, most // 16)
