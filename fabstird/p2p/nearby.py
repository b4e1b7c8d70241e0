"""Peers that were heard in the local network, and when each is to be dialled. No I/O, no clock: times are seconds of
the caller's clock.

Whoever is in the network can make up as many peers as he likes, so they are bounded, they fade, none is dialled more
often than every few seconds, and only addresses that belong to the network are kept: no stranger chooses whom in the
Internet this node dials.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fabstird.p2p.addresses import Address

NEVER = math.inf
MAX_PEERS = 256
MAX_ADDRESSES = 16  # of one peer
MAX_AGE = 3600.0  # seconds for which an address is remembered at most without being heard again
POLITENESS = 2.0  # seconds for which the peer with the greater peer id lets the other one dial first
FIRST_PAUSE = 5.0  # seconds after a failed dial; doubles each time
LAST_PAUSE = 300.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True)
class _Peer:
    name: str = ""  # under which it was heard last
    expires: dict[str, float] = field(default_factory=dict)  # by address, the one that was heard last first
    due: float = NEVER
    begun: float = -NEVER  # its last dial
    failures: int = 0
    dialling: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """Where a peer was heard to be, newest first, and when it is dialled next if there is room; `NEVER` for never."""

    addresses: list[str]
    due: float


class Nearby:
    """``own_id`` is this node's peer id. ``rest``: seconds until a peer is dialled again that was connected and has
    gone; `NEVER` for never, unless it comes back with another address."""

    def __init__(self, own_id: str, rest: float) -> None:
        self._own_id = own_id
        self._rest = rest
        self._peers: dict[str, _Peer] = {}  # by peer id, the one that was heard longest ago first

    def heard(self, name: str, peer_id: str, addresses: Sequence[str], ttl: float, now: float) -> bool:
        """A peer says that it is at these addresses (with ``/p2p/``) for ``ttl`` seconds. Whether that is news."""
        if peer_id == self._own_id or not addresses:
            return False
        peer = self._peers.pop(peer_id, None) or _Peer()
        self._peers[peer_id] = peer
        while len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        news = any(address not in peer.expires for address in addresses)
        until = now + min(ttl, MAX_AGE)
        merged = {**dict.fromkeys(addresses, until), **{a: t for a, t in peer.expires.items() if a not in addresses}}
        peer.name, peer.expires = name, dict(list(merged.items())[:MAX_ADDRESSES])
        if news:
            patience = 0.0 if self._own_id < peer_id else POLITENESS
            peer.failures, peer.due = 0, max(now + patience, peer.begun + FIRST_PAUSE)
        return news

    def left(self, name: str) -> None:
        """Whoever was heard last under this name says goodbye."""
        for peer_id, peer in self._peers.items():
            if peer.name == name:
                del self._peers[peer_id]
                return

    def expire(self, now: float) -> None:
        for peer_id, peer in list(self._peers.items()):
            peer.expires = {address: until for address, until in peer.expires.items() if until > now}
            if not peer.expires:
                del self._peers[peer_id]

    def due(self, now: float, connected: Collection[str], room: int) -> list[str]:
        """Peers to dial now, at most ``room``; those that are connected already have had theirs."""
        found: list[str] = []
        for peer_id, peer in self._peers.items():
            if peer.due > now or peer.dialling:
                continue
            if peer_id in connected:
                peer.due = now + self._rest
            elif len(found) < room:
                found.append(peer_id)
        return found

    def next_due(self) -> float:
        """When `due` is worth asking again; a peer that is due and was not dialled is for the caller to remember."""
        return min((peer.due for peer in self._peers.values() if not peer.dialling), default=NEVER)

    def begin(self, peer_id: str, now: float) -> list[str]:
        """A dial of the peer begins; the addresses to try."""
        peer = self._peers[peer_id]
        peer.dialling, peer.begun = True, now
        return list(peer.expires)

    def end(self, peer_id: str, now: float, *, connected: bool) -> None:
        """It has ended."""
        peer = self._peers.get(peer_id)
        if peer is None:  # forgotten meanwhile
            return
        peer.dialling = False
        if connected:
            peer.failures, peer.due = 0, now + self._rest
        else:
            peer.due = now + min(FIRST_PAUSE * 2**peer.failures, LAST_PAUSE)
            peer.failures = min(peer.failures + 1, 10)

    def met(self, peer_id: str, now: float) -> None:
        """The peer has come or gone, whoever dialled and whoever ended it: it is not dialled again at once."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.failures, peer.due = 0, now + self._rest

    def find(self, peer_id: str) -> Heard | None:
        """None for a peer that was not heard."""
        peer = self._peers.get(peer_id)
        return Heard(list(peer.expires), peer.due) if peer else None

    def __len__(self) -> int:
        return len(self._peers)


def belonging(addresses: Iterable[Address], networks: Sequence[Network]) -> list[Address]:
    """Those addresses that a peer in these ``networks`` (an interface's) can have: first those inside them, then other
    private ones. Never loopback, which would be this machine's, nor link-local ones, which name no interface."""
    inside: list[Address] = []
    private: list[Address] = []
    for address in addresses:
        ip = ipaddress.ip_address(address.host)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local:
            continue
        if any(ip in network for network in networks):
            inside.append(address)
        elif ip.is_private:
            private.append(address)
    return inside + private
