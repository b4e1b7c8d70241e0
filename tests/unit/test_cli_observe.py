"""What is made from the command line's parser, and what ``fabstir`` shows of a daemon: as text, without one."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fabstir_client import doctor
from fabstir_client.cli import parser
from fabstir_client.cli_doctor import text
from fabstir_client.cli_grammar import read
from fabstir_client.cli_shells import script
from fabstir_client.cli_status import screen, size
from fabstir_client.cli_tables import event_line, ordered
from fabstir_client.doctor import Finding
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


def test_every_command_is_in_the_man_page_and_in_every_completion() -> None:
    whole = read(parser())
    page = (ROOT / "docs" / "man" / "fabstir.1").read_text()
    texts = {shell: script(shell, whole) for shell in ("bash", "zsh", "fish")}
    for command in whole.commands:
        assert f"\\fB{command.name[-1]}" in page
        for shell, content in texts.items():
            assert command.name[-1] in content, shell


def completed(*words: str) -> set[str]:
    """What bash would offer for the last word."""
    listed = " ".join(f"'{word}'" for word in ("fabstir", *words))
    program = f"{script('bash', read(parser()))}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words)}\n_fabstir\n"
    program += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(
        ["bash", "-c", program],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes() -> None:
    assert completed("sta") == {"start", "status"}
    assert {"status", "doctor", "token"} <= completed("")
    assert completed("peers", "--so") == {"--sort"}
    assert completed("peers", "--sort", "l") == {"latency"}
    assert completed("--json", "peers", "--wa") == {"--watch"}
    assert completed("--data-dir", "peers", "sta") == {"start", "status"}, "a value is no command"
    assert completed("wait", "sto") == {"stopped"}
    assert completed("log", "de") == {"debug"}
    assert completed("token", "cr") == {"create"}
    assert completed("completion", "") == {"bash", "zsh", "fish"}
    assert completed("call", "nothing") == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell: str) -> None:
    content = script(shell, read(parser()))
    if shutil.which(shell) is None:
        pytest.skip(f"left out: there is no {shell} here (package {shell})")
    subprocess.run([shell, "-n"], input=content, text=True, check=True, timeout=WITHIN)


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
        there = doctor._reach(f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}")
        gone = doctor._reach(f"/ip4/127.0.0.1/tcp/{closed}/p2p/{STRANGER}")
    assert (there.state, gone.state) == ("ok", "fault")
    assert "refused" in gone.text
    assert gone.cure


@pytest.mark.parametrize(
    "address", [f"/dnsaddr/example.org/p2p/{STRANGER}", "/ip4/1.1.1.1/udp/1/quic-v1", "/ip4/1.1.1.1", "/", "nonsense"]
)
def test_what_cannot_be_tried_from_outside_is_said(address: str) -> None:
    assert doctor._reach(address).state == "skipped"


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    path.write_text("x")
    path.chmod(0o600)
    assert [one.state for one in doctor._secret(str(path))] == ["ok"]
    path.chmod(0o644)
    (finding,) = doctor._secret(str(path))
    assert (finding.state, finding.cure) == ("fault", f"chmod 600 {path}")
    assert list(doctor._secret(str(tmp_path / "none"))) == []


def test_the_kernel_says_something_of_its_clock() -> None:
    assert doctor._synchronised() in (True, False, None)


def test_a_finding_is_shown_with_its_cure_and_without_a_stranger_s_escapes() -> None:
    shown = text(Finding("node", "fault", "it says \x1b[2J", "cure it"), colour=False)
    assert shown.splitlines() == ["fault    node       it says \\x1b[2J", f"{'':<19} cure: cure it"]
    assert "\x1b[31;1mfault" in text(Finding("node", "fault", "x"), colour=True)
