"""The Fabstir scheme: how a node's metadata is read, which nodes pass the filters, and in which order. Pure.

Metadata is free JSON by whoever put it. Its known fields are read strictly: metadata with a wrong value, or of another
peer, is `Malformed`; its node is skipped and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fabstird.foreign import NotJson, decode_json

MAX_PRICE_DIGITS = 78  # of 2^256
ANY = "any"  # the model that every node announces along with any other
MAX_MODELS = 256
MAX_NAME = 60  # bytes of a capability's name: with its prefix it must fit into a provided key
INFINITY = math.inf


class Malformed(ValueError):
    """The metadata is malformed; the message says why."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The fields that were understood; ``whole`` is all of it."""

    whole: dict[str, Any]
    models: tuple[str, ...]
    price: int | None
    reputation: float | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that provides the capability. ``latency`` is in ms, as measured here."""

    peer_id: str
    addresses: tuple[str, ...]
    metadata: Metadata | None
    by_owner: bool
    latency: float | None


@dataclass(frozen=True, slots=True)
class Filters:
    max_price: int | None = None
    max_latency: float | None = None
    min_reputation: float | None = None
    preferred: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()


def provider_keys(name: str) -> dict[str, bytes]:
    """The keys that a capability is provided under, by scheme. The SDK's is still to be hashed."""
    return {"fabstir": b"capability:" + name.encode(), "sdk": b"llm-inference/" + name.encode()}


def metadata_key(peer_id: str) -> bytes:
    return b"metadata:" + peer_id.encode()


def read(value: bytes, peer_id: str, model: str) -> Metadata:
    """The metadata of ``peer_id``, which provides ``model``. Raises `Malformed`."""
    try:
        whole = decode_json(value)
    except NotJson as error:
        raise Malformed(str(error)) from error
    if not isinstance(whole, dict):
        raise Malformed("it is not a JSON object")
    if whole.get("peerId", peer_id) != peer_id:
        raise Malformed("it is another peer's")
    inner = whole.get("capabilities")
    fields = {**(inner if isinstance(inner, dict) else {}), **whole}
    models = fields.get("models", inner if isinstance(inner, list) else [])
    if not isinstance(models, list) or len(models) > MAX_MODELS or not all(isinstance(one, str) for one in models):
        raise Malformed(f"models: must be an array of at most {MAX_MODELS} strings")
    if models and model not in (ANY, *models):
        raise Malformed(f"models: it provides {model}, and does not name it")
    return Metadata(whole, tuple(models), _price(fields.get("pricePerToken")), _score(fields.get("reputation")))


def price(text: str) -> int:
    """An amount in decimal digits. Raises ValueError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > MAX_PRICE_DIGITS:
        raise ValueError(f"must be an integer in at most {MAX_PRICE_DIGITS} decimal digits")
    return int(text)


def _price(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value) if value < 10**MAX_PRICE_DIGITS else "-"
    try:
        return price(value if isinstance(value, str) else "-")
    except ValueError as error:
        raise Malformed(f"pricePerToken: {error}") from error


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise Malformed("reputation: must be a number from 0 to 100")
    return float(value)


def passing(candidates: Iterable[Candidate], filters: Filters) -> list[Candidate]:
    """The candidates that pass the filters, in order: preferred ones as named, then by higher reputation, lower latency
    and lower price. Unknown values come last."""
    found = [one for one in candidates if _passes(one, filters)]
    return sorted(found, key=lambda one: _rank(one, filters.preferred))


def _passes(one: Candidate, filters: Filters) -> bool:
    metadata = one.metadata
    cost = metadata.price if metadata else None
    score = metadata.reputation if metadata else None
    return (
        one.peer_id not in filters.excluded
        and (filters.max_price is None or (cost is not None and cost <= filters.max_price))
        and (filters.max_latency is None or (one.latency is not None and one.latency <= filters.max_latency))
        and (filters.min_reputation is None or (score is not None and score >= filters.min_reputation))
    )


def _rank(one: Candidate, preferred: Sequence[str]) -> tuple[int, float, float, tuple[bool, int], str]:
    metadata = one.metadata
    cost = metadata.price if metadata else None
    score = metadata.reputation if metadata else None
    return (
        preferred.index(one.peer_id) if one.peer_id in preferred else len(preferred),
        -score if score is not None else INFINITY,
        one.latency if one.latency is not None else INFINITY,
        (cost is None, cost or 0),  # integers of any size, which floats do not hold
        one.peer_id,
    )
