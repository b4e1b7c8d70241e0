"""The state of a node as others see it, running or not. Callers need not check first whether it is started."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from fabstir_client.api.types import Addresses, Peer
from fabstird.metrics.counters import Totals


class View(Protocol):
    """The state of the current run."""

    @property
    def started_at(self) -> int | None:
        """Milliseconds since the Unix epoch; None while it is not started."""

    @property
    def uptime(self) -> int | None:
        """Milliseconds since it started, by a monotonic clock; None while it is not started."""

    def peers(self) -> list[Peer]: ...

    def peer_ids(self) -> list[str]: ...

    def peer_count(self) -> int: ...

    def connection_count(self) -> int: ...

    def dials(self) -> tuple[int, int]:
        """The number of dials under way, and of bootstrap and kept addresses that wait for theirs."""

    def dial_cycles(self) -> Counter[str]:
        """The number of bootstrap and kept addresses in each phase of their cycle."""

    def silence(self) -> float:
        """Seconds that the dial loop has owed the turn which an earlier call asked for."""

    def listen_addresses(self) -> list[str]: ...

    def announced_addresses(self) -> list[str]: ...

    def addresses(self) -> Addresses: ...

    def protocols(self) -> list[str]: ...

    def totals(self) -> Totals:
        """What this run has counted."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """The amounts that this run bounds, and their bounds."""


class NoRun(View):
    """There is no run."""

    started_at = None
    uptime = None

    def __init__(self, peer_id: str) -> None:
        self._peer_id = peer_id

    def peers(self) -> list[Peer]:
        return []

    def peer_ids(self) -> list[str]:
        return []

    def peer_count(self) -> int:
        return 0

    def connection_count(self) -> int:
        return 0

    def dials(self) -> tuple[int, int]:
        return 0, 0

    def dial_cycles(self) -> Counter[str]:
        return Counter()

    def silence(self) -> float:
        return 0.0

    def listen_addresses(self) -> list[str]:
        return []

    def announced_addresses(self) -> list[str]:
        return []

    def addresses(self) -> Addresses:
        return Addresses(peer_id=self._peer_id, listen=[], announced=[], observed=[], reachability=[])

    def protocols(self) -> list[str]:
        return []

    def totals(self) -> Totals:
        return Totals()

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {}
