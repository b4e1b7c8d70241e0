"""Which of this node's addresses others have reached. Pure: times are seconds of the caller's clock.

A server that dials back may lie, or sit behind the same router; so only what several of them say counts, each IP
address once, and what they say fades. Nothing is ever called unreachable: that nobody got through may be the servers'
trouble.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fabstird.p2p.addresses import Address, AddressError, parse

CONFIRMATIONS = 2  # servers that must have reached an address; and that must have failed, for the node to ask relays
MAX_ADDRESSES = 8  # that are checked
MAX_SERVERS = 16  # whose word is kept for each
FRESH = 1800.0  # seconds for which a word counts
RECHECK = 900.0  # seconds until a server is asked again about an address that it has reached
RETRY = 90.0  # and about one that it has not


@dataclass(slots=True)
class _Word:
    reached: bool
    at: float


@dataclass(slots=True)
class Reachability:
    """``said``: by address (without peer id), then by the server's IP address, what was heard last at the end."""

    said: dict[str, dict[str, _Word]] = field(default_factory=dict)

    def record(self, address: str, server: str, *, reached: bool, now: float) -> None:
        """A server tells how its dial of an address went."""
        words = self.said.setdefault(address, {})
        words.pop(server, None)
        words[server] = _Word(reached, now)
        while len(words) > MAX_SERVERS:
            del words[next(iter(words))]

    def keep(self, addresses: Iterable[str]) -> None:
        """Forget what was said of others: they are not ours any more."""
        kept = set(addresses)
        self.said = {address: words for address, words in self.said.items() if address in kept}

    def due(self, address: str, server: str, now: float) -> bool:
        """Whether this server is worth asking about this address."""
        word = self.said.get(address, {}).get(server)
        return word is None or now >= word.at + (RECHECK if word.reached else RETRY)

    def is_reachable(self, address: str, now: float) -> bool:
        """Several have reached it lately, and no fewer than have not."""
        reached, failed = self._count(address, now)
        return reached >= CONFIRMATIONS and reached >= failed

    def is_private(self, now: float) -> bool:
        """Several have tried lately, and nobody got through to any address."""
        counts = [self._count(address, now) for address in self.said]
        return not any(reached for reached, _ in counts) and any(failed >= CONFIRMATIONS for _, failed in counts)

    def checked(self, address: str) -> float | None:
        """When somebody last tried; None for never."""
        return max((word.at for word in self.said.get(address, {}).values()), default=None)

    def _count(self, address: str, now: float) -> tuple[int, int]:
        fresh = [word.reached for word in self.said.get(address, {}).values() if word.at + FRESH > now]
        return sum(fresh), len(fresh) - sum(fresh)


def candidates(told: Iterable[str], listen: Iterable[str], observed: Iterable[str]) -> list[str]:
    """Addresses that are worth checking, without peer ids: public ones among those that the node tells or listens on,
    and, for a port that is forwarded, each listening port at each IP address that peers see the node at."""
    found: dict[str, None] = {}
    listening = list(_usable(listen))
    for address in (*_usable(told), *listening):
        found[str(address)] = None
    seen = {(address.kind, address.host) for address in _usable(observed)}
    for address in listening:
        for kind, host in sorted(seen):
            if kind == address.kind:
                found[str(replace(address, host=host))] = None
    return [text for text in found if ipaddress.ip_address(parse(text).host).is_global][:MAX_ADDRESSES]


def _usable(texts: Iterable[str]) -> Iterable[Address]:
    for text in texts:
        try:
            address = parse(text).bare
        except AddressError:
            continue  # an announced address of a transport that is not ours
        if address.kind in ("ip4", "ip6") and not address.relay:
            yield address
