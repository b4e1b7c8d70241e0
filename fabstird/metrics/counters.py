"""The counters. They live as long as the daemon, across stops and starts of the node, and count real events only: a
dial, a connection, a call. ``metrics()`` and ``GET /metrics`` (`prometheus`) read the same numbers.

Counting must cost next to nothing, since a call takes 15 µs: plain integers in plain tables, converted to Prometheus'
terms when read. Every label comes from a closed set; no label holds anything that a peer or a caller has sent.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fabstird.metrics.stream_tally import StreamTally

UNKNOWN_METHOD = "unknown"  # the label of every unknown method: callers choose names, and could choose many

# Upper bounds of buckets, in seconds. Those for connections and identify are go-libp2p's, so that its dashboards fit.
CALL_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LOOP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DURATION_SECONDS = tuple(2.0**power for power in range(-4, 21))  # up to 12 days
HANDSHAKE_SECONDS = tuple(0.001 * 1.3**power for power in range(35))
DIAL_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2)
IDENTIFY_ITEMS = (*range(1, 21), *range(25, 101, 5))

# mDNS messages. ``garbage`` counts as received too; ``throttled`` ones were read late, and some after them may be lost.
MDNS = ("sent", "send_failed", "received", "garbage", "throttled")

# How requests to other DHT nodes end: ``limit`` if a limit of this node forbade the dial, ``dropped`` if the answer was
# no longer needed. And requests of others: by kind if they were answered, otherwise by the reason.
DHT_ASKED = ("answered", "failed", "limit", "dropped")
DHT_RECEIVED = ("PUT_VALUE", "GET_VALUE", "ADD_PROVIDER", "GET_PROVIDERS", "FIND_NODE", "PING", "refused", "malformed")

ConnectionLabels = tuple[str, str, str, str, str, str]  # dir, transport, security, muxer, early_muxer, ip_version
DialLabels = tuple[str, str, str]  # transport, error, ip_version


class Histogram:
    """The number of observations in each bucket. ``bounds`` are the buckets' upper bounds, ascending."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms(dict[object, Histogram]):
    """A histogram for each set of label values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, labels: object) -> Histogram:
        made = self[labels] = Histogram(self._bounds)
        return made


def _histograms(bounds: Sequence[float]) -> Callable[[], Histograms]:
    return lambda: Histograms(bounds)


@dataclass(slots=True)
class Counters:
    """Counted since the daemon started. What a host counts itself (`Totals`) is added when that host closes."""

    failed_connections: int = 0  # without `failed_dht_dials`
    failed_dht_dials: int = 0  # dials of peers known only from other DHT nodes
    inbound_connections: int = 0  # connections that came up
    outbound_connections: int = 0
    retries: int = 0  # re-dials of bootstrap nodes begun
    closed: Counter[str] = field(default_factory=Counter)  # connections that ended, by reason
    came_up: Counter[ConnectionLabels] = field(default_factory=Counter)  # connections, by what they are made of
    ended: Counter[ConnectionLabels] = field(default_factory=Counter)
    key_types: Counter[tuple[str, str]] = field(default_factory=Counter)  # of peers, by direction
    dial_errors: Counter[DialLabels] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # RPC calls by method and outcome
    durations: Histograms = field(default_factory=_histograms(DURATION_SECONDS))  # of connections that ended
    handshakes: Histograms = field(default_factory=_histograms(HANDSHAKE_SECONDS))
    dials: Histograms = field(default_factory=_histograms(DIAL_SECONDS))  # by outcome
    call_seconds: Histograms = field(default_factory=_histograms(CALL_SECONDS))  # by method
    identify_protocols: Histogram = field(default_factory=lambda: Histogram(IDENTIFY_ITEMS))
    identify_addresses: Histogram = field(default_factory=lambda: Histogram(IDENTIFY_ITEMS))
    push_support: Counter[str] = field(default_factory=Counter)  # of identified connections
    loop_delay: Histogram = field(default_factory=lambda: Histogram(LOOP_SECONDS))  # of the event loop
    mdns: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(MDNS, 0)))  # messages, by `MDNS`
    dht_lookups: int = 0
    dht_asked: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(DHT_ASKED, 0)))  # messages
    dht_received: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(DHT_RECEIVED, 0)))  # messages
    relay_requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # of others, by what and its answer
    paths: Counter[str] = field(default_factory=lambda: Counter({"direct": 0, "failed": 0}))  # of relayed peers
    punches: Counter[str] = field(
        default_factory=lambda: Counter({"tried": 0, "direct": 0, "failed": 0, "refused": 0})  # of holes
    )
    autonat_served: Counter[tuple[str, str]] = field(default_factory=Counter)  # of others, by version and its answer
    autonat_asked: Counter[tuple[str, str]] = field(default_factory=Counter)  # of ours, by version and what came of it
    relay_bytes: int = 0  # carried for others, both ways
    streams: StreamTally = field(default_factory=StreamTally)
    totals: Totals = field(default_factory=lambda: Totals())

    @property
    def successful_connections(self) -> int:
        return self.inbound_connections + self.outbound_connections

    def call(self, method: str, outcome: str, seconds: float) -> None:
        """Count one answered call. ``method`` is in the table of methods, or `UNKNOWN_METHOD`."""
        self.calls[method, outcome] += 1
        self.call_seconds[method].observe(seconds)


@dataclass(slots=True)
class Totals:
    """What one host counts below the connection manager."""

    handshakes_failed: int = 0
    refused_connections: int = 0
    throttled_connections: int = 0  # included in `refused_connections`
    quic_retries: int = 0
    quic_dropped: int = 0
    stream_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    identify_sent: int = 0
    identify_received: int = 0
    identify_pushes_received: int = 0

    def __add__(self, other: Totals) -> Totals:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Totals(*(one + another for one, another in pairs))


@dataclass(frozen=True, slots=True)
class Readers:
    """The subscriptions of one transport."""

    behind: int  # entries that the slowest of them has yet to be sent
    full: bool  # one of them is about to lose entries, or has lost some
    sent: int  # entries sent to them since the daemon started


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state at the moment of a scrape."""

    version: str
    connections: int
    peers: int
    started: bool
    events_head: int
    totals: Totals
    events: Mapping[str, int] = field(default_factory=dict)  # published, by type
    subscribers: Mapping[str, int] = field(default_factory=dict)  # by type of event
    readers: Mapping[str, Readers] = field(default_factory=dict)  # by transport
    caught: Mapping[str, int] = field(default_factory=dict)  # defects that a fence has caught, by kind
    lagged: int = 0  # times that a reader was told of a gap
    missed: int = 0  # entries in those gaps
    cycles: Mapping[str, int] = field(default_factory=dict)  # bootstrap and kept addresses, by phase
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # current and limit, by name
    protocols: int = 0  # that this node answers
    announced: int = 0  # addresses in identify messages
    tasks: int = 0
    streams: tuple[int, int] = (0, 0)  # of users: open, waiting to be accepted
    stream_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by protocol and direction
