"""Whom this node dials back for AutoNAT, where, and how often. Pure: times are seconds of the caller's clock.

A dial back is made on a stranger's word, so it must be no use for anything else: not for reaching into a network where
the stranger is not, not for knocking at doors in somebody else's name for less than it costs to do so oneself, and not
for keeping this node busy. The rates are go-libp2p's; that of an IP address is ours, since peer ids cost nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, unpack
from fabstird.p2p.wire.ips import IP, block_of_host, group_of_host, reach, to_ip

MINUTE = 60.0  # seconds for which a question counts
MAX_LISTED = 50  # addresses of a question that are looked at; as go-libp2p's version 2
MAX_DIALLED = 8  # of version 1 that are dialled


@dataclass(frozen=True, slots=True)
class Rates:
    """Questions a minute: of all peers, of one, of one IP address or IPv6 /64, and of one network (an IPv4 /24 or an
    IPv6 /48). ``at_once``: that are under way, of all, of one peer, of one address and of one network."""

    all: int
    peer: int
    address: int
    network: int
    at_once: int
    peer_at_once: int
    address_at_once: int
    network_at_once: int


_AT_ONCE = {"at_once": 8, "address_at_once": 4, "network_at_once": 6}
VERSION_1 = Rates(all=30, peer=3, address=10, network=15, peer_at_once=1, **_AT_ONCE)
VERSION_2 = Rates(all=60, peer=12, address=24, network=36, peer_at_once=2, **_AT_ONCE)
DIAL_DATA = 12  # questions of version 2 a minute that ask for an IP address other than the asker's


class Questions:
    """Those of one version, and which of them may be answered. ``under_way`` are being answered."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._begun: deque[tuple[float, _Asker]] = deque()  # when, and by whom; `Rates.all` at most
        self._answering: Counter[str] = Counter()  # by each that an asker is
        self.under_way = 0

    def begin(self, peer_id: str, host: str, now: float) -> bool:
        """One more from a peer at this host, if it may be answered; `end` gives its place back."""
        rates, asker = self._rates, _asker(peer_id, host)
        while self._begun and self._begun[0][0] + MINUTE <= now:
            self._begun.popleft()
        if self.under_way >= rates.at_once or len(self._begun) >= rates.all:
            return False
        most = rates.peer, rates.address, rates.network
        most_at_once = rates.peer_at_once, rates.address_at_once, rates.network_at_once
        for part, a_minute, at_once in zip(asker, most, most_at_once, strict=True):
            if self._answering[part] >= at_once or sum(part in other for _, other in self._begun) >= a_minute:
                return False
        self._begun.append((now, asker))
        self._answering.update(asker)
        self.under_way += 1
        return True

    def end(self, peer_id: str, host: str) -> None:
        """It is answered, or was given up."""
        self.under_way -= 1
        for part in _asker(peer_id, host):
            self._answering[part] -= 1
            if not self._answering[part]:
                del self._answering[part]


_Asker = tuple[str, str, str]  # who asks: a peer, at an address, in a network


def _asker(peer_id: str, host: str) -> _Asker:
    address, network = group_of_host(host), block_of_host(host)
    return peer_id, f"address {address}", f"network {network}"


class Window:
    """So many a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: deque[float] = deque()

    def begin(self, now: float) -> bool:
        while self._begun and self._begun[0] + MINUTE <= now:
            self._begun.popleft()
        if len(self._begun) >= self._most:
            return False
        self._begun.append(now)
        return True


def at_the_asker(packed: Iterable[bytes], peer_id: str, seen: Address, *, quic: bool = False) -> list[Address]:
    """Of the addresses in a question of version 1: where the asker is dialled, each with its peer id. All of them are
    at the IP address at which it is ``seen``, whatever it says: the others' ports count, as in go-libp2p and
    rust-libp2p, since behind a NAT a node may know no more than its port. One that names none that could be dialled, as
    go-libp2p behind a NAT, is dialled where its connection comes from: it may have dialled from the port that it
    listens on. By ``quic`` only where this node speaks it."""
    ip = to_ip(seen.host)
    if ip is None or reach(ip) == "nowhere":
        return []
    found: dict[Address, None] = {}
    for address in _readable(packed, quic=quic):
        if address is not None:
            kind = "ip4" if ip.version == 4 else "ip6"
            found[replace(address, kind=kind, host=str(ip), peer_id=peer_id)] = None
    if not found and (quic or seen.transport != QUIC):
        found[replace(seen, peer_id=peer_id)] = None
    return list(found)[:MAX_DIALLED]


def first_allowed(
    packed: Iterable[bytes], peer_id: str, seen: str, can_reach: Callable[[Address], bool], *, quic: bool = False
) -> tuple[int, Address] | None:
    """Of the addresses in a question of version 2: the first that may be dialled, with its place in the list. Public
    ones may, and the one IP address at which the asker is ``seen``; ``can_reach`` says whether this node can dial it at
    all, and ``quic`` whether it speaks that. None where there is none."""
    own = to_ip(seen)
    for index, address in enumerate(_readable(packed, quic=quic)):
        ip = to_ip(address.host) if address is not None else None
        if address is None or ip is None:
            continue
        if reach(ip) != "nowhere" and (ip == own or reach(ip) == "global") and can_reach(address):
            return index, replace(address, peer_id=peer_id)
    return None


def is_elsewhere(address: Address, seen: str) -> bool:
    """Whether an address is at another IP address than that at which the asker is seen: then the asker has to pay."""
    return to_ip(address.host) != to_ip(seen)


def _readable(packed: Iterable[bytes], *, quic: bool) -> Iterable[Address | None]:
    """Each address of a question, bare; None for one that this node does not dial, whoever asks: of another transport
    than TCP, WebSocket and maybe QUIC, by way of a relay, without a port, or a name, which could lead anywhere."""
    for one in islice(packed, MAX_LISTED):
        try:
            address = unpack(one).bare
        except AddressError:
            yield None
            continue
        is_endpoint = address.kind in ("ip4", "ip6") and address.relay is None and address.port
        yield address if is_endpoint and (quic or address.transport != QUIC) else None


def is_outward(ips: Iterable[IP | None]) -> bool:
    """Whether a node that listens at these addresses can be reached from another machine."""
    return any(ip is not None and reach(ip) != "loopback" for ip in ips)
