"""Which ports the router maps to this node, until when, and when to ask again. Pure: times are seconds of the caller's
clock.

A router's answer is a stranger's word: an external address that leads nowhere, a port 0 or a lease of a moment is
refused, and a lease of years is looked after as often as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from fabstird.p2p.wire.addresses import QUIC, Address, parse
from fabstird.p2p.wire.ips import IP, canonical, reach

MethodName = Literal["pcp", "nat-pmp", "upnp"]
Kind = Literal["tcp", "udp"]

LEASE = 1200  # seconds that are asked for; at half of it a router is noticed that was restarted or moved
SHORTEST_LEASE = 60  # seconds; a router that grants less would be asked without end
LONGEST_LEASE = 7 * 86400  # seconds that are believed
FIRST_PAUSE, LAST_PAUSE = 30.0, 1800.0  # seconds after a round in which not every port was mapped; doubles each time
MAX_MAPPINGS = 16  # ports


class MappingError(Exception):
    """The router does not map; the message says why."""


class Port(NamedTuple):
    """One that the node listens on."""

    kind: Kind
    number: int

    def __str__(self) -> str:
        return str(self.number) if self.kind == "tcp" else f"{self.number} (UDP)"


def port_of(listener: Address) -> Port:
    return Port("udp" if listener.transport == QUIC else "tcp", listener.port)


@dataclass(frozen=True, slots=True)
class Grant:
    """The router's answer: what comes to ``external`` at ``external_port`` is led to ``port`` here."""

    port: int
    external: IP
    external_port: int
    lease: int | None  # seconds; None for one without an end
    method: MethodName
    kind: Kind = "tcp"

    @property
    def here(self) -> Port:
        return Port(self.kind, self.port)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A grant that holds, as an address of this node without its peer id."""

    address: Address
    grant: Grant
    until: float | None

    @property
    def is_public(self) -> bool:
        """Whether others than the provider's own customers can dial it."""
        return reach(self.grant.external) == "global"


def checked(grant: Grant) -> Grant:
    """The grant, if it makes sense. Raises `MappingError`."""
    external = canonical(grant.external)
    if external.is_unspecified:
        raise MappingError("the router has no external address at present")
    if reach(external) not in ("global", "private"):
        raise MappingError(f"the router says that its external address is {external}, which leads nowhere")
    if not grant.external_port:
        raise MappingError("the router names no external port")
    if grant.lease is None:
        return replace(grant, external=external)
    if grant.lease < SHORTEST_LEASE:
        raise MappingError(f"the router grants {grant.lease} s, and less than {SHORTEST_LEASE} s are too little")
    return replace(grant, external=external, lease=min(grant.lease, LONGEST_LEASE))


def wanted(listening: Iterable[str], local: IP) -> list[Address]:
    """The listeners that the router can lead to: those at the address that this machine has in the router's
    network, one of each port, at most `MAX_MAPPINGS`. ``listening`` are multiaddrs, wildcards taken apart."""
    found: dict[Port, Address] = {}
    for text in listening:
        address = parse(text).bare
        if address.host == str(local):
            found.setdefault(port_of(address), address)
    return list(found.values())[:MAX_MAPPINGS]


@dataclass(slots=True)
class Mappings:
    """``held``: by listening port. What changes is returned by whatever changes it: a mapping that came, one that
    went."""

    held: dict[Port, Mapping] = field(default_factory=dict)
    _retry: float | None = None  # when the ports that are missing are asked for again
    _pause: float = FIRST_PAUSE
    _renewal: float | None = None

    def take(self, listener: Address, grant: Grant, now: float) -> tuple[list[Mapping], list[Mapping]]:
        """The router maps it, or goes on doing so. Returns what is gone by that and what is new: nothing where only the
        lease was renewed."""
        until = None if grant.lease is None else now + grant.lease
        external = grant.external
        kind = "ip4" if external.version == 4 else "ip6"
        address = replace(listener, kind=kind, host=str(external), port=grant.external_port)
        mapping = Mapping(address, grant, until)
        before = self.held.get(grant.here)
        self.held[grant.here] = mapping
        if before is not None and (before.address, before.grant.method) == (address, grant.method):
            return [], []
        return ([before] if before is not None else []), [mapping]

    def expire(self, now: float) -> list[Mapping]:
        """Forget and return those whose lease is over."""
        gone = [mapping for mapping in self.held.values() if mapping.until is not None and mapping.until <= now]
        for mapping in gone:
            del self.held[mapping.grant.here]
        return gone

    def keep(self, ports: Iterable[Port]) -> list[Mapping]:
        """Forget and return those of other ports."""
        kept = set(ports)
        gone = [mapping for port, mapping in self.held.items() if port not in kept]
        self.held = {port: mapping for port, mapping in self.held.items() if port in kept}
        return gone

    def asked(self, missing: Sequence[Address], now: float) -> None:
        """A round is over, in which these were not mapped."""
        leases = [min(mapping.grant.lease or LEASE, LEASE) for mapping in self.held.values()]
        self._renewal = now + min(leases) / 2 if leases else None
        if missing:
            self._retry, self._pause = now + self._pause, min(2 * self._pause, LAST_PAUSE)
        else:
            self._retry, self._pause = None, FIRST_PAUSE

    def at_once(self) -> None:
        """The network is another: what has failed may succeed."""
        self._pause = FIRST_PAUSE

    def next_round(self) -> float | None:
        """When the router is to be asked again; None where nothing is due."""
        return min((due for due in (self._renewal, self._retry) if due is not None), default=None)

    def next_end(self) -> float | None:
        """When the first lease ends, if it is not renewed."""
        return min((mapping.until for mapping in self.held.values() if mapping.until is not None), default=None)
