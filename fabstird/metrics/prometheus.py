"""`metrics` in Prometheus' text format. It is a module of its own because the exporter is imported only where HTTP is
served.

A metric that means the same as one of go-libp2p's has its name and labels, so that go-libp2p's published Grafana
dashboards (swarm, eventbus, identify) show this node too. All others begin with ``fabstird_``, or ``process_`` for the
process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fabstird.log import logger as log
from fabstird.metrics.counters import Counters, Gauges, Histogram

CONNECTION = ["dir", "transport", "security", "muxer", "early_muxer", "ip_version"]

# Series that start at 0. Otherwise the first event of each would be no increase to Prometheus.
_FIRST = {(way, "tcp", "/noise", "/yamux/1.0.0", "false", "ip4"): 0 for way in ("inbound", "outbound")}
_FIRST_ERRORS = {("tcp", error, "ip4"): 0 for error in ("connection refused", "deadline", "timeout", "other")}
_PHASES = dict.fromkeys(("due", "dialling", "waiting", "resting", "connected"), 0)


def exposition(counters: Counters, gauges: Callable[[], Gauges]) -> Callable[[], bytes]:
    """A function that renders Prometheus' text format; it must be called in the event loop."""
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
    """go-libp2p's p2p/host/eventbus. Nothing is queued for a subscriber here, so its queue is the events that it has
    yet to read. Subscribers are named by transport; the slowest of a transport counts."""
    yield _counter("libp2p_eventbus_events_emitted", "Events published", ["event"], _keyed(now.events))
    yield _gauge("libp2p_eventbus_subscribers_total", "Subscriptions to a type", ["event"], _keyed(now.subscribers))
    behind = {(name,): readers.behind for name, readers in now.readers.items()}
    full = {(name,): int(readers.full) for name, readers in now.readers.items()}
    name = ["subscriber_name"]
    yield _gauge("libp2p_eventbus_subscriber_queue_length", "Events that a subscriber has still to read", name, behind)
    yield _gauge("libp2p_eventbus_subscriber_queue_full", "1 where it is about to miss events", name, full)
    # Without the suffix _total, as in go-libp2p
    queued = Metric("libp2p_eventbus_subscriber_event_queued", "Events sent to subscribers", "untyped")
    for transport, readers in sorted(now.readers.items()):
        queued.add_sample(queued.name, {"subscriber_name": transport}, readers.sent)
    yield queued


def _identify(counters: Counters, now: Gauges) -> Iterator[Metric]:
    """go-libp2p's p2p/protocol/identify. Outbound means that we asked, and so received."""
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
        "libp2p_identify_protocols_received", "Protocols that peers reported", [], {(): counters.identify_protocols}
    )
    yield _histogram(
        "libp2p_identify_addrs_received", "Addresses that peers reported", [], {(): counters.identify_addresses}
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
    yield CounterMetricFamily("fabstird_dht_lookups", "Lookups of the DHT begun", counters.dht_lookups)
    yield _counter("fabstird_dht_asked", "Messages to other nodes of the DHT", ["outcome"], _keyed(counters.dht_asked))
    yield _counter(
        "fabstird_dht_received", "Messages of other nodes of the DHT", ["kind"], _keyed(counters.dht_received)
    )
    yield CounterMetricFamily(
        "fabstird_dht_dials_failed",
        "Failed dials of peers that were known only from the DHT",
        counters.failed_dht_dials,
    )
    yield _counter(
        "fabstird_relay_requests",
        "Requests to this relay, by its answer",
        ["kind", "status"],
        counters.relay_requests,
    )
    yield _counter(
        "fabstird_paths", "Relayed peers that have become direct, or could not", ["outcome"], _keyed(counters.paths)
    )
    yield _counter(
        "fabstird_hole_punches", "Attempts at hole punching, by outcome", ["outcome"], _keyed(counters.punches)
    )
    yield _counter(
        "fabstird_autonat_served",
        "Peers that have asked to be dialled back, with our answer",
        ["version", "outcome"],
        counters.autonat_served,
    )
    yield _counter(
        "fabstird_autonat_asked",
        "Questions to others whether they get through to an address of ours",
        ["version", "outcome"],
        counters.autonat_asked,
    )
    yield CounterMetricFamily("fabstird_relay_bytes", "Bytes carried between others", counters.relay_bytes)
    yield CounterMetricFamily("fabstird_bootstrap_retries", "Re-dials of bootstrap nodes", counters.retries)
    yield CounterMetricFamily(
        "fabstird_handshakes_failed", "Inbound connections that failed to upgrade", totals.handshakes_failed
    )
    yield CounterMetricFamily(
        "fabstird_connections_refused", "Inbound connections turned away by a limit", totals.refused_connections
    )
    yield CounterMetricFamily(
        "fabstird_connections_throttled",
        "Refused connections whose IP address connected too often",
        totals.throttled_connections,
    )
    yield CounterMetricFamily(
        "fabstird_quic_retries",
        "Newcomers over QUIC that were first to show that their address is their own",
        totals.quic_retries,
    )
    yield CounterMetricFamily(
        "fabstird_quic_dropped", "Datagrams of QUIC that belong to no connection", totals.quic_dropped
    )
    yield CounterMetricFamily("fabstird_stream_errors", "Stream handlers that raised", totals.stream_errors)
    yield _counter(
        "fabstird_caught_errors", "Defects, by what they ended instead of the daemon", ["kind"], _keyed(now.caught)
    )
    opened, waiting = now.streams
    yield GaugeMetricFamily("fabstird_streams_open", "Streams of users that are open", opened)
    yield GaugeMetricFamily("fabstird_streams_waiting", "Streams of peers that wait to be accepted", waiting)
    yield _counter(
        "fabstird_streams_ended",
        "Streams of users that ended; protocols that were never handled here are one",
        ["protocol", "direction", "outcome"],
        counters.streams.ended,
    )
    yield _counter(
        "fabstird_stream_bytes",
        "Bytes of users' streams: in from peers, out to peers",
        ["protocol", "way"],
        now.stream_bytes,
    )
    yield CounterMetricFamily("fabstird_received_bytes", "Bytes read from peers", totals.bytes_received)
    yield CounterMetricFamily("fabstird_sent_bytes", "Bytes written to peers", totals.bytes_sent)


def _daemon(counters: Counters, now: Gauges) -> Iterator[Metric]:
    yield _gauge("fabstird_build_info", "1, with the version as a label", ["version"], {(now.version,): 1})
    yield _counter("fabstird_rpc_calls", "API calls by method and outcome", ["method", "outcome"], counters.calls)
    yield _histogram(
        "fabstird_rpc_call_seconds",
        "How long API calls took, including waits that the caller asked for",
        ["method"],
        {(method,): found for method, found in counters.call_seconds.items()},
    )
    yield CounterMetricFamily("fabstird_events_published", "Entries of the event log", now.events_head)
    yield CounterMetricFamily("fabstird_events_lagged", "Gaps reported to subscribers", now.lagged)
    yield CounterMetricFamily("fabstird_events_dropped", "Events that subscribers were too slow to read", now.missed)
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
    yield CounterMetricFamily(
        "fabstird_log_lines_dropped", "Lines of the log that were dropped because nobody read them", log.dropped()
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
