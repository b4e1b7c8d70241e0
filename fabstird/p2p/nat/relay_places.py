"""Whom a relay of ours serves: reservations, and circuits between two peers, each bounded by peer, by IP address and by
network. Synchronous; times are the caller's, in seconds of the wall clock, since peers are told them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fabstird.p2p.wire.ips import group, neighbourhood, to_ip

# As go-libp2p's DefaultResources; a network is an IPv4 /16 or an IPv6 /32, where go looks up who runs it
LASTS = 3600  # seconds of a reservation; it may be renewed
PER_ADDRESS = 8  # reservations from one IP address, or one IPv6 /64
PER_NETWORK = 32
CIRCUITS = 256  # at a time, of all peers together: each has buffers of two streams
FROM_ADDRESS = 32  # of them, for those who ask from one IP address; or what one peer may have, where that is more
FROM_NETWORK = 64  # likewise, from one network


@dataclass(frozen=True, slots=True)
class _Place:
    expires: int
    address: str
    network: str


class Places:
    """``reservations`` and ``circuits`` (those of one peer, whichever side it is on) are the operator's bounds."""

    def __init__(self, reservations: int, circuits: int) -> None:
        self._most = reservations
        self._most_circuits = circuits
        self._most_from = max(FROM_ADDRESS, circuits), max(FROM_NETWORK, circuits)
        self._places: dict[str, _Place] = {}  # by peer id
        self._circuits: Counter[str] = Counter()  # by peer id
        self._from: Counter[str] = Counter()  # circuits by the address, and by the network, of who asked for them
        self.circuits = 0

    @property
    def reservations(self) -> int:
        return len(self._places)

    def reserve(self, peer_id: str, host: str, now: float) -> int | None:
        """A place for whoever asks from ``host``, or its old one anew: when it expires; None where there is none."""
        ip = to_ip(host)
        if ip is None:
            return None
        for peer in [peer for peer, place in self._places.items() if place.expires <= now]:
            self.release(peer)
        place = _Place(int(now) + LASTS, group(ip), neighbourhood(ip))
        others = [other for peer, other in self._places.items() if peer != peer_id]
        if (
            len(others) >= self._most
            or sum(other.address == place.address for other in others) >= PER_ADDRESS
            or sum(other.network == place.network for other in others) >= PER_NETWORK
        ):
            return None
        self._places[peer_id] = place
        return place.expires

    def release(self, peer_id: str) -> None:
        """It has gone, and its place with it."""
        self._places.pop(peer_id, None)

    def holds(self, peer_id: str, now: float) -> bool:
        """It has a place."""
        place = self._places.get(peer_id)
        if place is not None and place.expires <= now:
            self.release(peer_id)
            return False
        return place is not None

    def begin(self, source: str, target: str, host: str) -> bool:
        """One more circuit to ``target`` for ``source``, who asks from ``host``, if there may be one; `end` gives it
        back."""
        most, origin = self._most_circuits, _origin(host)
        if self.circuits >= CIRCUITS or any(
            self._from[part] >= most_from for part, most_from in zip(origin, self._most_from, strict=True)
        ):
            return False
        if self._circuits[source] >= most or self._circuits[target] >= most:
            return False
        self.circuits += 1
        self._circuits.update((source, target))
        self._from.update(origin)
        return True

    def end(self, source: str, target: str, host: str) -> None:
        self.circuits -= 1
        for counter, keys in ((self._circuits, (source, target)), (self._from, _origin(host))):
            for key in keys:
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]


def _origin(host: str) -> tuple[str, str]:
    """The IP address, and the network, from which somebody asks; a name is one of its own."""
    ip = to_ip(host)
    return (host, f"network {host}") if ip is None else (group(ip), f"network {neighbourhood(ip)}")
