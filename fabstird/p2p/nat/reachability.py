"""Which of this node's addresses others have reached. Pure: times are seconds of the caller's clock.

A server that dials back may lie, or sit behind the same router; so only what several of them say counts, each IP
address once, and what they say fades. An address is called unreachable where several have failed and nobody has not.

Whoever has a /24 has 256 IP addresses: where servers of several such blocks have spoken, a block has one voice. Where
all are of one, as in a young network, each address has its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fabstird.p2p.wire.addresses import Address, AddressError, parse
from fabstird.p2p.wire.ips import block_of_host, group_of_host, reach, to_ip

CONFIRMATIONS = 2  # servers that must have reached an address; and that must have failed, for the node to ask relays
OBSERVERS = 2  # peers, each of an IP address of its own, that must see the node at one for it to be worth checking
MAX_ADDRESSES = 8  # that are checked
MAX_SERVERS = 16  # whose word is kept for each
FRESH = 1800.0  # seconds for which a word counts
RECHECK = 900.0  # seconds until a server is asked again about an address that it has reached
RETRY = 90.0  # and about one that it has not


@dataclass(slots=True)
class _Word:
    """``reached`` is None where the server has not dialled, or has not shown it."""

    reached: bool | None
    at: float
    asked: float = -math.inf  # when it was asked last, in vain


@dataclass(slots=True)
class Reachability:
    """``said``: by address (without peer id), then by the server's IP address, what was heard last at the end."""

    said: dict[str, dict[str, _Word]] = field(default_factory=dict)

    def record(self, address: str, server: str, *, reached: bool | None, now: float) -> None:
        """A server tells how its dial of an address went; None: it has not dialled, or has not shown it. What it said
        before stands then, until that fades."""
        words = self.said.setdefault(address, {})
        before = words.get(server)
        if reached is None and before is not None and before.reached is not None and before.at + FRESH > now:
            before.asked = now
            return
        words.pop(server, None)
        words[server] = _Word(reached, now)
        while len(words) > MAX_SERVERS:
            del words[_crowded(words)]

    def keep(self, addresses: Iterable[str]) -> None:
        """Forget what was said of others: they are not ours any more."""
        kept = set(addresses)
        self.said = {address: words for address, words in self.said.items() if address in kept}

    def due(self, address: str, server: str, now: float) -> bool:
        """Whether this server is worth asking about this address."""
        word = self.said.get(address, {}).get(server)
        return word is None or now >= max(word.at + (RECHECK if word.reached else RETRY), word.asked + RETRY)

    def is_reachable(self, address: str, now: float) -> bool:
        """Several have reached it lately, and no fewer than have not."""
        reached, failed = self._voices(address, now)
        return reached >= CONFIRMATIONS and reached >= failed

    def is_unreachable(self, address: str, now: float) -> bool:
        """Several have tried it lately, and nobody got through."""
        reached, failed = self._count(address, now)
        return failed >= CONFIRMATIONS and not reached

    def is_private(self, now: float) -> bool:
        """Several have tried lately, and nobody got through to any address."""
        counts = [self._count(address, now) for address in self.said]
        return not any(reached for reached, _ in counts) and any(failed >= CONFIRMATIONS for _, failed in counts)

    def confirmations(self, address: str, now: float) -> int:
        """Servers that have reached it lately."""
        return self._count(address, now)[0]

    def checked(self, address: str) -> float | None:
        """When somebody last tried; None for never."""
        words = self.said.get(address, {}).values()
        return max((word.at for word in words if word.reached is not None), default=None)

    def _count(self, address: str, now: float) -> tuple[int, int]:
        fresh = list(self._fresh(address, now).values())
        return fresh.count(True), fresh.count(False)

    def _voices(self, address: str, now: float) -> tuple[int, int]:
        """As `_count`; of several blocks each has one voice, which is that of half of its servers or more."""
        blocks: dict[str, list[bool]] = {}
        for server, reached in self._fresh(address, now).items():
            blocks.setdefault(block_of_host(server), []).append(reached)
        if len(blocks) < 2:
            return self._count(address, now)
        voices = [2 * said.count(True) >= len(said) for said in blocks.values()]
        return voices.count(True), voices.count(False)

    def _fresh(self, address: str, now: float) -> dict[str, bool]:
        words = self.said.get(address, {}).items()
        return {server: word.reached for server, word in words if word.reached is not None and word.at + FRESH > now}


def _crowded(servers: Iterable[str]) -> str:
    """The first of those in the block that has most."""
    named = list(servers)
    counts = Counter(map(block_of_host, named))
    return max(named, key=lambda server: counts[block_of_host(server)])


def in_turn(servers: Iterable[str]) -> list[str]:
    """Servers by their IP addresses: one of each block, then the second of each."""
    ranks: dict[str, int] = {}
    before: Counter[str] = Counter()
    for server in servers:
        block = block_of_host(server)
        ranks[server] = before[block]
        before[block] += 1
    return sorted(ranks, key=ranks.__getitem__)


def candidates(announced: Iterable[str], listen: Iterable[str], observed: Iterable[tuple[str, str]]) -> list[str]:
    """Addresses that are worth checking, without peer ids: public ones among those that the node tells or listens on,
    and, for a port that is forwarded, each listening port at each IP address that several peers see the node at: one
    alone could have any machine dialled. ``observed`` are addresses, each with the IP address of who sees us there."""
    found: dict[str, None] = {}
    listening = list(_usable(listen))
    for address in (*_usable(announced), *listening):
        found[str(address)] = None
    seen = _agreed(observed)
    for address in listening:
        for kind, host in seen:
            if kind == address.kind and not _is_loopback(address):
                found[str(replace(address, host=host))] = None
    return [text for text in found if is_public(text)][:MAX_ADDRESSES]


def is_public(text: str) -> bool:
    """Whether everybody could dial an address, if nothing stood between."""
    return any(reach(ip) == "global" for address in _usable([text]) if (ip := to_ip(address.host)) is not None)


def is_seen(text: str, observed: Iterable[tuple[str, str]]) -> bool:
    """Whether a peer in the Internet sees the node at the host of this address; ``observed`` as in `candidates`."""
    hosts = {address.host for address in _usable([text])}
    for seen, observer in observed:
        ip = to_ip(observer)
        if ip is not None and reach(ip) == "global" and any(one.host in hosts for one in _usable([seen])):
            return True
    return False


def _agreed(observed: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Kind and host of addresses that `OBSERVERS` have seen, those that most have seen first."""
    seen: dict[tuple[str, str], set[str]] = {}
    for text, observer in observed:
        for address in _usable([text]):
            seen.setdefault((address.kind, address.host), set()).add(group_of_host(observer))
    agreed = [place for place, observers in seen.items() if len(observers) >= OBSERVERS]
    blocks = {place: len(set(map(block_of_host, seen[place]))) for place in agreed}
    most = {kind: max((blocks[place] for place in agreed if place[0] == kind), default=0) for kind in ("ip4", "ip6")}
    # Where peers of several networks agree, those of one do not
    agreed = [place for place in agreed if blocks[place] >= min(most[place[0]], OBSERVERS)]
    return sorted(agreed, key=lambda place: (-len(seen[place]), place))


def _is_loopback(address: Address) -> bool:
    ip = to_ip(address.host)
    return ip is not None and reach(ip) == "loopback"


def _usable(texts: Iterable[str]) -> Iterable[Address]:
    return (address for text in texts if (address := _direct(text)) is not None)


@lru_cache(maxsize=1024)  # the same ones are looked at every second, and each peer has one
def _direct(text: str) -> Address | None:
    """An address at an IP address, bare; None for a name, one that leads through a relay, and what is not ours."""
    try:
        address = parse(text).bare
    except AddressError:
        return None  # an announced address of a transport that this node does not have
    return address if address.kind in ("ip4", "ip6") and not address.relay else None
