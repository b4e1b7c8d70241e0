"""How much of what is limited is in use: the transports keep it, ``metrics().bounds`` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fabstir_client.errors import LimitExceeded


class Connection(Protocol):
    """One that carries calls and subscriptions."""

    @property
    def calls(self) -> int:
        """In flight."""

    @property
    def subscriptions(self) -> int: ...

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""


@dataclass(slots=True)
class Usage:
    """Connections by endpoint, and those that carry calls and subscriptions."""

    ipc: int = 0
    http: int = 0
    connections: set[Connection] = field(default_factory=set)

    def calls(self) -> int:
        """The most on one connection, as the limit is."""
        return max((one.calls for one in self.connections), default=0)

    def subscriptions(self) -> int:
        """The most on one connection."""
        return max((one.subscriptions for one in self.connections), default=0)

    def waiting(self) -> int:
        """Bytes, the most on one connection."""
        return max((one.waiting for one in self.connections), default=0)


def over(what: str, limit: int, key: str, *, current: int | None = None) -> LimitExceeded:
    """The refusal of one more than ``limit``; ``what`` in words, such as: connections to the IPC socket."""
    return LimitExceeded(
        f"there are {limit if current is None else current} {what}, as many as [api] {key} allows",
        limit=limit,
        current=limit if current is None else current,
        configKey=f"api.{key}",
    )
