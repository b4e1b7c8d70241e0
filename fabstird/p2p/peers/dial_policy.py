"""Which addresses this node may dial, depending on who named them.

Addresses named by a user are dialled: bootstrap nodes, kept addresses, relays, ``connect``. A stranger must not be able
to direct this node against its own machine or network, or against somebody else. So a peer may name public addresses,
and beyond these only addresses where the peer itself was met: on this machine, or in the same private network. Names
from peers are not resolved, since nobody can say in advance where they lead.

`refusal` decides about one address; `Attempts` bounds how often strangers' suggestions lead to one place.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, parse
from fabstird.p2p.wire.ips import IP, group, private_network, reach, to_ip


@dataclass(frozen=True, slots=True)
class Source:
    """Who named an address.

    Attributes:
        kind: The ``user``; a ``peer``; or what remains of peers' reports that were checked when received: ``suggested``
            by the DHT, ``known`` from earlier connections, or heard ``nearby`` by mDNS.
        met: The IP address at which the peer is connected; None behind a relay.
    """

    kind: Literal["user", "peer", "suggested", "known", "nearby"]
    met: IP | None = None


USER = Source("user")  # the operator, by the configuration or the API
SUGGESTED = Source("suggested")
KNOWN = Source("known")
NEARBY = Source("nearby")


def peer_at(host: str | None, *, relayed: bool = False) -> Source:
    """A connected peer, given the host in its connection's address."""
    return Source("peer", None if relayed or host is None else to_ip(host))


def refusal(address: Address, source: Source, *, agreed: bool = False) -> str | None:
    """Why an address must not be dialled on this word; None where it may be. Of an address that is resolved already, or
    of one as it is told: a peer's name is refused either way. ``agreed``: both sides have named addresses of its
    transport, for a hole to be punched."""
    if source.kind == "user":
        return None
    if address.transport == QUIC and not agreed:
        return "QUIC is dialled on a user's word alone"
    ip = to_ip(address.host) if address.kind in ("ip4", "ip6") else None
    if ip is None:
        return "a name that a peer tells is not resolved"
    where = reach(ip)
    if where == "nowhere":
        return f"{address.host} is no address of a peer"
    if source.kind != "peer":
        return None
    if where == "loopback" and (source.met is None or reach(source.met) != "loopback"):
        return f"{address.host} is this machine, and who tells of it is elsewhere"
    if where == "private" and (source.met is None or private_network(source.met) != private_network(ip)):
        return f"{address.host} is in a private network, and who tells of it is not in it"
    return None


def usable(addresses: Iterable[str], source: Source) -> list[str]:
    """The addresses, as texts, that may be dialled."""
    return [text for text in addresses if _allowed(text, source)]


def _allowed(text: str, source: Source) -> bool:
    try:
        return refusal(parse(text), source) is None
    except AddressError:
        return False


MAX_PLACES = 2048  # endpoints and groups of addresses that are remembered
BURST, RATE = 32.0, 0.5  # suggested dials to one group of addresses: at once, and a second
FIRST_PAUSE, LAST_PAUSE = 15.0, 1800.0  # seconds after a failed suggestion; doubles each time


@dataclass(slots=True)
class _Place:
    """The state of an endpoint or a group of addresses. ``tokens`` are dials that may begin."""

    tokens: float = BURST
    filled: float = -math.inf
    failures: int = 0
    closed_until: float = -math.inf


class Attempts:
    """Limits suggested dials by destination. It has no clock: times are seconds from the caller. It is bounded; the
    place unused for longest is forgotten first."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, _Place] = OrderedDict()

    def begin(self, ip: IP, port: int, now: float) -> str | None:
        """Begin a suggested dial; returns why it must not be, or None."""
        endpoint = self._place(f"{ip} {port}")
        if endpoint.closed_until > now:
            return f"it has failed {endpoint.failures} times; not tried again for {endpoint.closed_until - now:.0f} s"
        whole = self._place(group(ip))
        whole.tokens = min(BURST, whole.tokens + (now - whole.filled) * RATE) if whole.filled > -math.inf else BURST
        whole.filled = now
        if whole.tokens < 1:
            return f"too many dials to {group(ip)} were suggested"
        whole.tokens -= 1
        return None

    def failed(self, ip: IP, port: int, now: float) -> None:
        """A suggested dial did not connect."""
        endpoint = self._place(f"{ip} {port}")
        pause = min(FIRST_PAUSE * 2.0 ** min(endpoint.failures, 16), LAST_PAUSE)
        endpoint.failures, endpoint.closed_until = endpoint.failures + 1, now + pause

    def succeeded(self, ip: IP, port: int) -> None:
        """A suggested dial connected."""
        self._places.pop(f"{ip} {port}", None)

    def _place(self, name: str) -> _Place:
        place = self._places.pop(name, None) or _Place()
        self._places[name] = place
        while len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return place

    def __len__(self) -> int:
        return len(self._places)
