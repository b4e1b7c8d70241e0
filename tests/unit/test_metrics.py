"""Counting, and the words in which Prometheus is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from fabstird.metrics.counters import Counters, Gauges, Histogram, Readers, Totals
from fabstird.metrics.prometheus import exposition
from fabstird.p2p.net.dial_errors import DialError, DialLimit, failure
from fabstird.p2p.peers.dialer import dial_labels
from tests.unit.manager import A1, B1, SAID, A, FakeLink, running

Sample = tuple[str, dict[str, str], float]


def scrape(counters: Counters, **now: object) -> list[Sample]:
    standing: dict[str, object] = {
        "version": "1",
        "connections": 0,
        "peers": 0,
        "started": True,
        "events_head": 0,
        "totals": Totals(),
        **now,
    }
    text = exposition(counters, lambda: Gauges(**standing))().decode()  # type: ignore[arg-type]
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    (found,) = [v for n, given, v in samples if n == name and labels.items() <= given.items()]
    return found


def test_a_histogram_counts_what_is_at_most_its_bound() -> None:
    histogram = Histogram((1, 2))
    for seconds in (0, 1, 1.5, 2, 2.5):
        histogram.observe(seconds)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 7)


def test_totals_of_two_hosts_are_added_field_by_field() -> None:
    assert Totals(1, 2, 3, 4, 5, 6, 7, 8) + Totals(10, 20, 30, 40, 50, 60, 70, 80) == Totals(
        11, 22, 33, 44, 55, 66, 77, 88
    )


def test_buckets_are_cumulative_and_end_in_the_count() -> None:
    counters = Counters()
    for seconds in (0.00005, 0.0002, 99):
        counters.call("status", "ok", seconds)
    samples = scrape(counters)
    bucket = "fabstird_rpc_call_seconds_bucket"
    assert value(samples, bucket, method="status", le="0.0001") == 1
    assert value(samples, bucket, method="status", le="60") == 2
    assert value(samples, bucket, method="status", le="+Inf") == 3
    assert value(samples, "fabstird_rpc_call_seconds_count", method="status") == 3
    assert value(samples, "fabstird_rpc_calls_total", method="status", outcome="ok") == 3


def test_series_that_a_rate_is_taken_of_are_there_before_anything_happens() -> None:
    samples = scrape(Counters())
    for way in ("inbound", "outbound"):
        for name in ("opened", "closed"):
            assert value(samples, f"libp2p_swarm_connections_{name}_total", dir=way) == 0
    assert value(samples, "libp2p_swarm_dial_errors_total", error="connection refused") == 0
    assert value(samples, "fabstird_dial_cycles", phase="waiting") == 0


def test_a_slow_reader_is_seen() -> None:
    readers = {"ipc": Readers(behind=7, full=True, sent=3)}
    samples = scrape(Counters(), readers=readers, events={"peer:connect": 9}, lagged=1, missed=5)
    assert value(samples, "libp2p_eventbus_subscriber_queue_length", subscriber_name="ipc") == 7
    assert value(samples, "libp2p_eventbus_subscriber_queue_full", subscriber_name="ipc") == 1
    assert value(samples, "libp2p_eventbus_subscriber_event_queued", subscriber_name="ipc") == 3
    assert value(samples, "libp2p_eventbus_events_emitted_total", event="peer:connect") == 9
    assert value(samples, "fabstird_events_dropped_total") == 5


async def test_connections_are_counted_with_what_they_are_made_of(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, B1) as bench:
        link = FakeLink(A, A1, "inbound")
        bench.host.bring_up(link)
        bench.host.identify(link, SAID)
        await bench.settle(2)
        bench.host.lose(link, "reset")
        bench.dial(B1).fail()
        await bench.settle()
        samples = scrape(bench.counters)
    made = {"dir": "inbound", "transport": "tcp", "security": "/noise", "muxer": "/yamux/1.0.0", "ip_version": "ip4"}
    assert value(samples, "libp2p_swarm_connections_opened_total", **made) == 1
    assert value(samples, "libp2p_swarm_connections_closed_total", **made) == 1
    assert value(samples, "libp2p_swarm_connection_duration_seconds_sum", **made) == 2
    assert value(samples, "libp2p_swarm_handshake_latency_seconds_count") == 1
    assert value(samples, "libp2p_swarm_key_types_total", key_type="Ed25519") == 1
    assert value(samples, "fabstird_connections_closed_total", reason="reset") == 1
    assert value(samples, "libp2p_swarm_dial_errors_total", transport="tcp", error="other", ip_version="ip4") == 1
    assert value(samples, "libp2p_swarm_dial_latency_seconds_sum", outcome="failed") == 2
    assert value(samples, "libp2p_identify_protocols_received_count") == 1
    assert value(samples, "libp2p_identify_conn_push_support_total", support="not supported") == 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (A1, ("tcp", "ip4")),
        (f"/dns6/x/tcp/1/ws/p2p/{A}", ("ws", "ip6")),
        (f"/dnsaddr/x/p2p/{A}", ("other", "unknown")),
        ("/ip4/1.1.1.1/udp/1/quic-v1", ("quic-v1", "ip4")),
        ("nonsense", ("other", "unknown")),
        ("", ("other", "unknown")),
        ("/{evil}/{label}", ("other", "unknown")),
    ],
)
def test_labels_of_a_dial_are_of_a_closed_set(text: str, labels: tuple[str, str]) -> None:
    assert dial_labels(text) == labels


ERRORS: list[tuple[BaseException, str]] = [
    (OSError(errno.ECONNREFUSED, "x"), "connection refused"),
    (OSError(errno.EHOSTUNREACH, "x"), "unreachable"),
    (OSError(errno.EIO, "x"), "other"),
    (trio.TooSlowError(), "timeout"),
    (DialError("x", "deadline"), "deadline"),
    (DialLimit("connections.max", 1, 1), "limit"),
    (ValueError("x"), "other"),
    (BaseExceptionGroup("x", [OSError(errno.ECONNRESET, "x")]), "connection reset"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_why_a_dial_failed_in_the_words_of_the_metrics(error: BaseException, kind: str) -> None:
    assert failure(error).kind == kind
