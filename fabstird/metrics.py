"""What is counted. Counters live as long as the daemon, through every stop and start of the node, and only real things
move them: a dial, a connection, a call. ``metrics()`` and ``GET /metrics`` read the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


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


def exposition(counters: Counters, gauges: Callable[[], Gauges]) -> Callable[[], bytes]:
    """A function that renders Prometheus' text format. Names are go-libp2p's where the meaning is the same; no label
    ever holds a peer's data."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(counters, gauges))
    return lambda: generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, counters: Counters, gauges: Callable[[], Gauges]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        counters, now = self._counters, self._gauges()
        yield _counter(
            "libp2p_swarm_connections_opened",
            "Connections that came up",
            ["dir"],
            {("inbound",): counters.inbound_connections, ("outbound",): counters.outbound_connections},
        )
        yield _counter(
            "libp2p_swarm_connections_closed",
            "Connections that ended",
            ["reason"],
            {(reason,): count for reason, count in counters.closed.items()},
        )
        yield CounterMetricFamily("libp2p_swarm_dial_errors", "Dials that failed", counters.failed_connections)
        yield CounterMetricFamily("fabstird_bootstrap_retries", "Re-dials of bootstrap nodes", counters.retries)
        totals = now.totals
        yield CounterMetricFamily(
            "fabstird_handshakes_failed", "Inbound connections that failed to upgrade", totals.handshakes_failed
        )
        yield CounterMetricFamily(
            "fabstird_connections_refused", "Inbound connections turned away by a limit", totals.refused_connections
        )
        yield CounterMetricFamily("fabstird_stream_errors", "Stream handlers that raised", totals.stream_errors)
        yield CounterMetricFamily("fabstird_received_bytes", "Bytes read from peers", totals.bytes_received)
        yield CounterMetricFamily("fabstird_sent_bytes", "Bytes written to peers", totals.bytes_sent)
        yield CounterMetricFamily("fabstird_events_published", "Entries of the event log", now.events_head)
        yield _counter(
            "fabstird_rpc_calls",
            "API calls by method and outcome",
            ["method", "outcome"],
            counters.calls,
        )
        yield GaugeMetricFamily("fabstird_node_started", "1 while the libp2p node is started", int(now.started))
        yield GaugeMetricFamily("fabstird_connections", "Connections that are up", now.connections)
        yield GaugeMetricFamily("fabstird_peers", "Connected peers", now.peers)


def _counter(name: str, text: str, labels: list[str], values: Mapping[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family
