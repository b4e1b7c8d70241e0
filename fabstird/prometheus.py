"""`metrics` in Prometheus' text format; apart from it, because the exporter is imported only where HTTP is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabstird.metrics import Counters, Gauges


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
