"""What is made from the command line's parser, and what ``fabstir`` shows of a daemon: as text, without one."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fabstir_client._core.discovery import Target
from fabstir_client._shells.grammar import read
from fabstir_client.cli import doctor_checks, doctor_machine
from fabstir_client.cli.doctor import text
from fabstir_client.cli.doctor_findings import Context, Finding
from fabstir_client.cli.format import event_line
from fabstir_client.cli.observe import SORTS
from fabstir_client.cli.parser import parser
from fabstir_client.cli.results import ordered
from fabstir_client.cli.status import screen, size
from fabstir_client.cli.watch import View, chosen, pressed
from tests.support.ports import refusing_port

ROOT = Path(__file__).parents[2]
WITHIN = 60  # seconds; a bound, never a wait
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_the_man_pages_are_what_the_programs_say() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "man-pages", "--check"], check=True, timeout=WITHIN)


@pytest.mark.parametrize("page", ["fabstir.1", "fabstird.8"])
def test_the_man_pages_are_well_formed(page: str) -> None:
    content = (ROOT / "docs" / "man" / page).read_text()
    assert all(f".SH {part}\n" in content for part in ("NAME", "SYNOPSIS", "COMMANDS", "EXIT STATUS", "FILES"))
    if shutil.which("groff") is None:
        pytest.skip("left out: there is no groff here (package groff)")
    command = ["groff", "-man", "-Tutf8", "-ww", ROOT / "docs" / "man" / page]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=WITHIN, encoding="utf-8")
    assert shown.stderr == ""


def test_every_command_is_in_the_man_page() -> None:
    page = (ROOT / "docs" / "man" / "fabstir.1").read_text()
    for command in read(parser()).commands:
        assert f"\\fB{command.name[-1]}" in page


PEERS: list[dict[str, Any]] = [
    {"peerId": "b", "connectedAt": 2, "latency": 5.0, "direction": "inbound", "connections": [{"streams": 1}]},
    {"peerId": "a", "connectedAt": 3, "agentVersion": "x", "direction": "outbound", "connections": [{"streams": 4}]},
    {"peerId": "c", "connectedAt": 1, "latency": 2.0, "agentVersion": "w", "direction": "inbound", "connections": []},
]


@pytest.mark.parametrize(
    ("by", "reverse", "order"),
    [
        ("since", False, "cba"),
        ("since", True, "abc"),
        ("peer", False, "abc"),
        ("latency", False, "cba"),
        ("latency", True, "bca"),
        ("agent", False, "cab"),
        ("streams", False, "abc"),
        ("direction", False, "bca"),
    ],
)
def test_peers_in_order(by: str, reverse: bool, order: str) -> None:
    assert "".join(peer["peerId"] for peer in ordered(PEERS, by, reverse=reverse)) == order


def view(keys: str, given: View | None = None) -> View | None:
    """The view after these keys."""
    now = given or View("since", False)
    for at, key in enumerate(keys):
        after = pressed(now, key)
        if after is None:
            assert at == len(keys) - 1
            return None
        now = after
    return now


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("q", None),
        ("s", View("peer", False)),
        ("s" * len(SORTS), View("since", False)),
        ("rr", View("since", False)),
        ("/qs", View("since", False, "qs", typing=True)),
        ("/rx\x7f\r", View("since", False, "r")),
        ("/x\x1b", View("since", False)),
        ("/x\n\x1b", View("since", False)),
        ("/\x7f\x00", View("since", False, "", typing=True)),
        ("/" + "y" * 1000, View("since", False, "y" * 60, typing=True)),
        ("xyz\x1b", View("since", False)),
    ],
)
def test_keys(keys: str, expected: View | None) -> None:
    assert view(keys) == expected


def test_the_filter_is_looked_for_in_all_that_is_known() -> None:
    peers = [{"peerId": STRANGER, "direction": "inbound", "connectedAt": 1, "agentVersion": "Kubo/0.30"}]
    for wanted in ("kubo", STRANGER[20:30], "inb", ""):
        assert chosen(peers, View("since", False, wanted)) == peers, wanted
    assert chosen(peers, View("since", False, "rust")) == []


STATUS: dict[str, Any] = {
    "state": "started",
    "uptime": 3_600_000,
    "peerId": "me",
    "peers": 2,
    "connections": 3,
    "bootstrapNodes": ["/ip4/1.1.1.1/tcp/1/p2p/near", "/ip4/2.2.2.2/tcp/1/p2p/far"],
    "listenAddresses": [f"/ip4/10.0.0.{number}/tcp/1" for number in range(9)],
    "version": "1",
    "epoch": "e",
    "head": 7,
}
METRICS: dict[str, Any] = {
    "outboundConnections": 2,
    "failedConnections": 1,
    "inboundConnections": 4,
    "bytesReceived": 1536,
    "bytesSent": 5,
    "bounds": {"connections": {"current": 250, "limit": 256}, "events": {"current": 8192, "limit": 8192}},
}


def test_status_fits_on_one_screen() -> None:
    shown = screen(STATUS, METRICS, [{"peerId": "near", "direction": "inbound", "bootstrap": True}])
    assert len(shown.splitlines()) <= 24
    assert "started, for 1h 0m" in shown
    assert "p2p/near  connected\n" in shown
    assert "p2p/far  not connected\n" in shown
    assert "and 3 more" in shown
    assert "2 (3 connections), 1 inbound" in shown
    assert "1.5 KiB received, 5 B sent" in shown
    assert "nearly full  connections: 250 of 256\n" in shown
    assert "8192 of 8192" not in shown, "a ring is always full"


def test_status_without_what_this_caller_may_not_see() -> None:
    shown = screen({**STATUS, "state": "failed", "error": "no such address\x1b[2J", "uptime": None}, None, None)
    assert "failed" in shown
    assert "\\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1023 B"), (2**20, "1.0 MiB"), (2**50, "1024.0 TiB")])
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words


def test_colours_change_nothing_but_the_colour() -> None:
    for kind in ("peer:connect", "peer:disconnect", "error", "p2p:started", "\x1b[31m"):
        event = {"time": 1, "seq": 2, "type": kind, "data": {"peerId": "\x1b[2Jx"}}
        plain, coloured = event_line(event), event_line(event, colour=True)
        assert "\x1b" not in plain
        assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain
        assert coloured != plain


# --------------------------------------------------------------------------------------------------------------------
# The doctor's single checks


def test_a_bootstrap_node_that_listens_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, refusing_port() as closed:
        port = server.getsockname()[1]
        there = doctor_machine._reach(f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}")
        gone = doctor_machine._reach(f"/ip4/127.0.0.1/tcp/{closed}/p2p/{STRANGER}")
    assert (there.state, gone.state) == ("ok", "fault")
    assert "refused" in gone.text
    assert gone.cure


@pytest.mark.parametrize(
    "address", [f"/dnsaddr/example.org/p2p/{STRANGER}", "/ip4/1.1.1.1/udp/1/quic-v1", "/ip4/1.1.1.1"]
)
def test_what_cannot_be_tried_from_outside_is_said(address: str) -> None:
    assert doctor_machine._reach(address).state == "skipped"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/", "is not a multiaddr"),
        ("nonsense", "is not a multiaddr"),
        (f"/ip4/1.2.3.999/tcp/1/p2p/{STRANGER}", "is not an /ip4 address"),
        (f"/ip4/1.2.3.4/tcp/99999/p2p/{STRANGER}", "is not a port number"),
        ("/ip4/1.2.3.4/tcp/1/p2p/cannot-be-decoded", "cannot be decoded"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{STRANGER[:-1]}", "cannot be decoded"),
        ("/ip4/1.2.3.4/tcp/1/p2p/foo", "cannot be decoded"),
        ("/ip4/1.2.3.4/tcp/1/p2p/bad", "cannot be decoded"),
        ("/ip4/1.2.3.4/tcp/1/ipfs/zzz", "cannot be decoded"),
    ],
)
def test_an_address_that_cannot_be_one_is_a_fault(address: str, words: str) -> None:
    found = doctor_machine._reach(address)
    assert (found.state, found.cure) == ("fault", "correct [node] bootstrap_nodes")
    assert words in found.text


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    path.write_text("x")
    path.chmod(0o600)
    assert [one.state for one in doctor_checks._secret(str(path))] == ["ok"]
    path.chmod(0o644)
    (finding,) = doctor_checks._secret(str(path))
    assert (finding.state, finding.cure) == ("fault", f"chmod 600 {path}")
    assert list(doctor_checks._secret(str(tmp_path / "none"))) == []


def mapping_found(*known: str, **told: str) -> Finding:
    """What the doctor finds where the daemon tells this of port mapping, with these addresses mapped."""
    entries = [{"address": f"{address}/p2p/{STRANGER}", "from": ["mapped"]} for address in known]
    context = Context(Target(), addresses={"reachability": entries, "portMapping": told})
    (finding,) = doctor_machine._mapping(context)
    return finding


def test_port_mapping_as_it_stands() -> None:
    assert mapping_found(state="off").text == "switched off: [nat] port_mapping"
    assert mapping_found(state="idle", reason="no router").state == "skipped"
    asking = mapping_found(state="asking")  # which router that is, the daemon says with the answer
    assert (asking.state, asking.text) == ("skipped", "the router is being asked for ports")
    refused = mapping_found(state="refused", gateway="10.0.0.1", reason="pcp: no")
    assert (refused.state, refused.text) == ("warning", "the router at 10.0.0.1 maps no port: pcp: no")
    assert refused.cure
    public = mapping_found("/ip4/45.32.1.1/tcp/4001", state="mapped", gateway="10.0.0.1", method="pcp")
    assert (public.state, public.cure) == ("ok", None)
    assert public.text == "the router at 10.0.0.1 forwards /ip4/45.32.1.1/tcp/4001 to this node, by pcp"
    partly = mapping_found("/ip4/45.32.1.1/tcp/1", state="mapped", gateway="10.0.0.1", method="pcp", reason="not 2")
    assert partly.state == "warning"
    assert list(doctor_machine._mapping(Context(Target()))) == []


def test_a_mapping_behind_a_second_router_is_of_no_use_and_said_so() -> None:
    for outside in ("100.64.9.1", "192.168.0.7"):
        found = mapping_found(f"/ip4/{outside}/tcp/4001", state="mapped", gateway="10.0.0.1", method="pcp", reason="hm")
        assert found.state == "warning"
        assert found.cure is not None
        assert "[relay] nodes" in found.cure


def test_the_kernel_says_something_of_its_clock() -> None:
    assert doctor_machine._synchronised() in (True, False, None)


def test_a_finding_is_shown_with_its_cure_and_without_a_stranger_s_escapes() -> None:
    shown = text(Finding("node", "fault", "it says \x1b[2J", "cure it"), colour=False)
    assert shown.splitlines() == ["fault    node       it says \\x1b[2J", f"{'':<19} cure: cure it"]
    assert "\x1b[31;1mfault" in text(Finding("node", "fault", "x"), colour=True)
