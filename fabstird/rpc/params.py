"""Checks of parameters that several methods take."""

from __future__ import annotations

from fabstir_client.errors import InvalidParams
from fabstird.config import LARGEST


def duration(name: str, value: int | None) -> int | None:
    """Milliseconds, where they are given. Raises `InvalidParams`."""
    if value is not None and not 0 < value <= LARGEST:
        words = "a positive number of milliseconds" if value <= 0 else f"{LARGEST} ms at most"
        raise InvalidParams(f"Invalid params: {name}: must be {words}, not {value}", param=name)
    return value
