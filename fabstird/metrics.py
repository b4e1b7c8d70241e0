"""What is counted. Counters live as long as the daemon, through every stop and start of the node, and only real things
move them: a dial, a connection, a call. ``metrics()`` and ``GET /metrics`` (`prometheus`) read the same numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Since the daemon started. What a host counts itself (`Totals`) is added up when that host closes."""

    failed_connections: int = 0  # dials that failed
    inbound_connections: int = 0  # connections that came up
    outbound_connections: int = 0
    retries: int = 0  # re-dials of bootstrap nodes begun
    closed: Counter[str] = field(default_factory=Counter)  # connections that ended, by reason
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # RPC calls by method and outcome
    totals: Totals = field(default_factory=lambda: Totals())

    @property
    def successful_connections(self) -> int:
        return self.inbound_connections + self.outbound_connections


@dataclass(slots=True)
class Totals:
    """What one host counts below the connection manager."""

    handshakes_failed: int = 0
    refused_connections: int = 0
    stream_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.handshakes_failed + other.handshakes_failed,
            self.refused_connections + other.refused_connections,
            self.stream_errors + other.stream_errors,
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
        )


@dataclass(frozen=True, slots=True)
class Gauges:
    """How things stand at the moment of a scrape."""

    connections: int
    peers: int
    started: bool
    events_head: int
    totals: Totals
