"""The board and the alerts of docs/grafana, in front of a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import trio

from tests.harness import daemon, until
from tests.observe.scene import ALERTS, BOARD, DOCS, busy, expressions, prometheus

WITHIN = 120.0  # seconds for all queries to have an answer; they need two scrapes, and a busy machine its time
TESTS = Path(__file__).with_name("alerts.test.yml")

# What go-libp2p's own boards (swarm, eventbus, identify; v0.4x) ask for, with the labels that they group or filter by.
GO_BOARDS = {
    "libp2p_swarm_connections_opened_total": {"dir", "transport", "security", "muxer", "early_muxer", "ip_version"},
    "libp2p_swarm_connections_closed_total": {"dir", "transport", "security", "muxer", "early_muxer", "ip_version"},
    "libp2p_swarm_dial_errors_total": {"transport", "error", "ip_version"},
    "libp2p_swarm_connection_duration_seconds_bucket": {"dir", "transport", "security", "muxer", "le"},
    "libp2p_swarm_handshake_latency_seconds_bucket": {"transport", "security", "muxer", "le"},
    "libp2p_swarm_dial_latency_seconds_bucket": {"outcome", "le"},
    "libp2p_swarm_key_types_total": {"dir", "key_type"},
    "libp2p_eventbus_events_emitted_total": {"event"},
    "libp2p_eventbus_subscribers_total": {"event"},
    "libp2p_eventbus_subscriber_queue_length": {"subscriber_name"},
    "libp2p_eventbus_subscriber_queue_full": {"subscriber_name"},
    "libp2p_eventbus_subscriber_event_queued": {"subscriber_name"},
    "libp2p_identify_identify_total": {"dir"},
    "libp2p_identify_identify_push_total": {"dir"},
    "libp2p_identify_conn_push_support_total": {"support"},
    "libp2p_identify_protocols_count": set(),
    "libp2p_identify_addrs_count": set(),
    "libp2p_identify_protocols_received_bucket": {"le"},
    "libp2p_identify_addrs_received_bucket": {"le"},
}


async def test_every_query_of_the_board_has_an_answer(prometheus_there: None, tmp_path: Path) -> None:
    async with busy() as (alice, steps), prometheus(alice, tmp_path) as server:
        waiting = expressions()
        assert len(waiting) > 25
        with trio.move_on_after(WITHIN):
            while waiting:
                for step in steps:
                    await step()
                waiting = {name: text for name, text in waiting.items() if not await server.values(text)}
        assert not waiting, "these queries of the board give nothing"

        series = await server.get("series", **{"match[]": '{job="fabstird"}'})
        missing = {
            name: labels
            for name, labels in GO_BOARDS.items()
            if not any(one["__name__"] == name and labels <= one.keys() for one in series)
        }
        assert not missing, "go-libp2p's boards would stay empty"
        text = json.dumps(series)
        assert "12D3KooW" not in text, "a peer id is a label"
        assert "no.such.method" not in text, "a name that a caller chose is a label"
        assert len(series) < 2000

        rules = [rule for group in (await server.get("rules"))["groups"] for rule in group["rules"]]
        assert [rule["health"] for rule in rules] == ["ok"] * 10, rules
        # What must not be firing where nothing is amiss, but for bootstrap nodes that are not there; and what is
        # pending where a single scrape came too late
        alerts = {(alert["labels"]["alertname"], alert["state"]) for alert in (await server.get("alerts"))["alerts"]}
        firing = {name for name, _ in alerts - {("FabstirdDown", "pending")}}
        assert firing <= {"FabstirdBootstrapUnreachable", "FabstirdNoPeers", "FabstirdEventLoopSlow"}


async def test_an_alert_begins_when_the_node_is_stopped(prometheus_there: None, tmp_path: Path) -> None:
    async with daemon({"node.auto_start": False}) as alice, prometheus(alice, tmp_path) as server:
        names: set[str] = set()

        async def look() -> None:
            while "FabstirdNodeNotStarted" not in names:
                found = (await server.get("alerts"))["alerts"]
                names.update(alert["labels"]["alertname"] for alert in found)
                await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await until(lambda: "FabstirdNodeNotStarted" in names, within=WITHIN)


def test_the_alerts_fire_when_they_should_and_not_before(prometheus_there: None) -> None:
    subprocess.run(["promtool", "check", "rules", ALERTS], check=True, timeout=60)
    subprocess.run(["promtool", "test", "rules", TESTS], check=True, timeout=60)


def test_every_alert_has_a_test_and_a_cure() -> None:
    alerts = [line.partition("alert: ")[2] for line in ALERTS.read_text().splitlines() if "alert: " in line]
    tested, cures = TESTS.read_text(), (DOCS / "monitoring.md").read_text()
    assert len(alerts) == 10
    for alert in alerts:
        assert f"alertname: {alert}\n" in tested, alert
        assert alert in cures, alert


def test_the_board_is_one_that_grafana_reads() -> None:
    board = json.loads(BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", ()):
            assert '$instance"' in target["expr"], panel["title"]
