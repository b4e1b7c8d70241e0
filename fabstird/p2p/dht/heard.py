"""Addresses of peers in others' messages: which are kept, and which are passed on. Pure.

All addresses in messages go through here, in and out. Addresses that cannot be dialled are dropped first, before the
rest is cut to a number: twenty addresses of an unsupported transport do not hide the one that works. An address is used
only where it means the same to both sides: a loopback address among processes of one machine, a private one among peers
met in that private network, otherwise only a public one. Names are not accepted: what others say is not resolved.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from fabstird.p2p.wire.addresses import QUIC, AddressError, parse, unpack
from fabstird.p2p.wire.ips import IP, Network, Reach, canonical, private_network, reach, to_ip

MAX_SENT = 8  # addresses of a peer: 20 peers then fit into the 16 KiB that rust-libp2p reads
MAX_KEPT = 8  # addresses of a peer that are kept
MAX_LENGTH = 192  # bytes of an address; one through a relay has some 60, a name up to 253
MAX_HEARD = 4096  # peers whose addresses others have told
MAX_BYTES = 1024 * 1024  # bytes of these addresses
OVERHEAD = 200  # bytes that a peer takes besides its addresses
V4_PREFIX, V6_PREFIX = 24, 48  # prefix length of an IP network


class Scope(IntEnum):
    """Where an address has a meaning, the narrowest last."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NOWHERE = 3


_SCOPES: dict[Reach, Scope] = {
    "global": Scope.PUBLIC,
    "private": Scope.PRIVATE,
    "loopback": Scope.LOOPBACK,
    "nowhere": Scope.NOWHERE,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer was met, or where an address has a meaning. ``network`` is the private network: 10.0.0.5 is another
    machine in another one."""

    scope: Scope
    network: Network | None = None

    def knows(self, packed: bytes) -> bool:
        """Whether an address means the same here as to this node."""
        there = _place(packed)
        if there.scope is Scope.PRIVATE and self.scope is Scope.PRIVATE:
            return there.network == self.network
        return there.scope <= self.scope


PUBLIC, HERE = Place(Scope.PUBLIC), Place(Scope.LOOPBACK)


def kept(packed: Iterable[bytes], teller: Place) -> tuple[bytes, ...]:
    """The addresses of a peer to keep, from a message of a peer met at ``teller``."""
    wide = (one for one in dict.fromkeys(packed) if len(one) <= MAX_LENGTH and teller.knows(one))
    return tuple(islice((one for one in wide if address_text(one) is not None), MAX_KEPT))


def told(packed: Iterable[bytes], asker: Place) -> tuple[bytes, ...]:
    """The addresses of a peer that mean something to a peer met at ``asker``."""
    return tuple(islice((one for one in packed if asker.knows(one)), MAX_SENT))


@functools.lru_cache(maxsize=4096)
def _place(packed: bytes) -> Place:
    """The place of an address in a message; of a relayed one, the relay's. A name has none."""
    ip = _ip(packed)
    return Place(Scope.NOWHERE) if ip is None else Place(scope_of_ip(ip), private_network(canonical(ip)))


@functools.lru_cache(maxsize=4096)
def met_at(host: str, *, relayed: bool = False) -> Place:
    """Where a peer was met, from the remote host of its connection. A peer behind a relay may be anywhere."""
    if relayed:
        return PUBLIC
    ip = to_ip(host)
    return Place(scope_of_host(host), None if ip is None else private_network(ip))


def scope_of_host(host: str) -> Scope:
    """Where a peer was met, from the remote host of its connection."""
    ip = to_ip(host.split("%")[0])
    if ip is None:
        return Scope.LOOPBACK if host == "localhost" else Scope.PUBLIC
    return min(scope_of_ip(ip), Scope.LOOPBACK) if not ip.is_link_local else Scope.PRIVATE


def scope_of_ip(ip: IP) -> Scope:
    return _SCOPES[reach(ip)]


@functools.lru_cache(maxsize=4096)
def network_of_host(host: str) -> str | None:
    """The network of a host for shares of what this node keeps; None for a name."""
    ip = to_ip(host.split("%")[0])
    return None if ip is None else _network_of_ip(ip)


@functools.lru_cache(maxsize=4096)
def public_network(packed: bytes) -> str | None:
    """The network of a public address. Any number of peers may share a private one."""
    ip = _ip(packed)
    return None if ip is None or scope_of_ip(ip) is not Scope.PUBLIC else _network_of_ip(canonical(ip))


@functools.lru_cache(maxsize=8192)
def address_text(packed: bytes) -> str | None:
    """An address in a message as text, without ``/p2p/``; None where this node cannot dial it."""
    try:
        address = unpack(packed)
    except AddressError:
        return None
    return None if address.transport == QUIC else str(address.bare)


@functools.lru_cache(maxsize=8192)
def pack(address: str) -> bytes | None:
    """An address as bytes for messages, without ``/p2p/``."""
    try:
        return parse(address).bare.packed
    except AddressError:
        return None


def _ip(packed: bytes) -> IP | None:
    if packed[:1] == b"\x04" and len(packed) >= 5:
        return ipaddress.IPv4Address(packed[1:5])
    if packed[:1] == b"\x29" and len(packed) >= 17:
        return ipaddress.IPv6Address(packed[1:17])
    return None


def _network_of_ip(ip: IP) -> str:
    return str(ipaddress.ip_network((ip, V4_PREFIX if ip.version == 4 else V6_PREFIX), strict=False))


class Heard:
    """The addresses of peers as others report them. Peers in the routing table are pinned: they are forgotten only when
    they leave it."""

    def __init__(self) -> None:
        self._heard: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._pinned: dict[bytes, tuple[bytes, ...]] = {}
        self.size = 0  # bytes of both

    def hear(self, peer: bytes, addresses: tuple[bytes, ...]) -> None:
        """Add addresses that `kept` let through. A pinned peer's own come before these."""
        pinned = self._pinned.get(peer)
        if pinned is not None:
            self._pin(peer, (*pinned, *addresses))
            return
        self._forget(peer)
        self._heard[peer] = addresses
        self.size += _size(addresses)
        while len(self._heard) > MAX_HEARD or (self.size > MAX_BYTES and self._heard):
            self._forget(next(iter(self._heard)))

    def pin(self, peer: bytes, addresses: Iterable[bytes]) -> None:
        """Keep the addresses of a peer while it is in the table, those where it was last reached first."""
        known = (*addresses, *self._pinned.get(peer, ()), *self._heard.get(peer, ()))
        self._forget(peer)
        self._pin(peer, known)

    def unpin(self, peer: bytes) -> None:
        addresses = self._pinned.pop(peer, None)
        if addresses is not None:
            self.size -= _size(addresses)
            self.hear(peer, addresses)

    def get(self, peer: bytes) -> tuple[bytes, ...]:
        return self._pinned.get(peer) or self._heard.get(peer, ())

    def pinned(self) -> list[bytes]:
        return list(self._pinned)

    def __len__(self) -> int:
        return len(self._heard)

    def _pin(self, peer: bytes, addresses: tuple[bytes, ...]) -> None:
        self.size -= _size(self._pinned[peer]) if peer in self._pinned else 0
        self._pinned[peer] = tuple(dict.fromkeys(addresses))[:MAX_KEPT]
        self.size += _size(self._pinned[peer])

    def _forget(self, peer: bytes) -> None:
        addresses = self._heard.pop(peer, None)
        if addresses is not None:
            self.size -= _size(addresses)


def _size(addresses: tuple[bytes, ...]) -> int:
    return OVERHEAD + sum(map(len, addresses))
