"""Checks of parameters that several methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fabstir_client.api.errors import InvalidParams
from fabstird.config import LARGEST


class Leaseholder(Protocol):
    """A connection that holds something until it closes."""

    def at_end(self, key: str, callback: Callable[[], None]) -> None: ...


def leaseholder(subscriber: Any) -> Leaseholder:
    """The connection of a call with a lease (`Call.subscriber`). Raises `InvalidParams` where the call has no lasting
    connection."""
    if subscriber is None:
        words = "needs the IPC socket or a WebSocket, since a lease lasts as long as its connection"
        raise InvalidParams(f"Invalid params: lease: {words}", param="lease")
    holder: Leaseholder = subscriber
    return holder


def duration(name: str, value: int | None) -> int | None:
    """Check a number of milliseconds, if given. Raises `InvalidParams`."""
    if value is not None and not 0 < value <= LARGEST:
        words = "a positive number of milliseconds" if value <= 0 else f"{LARGEST} ms at most"
        raise InvalidParams(f"Invalid params: {name}: must be {words}, not {value}", param=name)
    return value
