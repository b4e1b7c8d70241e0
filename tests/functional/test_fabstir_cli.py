"""``fabstir`` against real daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabstir_client
from tests.harness import RunningDaemon, running_daemon, stopped_daemon, wait_until

WITHIN = 120  # seconds; a bound, never a wait
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ROOT = Path(__file__).parents[2]


def start(daemon: RunningDaemon, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fabstir_client", "--data-dir", str(daemon.data_dir), *args]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean, cwd=ROOT)


def fabstir(daemon: RunningDaemon, *args: str, status: int = 0) -> str:
    """What it printed; stderr where it is to fail."""
    process = start(daemon, *args)
    output, errors = process.communicate(timeout=WITHIN)
    assert process.returncode == status, (output, errors)
    return output if status == 0 else errors


def result(daemon: RunningDaemon, *args: str) -> Any:
    return json.loads(fabstir(daemon, "--json", *args))


@pytest.fixture(scope="module")
def alice() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def bob() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        yield daemon


def test_a_session(alice: RunningDaemon, bob: RunningDaemon) -> None:
    assert fabstir(alice, "wait", "started", "--timeout", "30") == "started: yes\n"
    assert fabstir(bob, "wait", "started", "--timeout", "30") == "started: yes\n"
    status = result(bob, "status")
    peer, address = status["peerId"], status["listenAddresses"][0]
    after = result(alice, "status")["head"]

    follower = start(
        alice,
        "events",
        "--follow",
        "--after",
        str(after),
        "--type",
        "peer:connect",
        "--type",
        "peer:disconnect",
        "--json",
    )
    assert follower.stdout is not None
    assert f"connected to {peer} at {address} (outbound)\n" == fabstir(alice, "connect", address)
    assert json.loads(follower.stdout.readline())["data"] == {
        "peerId": peer,
        "address": address,
        "direction": "outbound",
    }
    assert fabstir(alice, "wait", f"peer={peer}") == f"peer={peer}: yes\n"
    assert fabstir(bob, "wait", "peers=1") == "peers=1: yes\n"
    head, row = fabstir(alice, "peers").splitlines()
    assert head.startswith("PEER")
    assert row.startswith(f"{peer}  outbound")
    assert fabstir(alice, "ping", peer).startswith(f"{peer} answered in ")

    bob.kill()
    gone = json.loads(follower.stdout.readline())
    assert (gone["type"], gone["data"]["peerId"]) == ("peer:disconnect", peer)
    assert fabstir(alice, "wait", "peers=0") == "peers=0: yes\n"
    assert fabstir(alice, "peers") == "no peers\n"
    held = fabstir(
        alice, "events", "--after", str(after), "--type", "peer:connect", "--type", "peer:disconnect", "--json"
    )
    assert [json.loads(line)["type"] for line in held.splitlines()] == ["peer:connect", "peer:disconnect"]

    follower.send_signal(signal.SIGINT)
    output, errors = follower.communicate(timeout=WITHIN)
    assert (follower.returncode, output, errors) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", ["status", "peers", "addresses", "metrics", "version", "config"])
def test_json_is_the_result_of_the_method(alice: RunningDaemon, command: str) -> None:
    with fabstir_client.connect_sync(data_dir=alice.data_dir) as client:
        # The callers of earlier tests are not counted any more
        wait_until(lambda: client.call("metrics")["bounds"]["ipcConnections"]["current"] == 1)
        expected = client.call(command)
    printed = result(alice, command)
    volatile = {"uptime", "bytesSent", "bytesReceived"}
    if isinstance(expected, dict):
        assert {k: v for k, v in printed.items() if k not in volatile} == {
            k: v for k, v in expected.items() if k not in volatile
        }
    else:
        assert printed == expected
    assert fabstir(alice, command).strip()


def test_stop_and_start(alice: RunningDaemon) -> None:
    assert result(alice, "stop")["state"] == "stopped"
    assert fabstir(alice, "wait", "stopped") == "stopped: yes\n"
    waiter = start(alice, "wait", "started", "--timeout", "30")
    assert result(alice, "start")["state"] == "started"
    assert waiter.communicate(timeout=WITHIN) == ("started: yes\n", "")


def test_refusals(alice: RunningDaemon) -> None:
    fabstir(alice, "start")
    assert "no address" in fabstir(alice, "connect", STRANGER, status=1)
    assert "/p2p/" in fabstir(alice, "connect", "/ip4/127.0.0.1/tcp/1", status=1)
    assert "connection refused" in fabstir(alice, "connect", f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}", status=1)
    assert "nope" in fabstir(alice, "call", "nope", status=1)
    assert "999999" in fabstir(alice, "events", "--after", "999999", status=1)
    assert "peer:conect" in fabstir(alice, "events", "--type", "peer:conect", status=1)
    assert "peers=5" in fabstir(alice, "wait", "peers=5", "--timeout", "0.2", status=4)


def test_over_http(alice: RunningDaemon) -> None:
    assert result(alice, "--api", alice.http, "status")["epoch"] == alice.api["epoch"]
    assert fabstir(alice, "--api", alice.http, "wait", "ready") == "ready: yes\n"
    other = alice.data_dir.with_name("empty")
    command = [sys.executable, "-m", "fabstir_client", "--data-dir", str(other), "--api", alice.http, "status"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, cwd=ROOT, check=False)
    assert refused.returncode == 1
    assert "refused the token (none was found; set FABSTIR_TOKEN" in refused.stderr


def test_waiting_for_a_daemon_from_before_it_starts_until_after_it_was_killed() -> None:
    with stopped_daemon() as daemon:
        assert "api.sock: not there" in fabstir(daemon, "status", status=3)
        waiter = start(daemon, "wait", "started", "--timeout", "30")
        daemon.start()
        assert waiter.communicate(timeout=WITHIN) == ("started: yes\n", "")
        follower = start(daemon, "events", "--follow", "--after", "0", "--type", "p2p:started", "--json")
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        daemon.kill()
        assert "nobody listens there" in fabstir(daemon, "status", status=3)
        daemon.start()
        assert json.loads(follower.stdout.readline()) == {"type": "lagged", "missed": None, "resume": 1}
        again = json.loads(follower.stdout.readline())
        assert first["epoch"] != again["epoch"]
        assert first["data"]["peerId"] == again["data"]["peerId"]
        assert fabstir(daemon, "shutdown") == "the daemon is stopping\n"
        daemon.end()
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=WITHIN)
        assert follower.returncode == -signal.SIGINT


def test_the_end_of_the_reader(alice: RunningDaemon) -> None:
    for args in (("config",), ("events",), ("metrics",)):
        process = start(alice, *args)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(WITHIN) == 0
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.read() == ""
    assert wait_until(lambda: result(alice, "status"))
