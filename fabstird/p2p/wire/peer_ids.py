"""Peer ids as text, which the daemon uses everywhere, and as bytes, which messages use."""

from __future__ import annotations

from functools import lru_cache

from fabstird import base58

KEPT = 8192  # cached results; the DHT needs the same ones again and again


@lru_cache(KEPT)
def to_text(peer: bytes) -> str:
    """Base58btc, the canonical form here."""
    return base58.encode(peer)


@lru_cache(KEPT)
def to_bytes(peer_id: str) -> bytes:
    """The multihash of a normalised peer id (`addresses.normal_peer_id`)."""
    return base58.decode(peer_id)
