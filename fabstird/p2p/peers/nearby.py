"""Peers heard in the local network, and when to dial each. It does no I/O and has no clock: times are seconds from the
caller.

Anybody in the network can make up any number of peers. So they are bounded and expire, none is dialled more often than
every few seconds, and only addresses in the local network are kept: no stranger decides whom on the Internet this node
dials.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.ips import Network, reach, to_ip

NEVER = math.inf
MAX_PEERS = 256
MAX_ADDRESSES = 16  # of one peer
MAX_AGE = 3600.0  # seconds that an address is remembered at most without being heard again
POLITENESS = 2.0  # seconds that the peer with the greater peer id leaves the dial to the other one
FIRST_PAUSE = 5.0  # seconds after a failed dial; doubles each time
LAST_PAUSE = 300.0


@dataclass(slots=True)
class _Peer:
    name: str = ""  # the name under which it was last heard
    expires: dict[str, float] = field(default_factory=dict)  # by address, last heard first
    due: float = NEVER
    begun: float = -NEVER  # when its last dial began
    failures: int = 0
    dialling: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """Where a peer was heard, newest address first, and when it is dialled next if there is room; `NEVER` for never."""

    addresses: list[str]
    due: float


class Nearby:
    """The peers heard. ``own_id`` is this node's peer id. ``rest`` is how many seconds pass until a peer that was
    connected and has gone is dialled again; `NEVER` for never, unless it is heard at another address."""

    def __init__(self, own_id: str, rest: float) -> None:
        self._own_id = own_id
        self._rest = rest
        self._peers: dict[str, _Peer] = {}  # by peer id, heard longest ago first

    def heard(self, name: str, peer_id: str, addresses: Sequence[str], ttl: float, now: float) -> bool:
        """A peer announces itself at these addresses (with ``/p2p/``) for ``ttl`` seconds. Whether anything changed."""
        if peer_id == self._own_id or not addresses:
            return False
        peer = self._peers.pop(peer_id, None) or _Peer()
        self._peers[peer_id] = peer
        while len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        is_new = any(address not in peer.expires for address in addresses)
        until = now + min(ttl, MAX_AGE)
        merged = {**dict.fromkeys(addresses, until), **{a: t for a, t in peer.expires.items() if a not in addresses}}
        peer.name, peer.expires = name, dict(list(merged.items())[:MAX_ADDRESSES])
        if is_new:
            patience = 0.0 if self._own_id < peer_id else POLITENESS
            peer.failures, peer.due = 0, max(now + patience, peer.begun + FIRST_PAUSE)
        return is_new

    def left(self, name: str) -> None:
        """The peer last heard under this name says goodbye."""
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
        """Peers to dial now, at most ``room``; connected ones are left out."""
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
        """When to ask `due` again. The caller must remember peers that were due and not dialled."""
        return min((peer.due for peer in self._peers.values() if not peer.dialling), default=NEVER)

    def begin(self, peer_id: str, now: float) -> list[str]:
        """A dial of the peer begins; returns the addresses to try."""
        peer = self._peers[peer_id]
        peer.dialling, peer.begun = True, now
        return list(peer.expires)

    def end(self, peer_id: str, now: float, *, connected: bool) -> None:
        """The dial has ended."""
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
        """The peer has connected or disconnected, by whomever: it is not dialled again at once."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.failures, peer.due = 0, now + self._rest

    def find(self, peer_id: str) -> Heard | None:
        """Where a peer was heard; None for one that was not."""
        peer = self._peers.get(peer_id)
        return Heard(list(peer.expires), peer.due) if peer else None

    def __len__(self) -> int:
        return len(self._peers)


def belonging(addresses: Iterable[Address], networks: Sequence[Network]) -> list[Address]:
    """The addresses that a peer in these ``networks`` (of an interface) can have: those inside them first, then other
    private ones. Not loopback, which would be this machine's, nor link-local ones, which name no interface."""
    inside: list[Address] = []
    private: list[Address] = []
    for address in addresses:
        ip = to_ip(address.host)
        if ip is None or reach(ip) in ("loopback", "nowhere"):
            continue
        if any(ip in network for network in networks):
            inside.append(address)
        elif reach(ip) == "private":
            private.append(address)
    return inside + private
