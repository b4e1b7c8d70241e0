"""`metrics` in Prometheus' text format; apart from it, because the exporter is imported only where HTTP is served.

Where a number means the same as one of go-libp2p's, it has its name and its labels, so that go-libp2p's published
Grafana boards (swarm, eventbus, identify) show this node too. All others begin with ``fabstird_``; those about the
process are the usual ``process_…``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fabstird import log
from fabstird.metrics import Counters, Gauges, Histogram

CONNECTION = ["dir", "transport", "security", "muxer", "early_muxer", "ip_version"]

# Series that are there from the start, at 0: without them the first of each is no increase that Prometheus sees.
_FIRST = {(way, "tcp", "/noise", "/yamux/1.0.0", "false", "ip4"): 0 for way in ("inbound", "outbound")}
_FIRST_ERRORS = {("tcp", error, "ip4"): 0 for error in ("connection refused", "deadline", "timeout", "other")}
_PHASES = dict.fromkeys(("due", "dialling", "waiting", "resting", "connected"), 0)


def exposition(counters: Counters, gauges: Callable[[], Gauges]) -> Callable[[], bytes]:
    """A function that renders Prometheus' text format; call it in the event loop."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Scrape(counters, gauges))
    return lambda: generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, counters: Counters, gauges: Callable[[], Gauges]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        now = self._gauges()
        yield from _swarm(self._counters)
        yield from _eventbus(now)
        yield from _identify(self._counters, now)
        yield from _node(self._counters, now)
        yield from _daemon(self._counters, now)


def _swarm(counters: Counters) -> Iterator[Metric]:
    """go-libp2p's p2p/net/swarm."""
    opened, closed = _FIRST | dict(counters.came_up), _FIRST | dict(counters.ended)
    yield _counter("libp2p_swarm_connections_opened", "Connections that came up", CONNECTION, opened)
    yield _counter("libp2p_swarm_connections_closed", "Connections that ended", CONNECTION, closed)
    yield _counter("libp2p_swarm_key_types", "Keys of connected peers", ["dir", "key_type"], counters.key_types)
    yield _counter(
        "libp2p_swarm_dial_errors",
        "Dials that failed",
        ["transport", "error", "ip_version"],
        _FIRST_ERRORS | dict(counters.dial_errors),
    )
    yield _histogram(
        "libp2p_swarm_connection_duration_seconds",
        "How long connections lasted that have ended",
        CONNECTION,
        counters.durations,
    )
    yield _histogram(
        "libp2p_swarm_handshake_latency_seconds",
        "From the first byte, the dial of the socket included, to an upgraded connection",
        CONNECTION[1:],
        counters.handshakes,
    )
    yield _histogram(
        "libp2p_swarm_dial_latency_seconds", "How long dials took, names included", ["outcome"], counters.dials
    )


def _eventbus(now: Gauges) -> Iterator[Metric]:
    """go-libp2p's p2p/host/eventbus. Nothing is queued for a subscriber here: its queue is what it has still to read of
    the event log. Subscribers have their transport's name; of several, the slowest one counts."""
    yield _counter("libp2p_eventbus_events_emitted", "Events published", ["event"], _keyed(now.events))
    yield _gauge("libp2p_eventbus_subscribers_total", "Subscriptions to a type", ["event"], _keyed(now.subscribers))
    behind = {(name,): readers.behind for name, readers in now.readers.items()}
    full = {(name,): int(readers.full) for name, readers in now.readers.items()}
    name = ["subscriber_name"]
    yield _gauge("libp2p_eventbus_subscriber_queue_length", "Events that a subscriber has still to read", name, behind)
    yield _gauge("libp2p_eventbus_subscriber_queue_full", "1 where it is about to miss events", name, full)
    # Without the _total that a counter's name should end in: go-libp2p's is called so
    queued = Metric("libp2p_eventbus_subscriber_event_queued", "Events sent to subscribers", "untyped")
    for transport, readers in sorted(now.readers.items()):
        queued.add_sample(queued.name, {"subscriber_name": transport}, readers.sent)
    yield queued


def _identify(counters: Counters, now: Gauges) -> Iterator[Metric]:
    """go-libp2p's p2p/protocol/identify; outbound is what we asked, and so what we received."""
    totals = now.totals
    yield _counter(
        "libp2p_identify_identify",
        "Identify messages",
        ["dir"],
        {("inbound",): totals.identify_sent, ("outbound",): totals.identify_received},
    )
    yield _counter(
        "libp2p_identify_identify_push", "Identify pushes", ["dir"], {("inbound",): totals.identify_pushes_received}
    )
    yield _counter(
        "libp2p_identify_conn_push_support",
        "Identified connections by what they speak",
        ["support"],
        {("supported",): 0, ("not supported",): 0} | _keyed(counters.push_support),
    )
    yield GaugeMetricFamily("libp2p_identify_protocols_count", "Protocols that this node answers", now.protocols)
    yield GaugeMetricFamily("libp2p_identify_addrs_count", "Addresses that this node announces", now.announced)
    yield _histogram(
        "libp2p_identify_protocols_received", "Protocols that peers told", [], {(): counters.identify_protocols}
    )
    yield _histogram(
        "libp2p_identify_addrs_received", "Addresses that peers told", [], {(): counters.identify_addresses}
    )


def _node(counters: Counters, now: Gauges) -> Iterator[Metric]:
    totals = now.totals
    yield GaugeMetricFamily("fabstird_node_started", "1 while the libp2p node is started", int(now.started))
    yield GaugeMetricFamily("fabstird_connections", "Connections that are up", now.connections)
    yield GaugeMetricFamily("fabstird_peers", "Connected peers", now.peers)
    yield _counter(
        "fabstird_connections_closed", "Connections that ended, by reason", ["reason"], _keyed(counters.closed)
    )
    yield _gauge(
        "fabstird_dial_cycles",
        "Bootstrap and kept addresses; those waiting or resting are backed off",
        ["phase"],
        _keyed(_PHASES | dict(now.cycles)),
    )
    mdns = {(kind,): count for kind, count in counters.mdns.items()}
    yield _counter("fabstird_mdns_messages", "Messages of mDNS", ["kind"], mdns)
    yield CounterMetricFamily("fabstird_bootstrap_retries", "Re-dials of bootstrap nodes", counters.retries)
    yield CounterMetricFamily(
        "fabstird_handshakes_failed", "Inbound connections that failed to upgrade", totals.handshakes_failed
    )
    yield CounterMetricFamily(
        "fabstird_connections_refused", "Inbound connections turned away by a limit", totals.refused_connections
    )
    yield CounterMetricFamily("fabstird_stream_errors", "Stream handlers that raised", totals.stream_errors)
    yield CounterMetricFamily("fabstird_received_bytes", "Bytes read from peers", totals.bytes_received)
    yield CounterMetricFamily("fabstird_sent_bytes", "Bytes written to peers", totals.bytes_sent)


def _daemon(counters: Counters, now: Gauges) -> Iterator[Metric]:
    yield _gauge("fabstird_build_info", "1, with the version as a label", ["version"], {(now.version,): 1})
    yield _counter("fabstird_rpc_calls", "API calls by method and outcome", ["method", "outcome"], counters.calls)
    yield _histogram(
        "fabstird_rpc_call_seconds",
        "How long API calls took, waits that the caller asked for included",
        ["method"],
        {(method,): found for method, found in counters.call_seconds.items()},
    )
    yield CounterMetricFamily("fabstird_events_published", "Entries of the event log", now.events_head)
    yield CounterMetricFamily("fabstird_events_lagged", "Times that a subscriber was told of a gap", now.lagged)
    yield CounterMetricFamily("fabstird_events_dropped", "Events that subscribers were too slow for", now.missed)
    yield _histogram(
        "fabstird_event_loop_delay_seconds",
        "By how much the event loop woke its canary too late",
        [],
        {(): counters.loop_delay},
    )
    yield _counter(
        "fabstird_log_lines",
        "Lines of the log",
        ["level"],
        _keyed(dict.fromkeys(("debug", "info", "warning", "error", "critical"), 0) | dict(log.memory.counts)),
    )
    yield GaugeMetricFamily("fabstird_tasks", "Tasks of the event loop", now.tasks)
    current = {(name,): count for name, (count, _) in now.bounds.items()}
    limits = {(name,): limit for name, (_, limit) in now.bounds.items()}
    yield _gauge("fabstird_bound_current", "How much there is of what is bounded in number", ["name"], current)
    yield _gauge("fabstird_bound_limit", "The bounds", ["name"], limits)


def _keyed(values: Mapping[str, int]) -> dict[tuple[str], int]:
    return {(key,): value for key, value in values.items()}


def _counter(name: str, text: str, labels: list[str], values: Mapping[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _gauge(name: str, text: str, labels: list[str], values: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _histogram(name: str, text: str, labels: list[str], values: Mapping[Any, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, found in sorted(values.items()):
        bounds = [*(f"{bound:.6g}" for bound in found.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(found.counts), strict=True))
        family.add_metric(list(key), buckets=buckets, sum_value=found.total)
    return family
