"""What a token's calls may name: protocols by patterns, peers by ids. Pure.

`named` finds the protocols and peers that a call names in its parameters; `access.admit_named` refuses the call if one
is outside the token's scope. A peer that cannot be identified, such as by an IP address or a ``/dnsaddr``, is outside
every scope with peers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fabstir_client.api.types import Params

BRIDGE_PROTOCOL = "/fabstird/message/1.0.0"  # `sendMessage` and the bridge's pushes use it
MAX_ENTRIES = 64  # patterns, and peers, of a token
SHOWN = 4  # of them quoted in an error
ADDRESSES = ("address", "target")  # parameters with a multiaddr or a peer id
NETWORKS = ("ip", "cidr")


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits of a token; None for no limit. ``peers`` are normalised ids."""

    protocols: tuple[str, ...] | None = None
    peers: frozenset[str] | None = None

    @property
    def limited(self) -> bool:
        return self.protocols is not None or self.peers is not None

    def has_protocol(self, name: str) -> bool:
        return self.protocols is None or any(match(pattern, name) for pattern in self.protocols)

    def has_peer(self, peer_id: str | None) -> bool:
        """Whether ``peer_id`` is in scope. None stands for one that cannot be identified, and for all peers."""
        return self.peers is None or peer_id in self.peers

    def covers(self, protocols: Iterable[str] | None, peers: Iterable[str] | None) -> bool:
        """Whether a token with these patterns and peers could do no more."""
        return (self.protocols is None or (protocols is not None and all(map(self.has_protocol, protocols)))) and (
            self.peers is None or (peers is not None and self.peers.issuperset(peers))
        )

    def words(self) -> str:
        """In words, such as: protocols /acme/*; peers 12D3…"""
        parts = []
        if self.protocols is not None:
            parts.append(f"protocols {listed(self.protocols)}")
        if self.peers is not None:
            parts.append(f"peers {listed(sorted(self.peers))}")
        return "; ".join(parts)


UNLIMITED = Scope()


@dataclass(frozen=True, slots=True)
class Named:
    """What a call names. ``peers`` contains None for a peer that cannot be identified."""

    protocols: tuple[str, ...] = ()
    peers: tuple[str | None, ...] = ()


def match(pattern: str, name: str) -> bool:
    """Whether the pattern matches the name; ``*`` matches any characters. A pattern as ``name`` is matched if all of
    its names are. Takes one pass."""
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    last = middle.pop()
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def named(method: str, params: Params) -> Named:
    """The protocols and peers that a call names."""
    if method == "token.create":
        return Named()  # its parameters say what another token may name
    protocols: list[str] = [BRIDGE_PROTOCOL] if method == "sendMessage" else []
    peers: list[str | None] = []
    protocol = getattr(params, "protocol", None)
    if protocol is not None:
        protocols += [protocol] if isinstance(protocol, str) else protocol
    if (peer := getattr(params, "peer_id", None)) is not None:
        peers += peers_of(peer)
    if method == "tunnel.listen":
        allowed: list[str] | None = getattr(params, "peers", None)
        peers += [None] if allowed is None else [one for text in allowed for one in peers_of(text)]
    elif not method.startswith("tunnel."):  # whose targets are programs
        for name in ADDRESSES:
            if (text := getattr(params, name, None)) is not None:
                peers += peers_of(text)
    if any(getattr(params, name, None) is not None for name in NETWORKS):
        peers.append(None)
    if isinstance(config := getattr(params, "config", None), dict):  # of `start`, which has not checked it yet
        nodes = config.get("bootstrapNodes")
        texts = nodes if isinstance(nodes, list) else []
        peers += [one for text in texts if isinstance(text, str) for one in peers_of(text)]
    return Named(tuple(protocols), tuple(peers))


def peers_of(text: str) -> list[str | None]:
    """The peers that a peer id or a multiaddr names, normalised; a relay and the peer behind it are two. ``[None]``
    where there is none, or one that cannot be decoded."""
    # expensive, and most daemons never need it here
    from fabstird.p2p.wire.addresses import AddressError, normal_peer_id

    parts = text.split("/")
    texts = [parts[at + 1] for at, part in enumerate(parts[:-1]) if part in ("p2p", "ipfs")] if parts[1:] else [text]
    try:
        return [normal_peer_id(one) for one in texts] or [None]
    except AddressError:
        return [None]


def listed(names: Iterable[str]) -> str:
    """The first of them, and the number of the others."""
    every = list(names)
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest
