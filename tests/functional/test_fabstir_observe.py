"""``fabstir`` as people use it: on a terminal of its own, and where no daemon answers."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_fabstir_cli import ROOT, WITHIN, fabstir, result, start
from tests.harness import RunningDaemon, running_daemon, stopped_daemon
from tests.support.ports import refusing_port

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>]|\[?[0-9;?]*$|[()]$)")  # also one that is half read
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture(scope="module")
def alice() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        fabstir(daemon, "wait", "started", "--timeout", "30")
        yield daemon


class Terminal:
    """What a person at a terminal of 100 columns sees, and the keys that it is given."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end in the middle of a character
        self.raw = ""

    @property
    def text(self) -> str:
        return ESCAPES.sub("", self.raw)

    def until(self, pattern: str) -> str:
        """Read on until this is there; the text so far."""
        deadline = time.monotonic() + WITHIN
        while not re.search(pattern, self.text, re.DOTALL):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.raw!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                try:
                    self.raw += self._decoder.decode(os.read(self._descriptor, 65536))
                except OSError:  # the other end is closed
                    break
        assert re.search(pattern, self.text, re.DOTALL), self.raw
        return self.text

    def press(self, keys: str) -> None:
        self.raw = ""
        os.write(self._descriptor, keys.encode())

    def end(self) -> int:
        """As by Ctrl-C; its exit status."""
        os.write(self._descriptor, b"\x03")
        return self.process.wait(WITHIN)


@contextmanager
def terminal(daemon: RunningDaemon, *args: str, columns: int = 100, **environ: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "fabstir_client", "--data-dir", str(daemon.data_dir), *args]
    # Not a width of the machine's own either, which a worker of the tests has in COLUMNS: the terminal has one
    foreign = ("FABSTIR", "XDG_", "NO_COLOR", "COLUMNS", "LINES")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ},
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_peers_live(alice: RunningDaemon) -> None:
    with running_daemon() as bob:
        fabstir(bob, "wait", "started", "--timeout", "30")
        with terminal(alice, "peers", "--watch", "--sort", "latency") as screen:
            screen.until(r"started  0 peers")
            fabstir(alice, "connect", result(bob, "status")["listenAddresses"][0])
            peer = result(bob, "status")["peerId"]
            shown = screen.until(r"started  1 peer  .*fabstird/")
            assert peer[:10] in shown
            assert re.search(r"PEER +DIR +UP +LATENCY +STREAMS +AGENT +ADDRESS +MARKS", shown), "a column is cut off"
            assert screen.end() == -signal.SIGINT
        assert fabstir(alice, "peers", "--ids") == f"{peer}\n"


def test_peers_live_take_keys(alice: RunningDaemon) -> None:
    """On 80 columns: the end of the id and the port are there, and nothing wraps."""
    with running_daemon() as bob:
        fabstir(bob, "wait", "started", "--timeout", "30")
        address, peer = result(bob, "status")["listenAddresses"][0], result(bob, "status")["peerId"]
        fabstir(alice, "connect", address)
        port = address.partition("/p2p/")[0].rpartition("/")[2]
        with terminal(alice, "peers", "--watch", columns=80) as screen:
            shown = screen.until(rf"12D3…{peer[-4:]} .*/{port}.*q quit   s sort: since   r reverse   / filter")
            assert max(map(len, shown.splitlines())) <= 80
            screen.press("s")
            screen.until("s sort: peer ")
            screen.press("r")
            screen.until("s sort: peer, reversed ")
            screen.press("/no such peer\r")
            screen.until("no peer matches the filter.*filter: no such peer")
            screen.press(f"/\x1b/{peer[20:30]}")
            screen.until(rf"{peer[-4:]} .*/{peer[20:30]}_   Enter: keep it")
            screen.press("\rq")
            screen.until("filter:|$")
            assert screen.process.wait(WITHIN) == 0
        fabstir(alice, "disconnect", peer)


def test_peers_live_outlive_the_daemon() -> None:
    with running_daemon() as daemon, terminal(daemon, "peers", "--watch") as screen:
        screen.until(r"0 peers")
        daemon.kill()
        screen.until(r"waiting for it to come back")
        daemon.start()
        screen.raw = ""
        screen.until(r"0 peers")
        assert screen.end() == -signal.SIGINT


def test_peers_live_is_for_people(alice: RunningDaemon) -> None:
    assert "is for a terminal" in fabstir(alice, "peers", "--watch", status=2)


def test_events_are_in_colour_on_a_terminal_only(alice: RunningDaemon) -> None:
    with terminal(alice, "events", "--type", "p2p:started") as screen:
        screen.until(r"p2p:started.*\n")
        assert "\x1b[34;1mp2p:started" in screen.raw
    with terminal(alice, "events", "--type", "p2p:started", NO_COLOR="1") as screen:
        screen.until(r"p2p:started.*\n")
        assert "\x1b[34" not in screen.raw
    assert "\x1b" not in fabstir(alice, "events")
    assert "\x1b[34;1mp2p:started" in fabstir(alice, "events", "--color", "always")


def test_what_takes_longer_than_a_second_shows_that_it_goes_on() -> None:
    with stopped_daemon() as nobody:
        with terminal(nobody, "wait", "peers=3", "--timeout", "4") as screen:
            screen.until(r"\d s, waiting for peers=3: no daemon was reached")
            screen.until(r"peers=3 did not hold within 4 s")
            assert screen.process.wait(WITHIN) == 4
        process = start(nobody, "wait", "peers=3", "--timeout", "2")
        _, errors = process.communicate(timeout=WITHIN)
        assert "\x1b" not in errors
        assert errors.count("\n") == 1


def test_a_dump_is_for_its_owner(alice: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "dump.zip"
    assert fabstir(alice, "dump", str(file)).startswith(f"{file}: ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert any(name.endswith("/log.jsonl") for name in archive.namelist())
    told = result(alice, "dump", str(tmp_path))
    assert Path(told["file"]).stat().st_size == told["size"]
    assert "cannot be written" in fabstir(alice, "dump", "/no/such/folder/x.zip", status=1)


def test_tasks_and_the_log_s_level(alice: RunningDaemon) -> None:
    tasks = fabstir(alice, "tasks")
    assert re.search(r"^ +fabstird\.canary\.Canary\.run +fabstird/canary\.py:\d+ Canary\.run$", tasks, re.MULTILINE)
    assert fabstir(alice, "log").startswith("level    info\nloggers  api ")
    assert {"api", "p2p", "daemon"} <= set(fabstir(alice, "log", "--loggers").splitlines())
    assert "fabstird.p2p  debug" in fabstir(alice, "log", "debug", "--logger", "p2p")
    assert "fabstird.p2p" not in fabstir(alice, "log", "inherit", "--logger", "p2p")
    assert 'there is no logger "nonsense"' in fabstir(alice, "log", "debug", "--logger", "nonsense", status=1)


def findings(daemon: RunningDaemon, status: int, *options: str) -> list[dict[str, Any]]:
    process = start(daemon, "doctor", "--json", *options)
    output, errors = process.communicate(timeout=WITHIN)
    assert process.returncode == status, (output, errors)
    told = json.loads(output)
    assert told["ok"] == (status == 0)
    assert all(finding["cure"] for finding in told["findings"] if finding["state"] == "fault")
    return list(told["findings"])


def of(found: list[dict[str, Any]], check: str) -> list[str]:
    return [finding["state"] for finding in found if finding["check"] == check]


def test_the_doctor_finds_nothing_wrong(alice: RunningDaemon) -> None:
    found = findings(alice, 0)
    assert of(found, "daemon")[-1] == "ok"
    assert of(found, "socket") == ["ok"]
    assert of(found, "data") == ["ok", "ok"]
    assert of(found, "http")[:2] == ["ok", "ok"]
    assert of(found, "gmp") == ["ok"]
    assert of(found, "versions") == ["ok"]
    assert "0 faults" in fabstir(alice, "doctor")


def test_the_doctor_finds_what_is_wrong() -> None:
    with refusing_port() as closed:
        dead = f"/ip4/127.0.0.1/tcp/{closed}/p2p/{STRANGER}"
        with running_daemon(node__bootstrap_nodes=[dead], node__auto_start=False) as daemon:
            (daemon.data_dir / "api.token").chmod(0o644)
            found = findings(daemon, 1)
            faults = {finding["check"]: finding for finding in found if finding["state"] == "fault"}
            assert set(faults) == {"node", "data", "http", "bootstrap"}
            assert faults["node"]["cure"] == "fabstir start"
            assert faults["data"]["cure"] == f"chmod 600 {daemon.data_dir}/api.token"
            assert "NODE_STOPPED" in faults["http"]["text"]
            assert dead in faults["bootstrap"]["text"]
            (daemon.data_dir / "api.token").chmod(0o600)


def test_the_doctor_works_without_a_daemon(tmp_path: Path) -> None:
    with stopped_daemon() as nobody:
        found = findings(nobody, 1)
        (fault,) = [finding for finding in found if finding["state"] == "fault"]
        assert (fault["check"], fault["text"]) == ("daemon", "no daemon answers")
        assert of(found, "config") == ["ok"]
        assert {"versions", "gmp", "clock", "mdns"} <= {finding["check"] for finding in found}
        wrong = tmp_path / "config.toml"
        wrong.write_text("[node]\ndial_timeout = -1\n")
        found = findings(nobody, 1, "--config", str(wrong))
        (mistake,) = [finding for finding in found if finding["check"] == "config"]
        assert "node.dial_timeout: must be a positive integer" in mistake["text"]


def test_a_killed_daemon_s_socket_is_no_daemon() -> None:
    with running_daemon() as daemon:
        daemon.kill()
        found = findings(daemon, 1)
        assert any("nobody listens there" in finding["text"] for finding in found)
        assert of(found, "daemon")[-1] == "fault"
