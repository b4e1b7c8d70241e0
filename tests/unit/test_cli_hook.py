"""``fabstir events --follow --exec``: one command at a time, bounded, and no word of a stranger's in it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness import wait_until
from tests.unit.command import WITHIN, Command, read_lines
from tests.unit.scripted_daemon import ScriptedDaemon, note

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def follow(fabstir: Command, command: str, *more: str) -> subprocess.Popen[str]:
    return fabstir.start("events", "--follow", "--after", "0", "--exec", command, *more)


def ended(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """What it complained of."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=WITHIN)
    assert process.returncode == -number
    return errors


def test_each_event_once_in_order_as_json_and_in_variables(fabstir: Command, daemon: ScriptedDaemon) -> None:
    evil = "$(echo pwned) '; echo pwned; \u001b[2J"
    daemon.publish("peer:connect", peerId=PEER, address=evil, direction="inbound")
    note(daemon, "second")
    process = follow(fabstir, 'cat; echo "$FABSTIR_EVENT_TYPE $FABSTIR_EVENT_SEQ $FABSTIR_EVENT_PEER"')
    first, names, second, others = read_lines(process, 4)
    assert json.loads(first) == daemon.log[0]
    assert names == f"peer:connect 1 {PEER}\n"
    assert json.loads(second) == daemon.log[1]
    assert others == "note 2 \n"
    assert ended(process) == ""


def test_one_at_a_time_and_what_fails_is_told(fabstir: Command, daemon: ScriptedDaemon, tmp_path: Path) -> None:
    note(daemon, *map(str, range(5)))
    lock = tmp_path / "lock"
    command = f"mkdir {lock} || echo two at a time; sleep 0.05; rmdir {lock}; echo done; exit 3"
    process = follow(fabstir, command)
    assert read_lines(process, 5) == ["done\n"] * 5
    errors = ended(process)
    assert "fabstir: --exec, for note: ended with status 3\n" in errors


def test_a_command_that_hangs_is_killed_with_its_children(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "one", "two")
    process = follow(fabstir, "sleep 1000 & echo $!; wait", "--exec-timeout", "3s")  # for a shell to begin, too
    children = [int(line) for line in read_lines(process, 2)]
    assert "fabstir: --exec, for note: killed after 3 s\n" in ended(process)
    assert gone(children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_ends_the_command(fabstir: Command, daemon: ScriptedDaemon, number: int) -> None:
    note(daemon, "one")
    process = follow(fabstir, "sleep 1000 & echo $!; wait")
    [child] = [int(line) for line in read_lines(process, 1)]
    assert "Traceback" not in ended(process, number)
    assert gone([child])


def gone(processes: list[int]) -> bool:
    """Whether all of them have ended within a bound."""
    return wait_until(lambda: not any(map(runs, processes)), WITHIN)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_gap_is_an_event_too(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "before")
    process = fabstir.start("events", "--follow", "--exec", "cat")
    assert daemon.subscribed.wait(WITHIN)
    daemon.subscribed.clear()
    daemon.restart("run-2")
    note(daemon, "new")
    lagged, line = read_lines(process, 2)
    assert json.loads(lagged) == {"type": "lagged", "missed": None, "resume": 1}
    assert json.loads(line) == daemon.log[0]
    ended(process)


def test_only_with_follow(fabstir: Command) -> None:
    assert "events --follow --exec COMMAND" in fabstir("events", "--exec", "true", status=2)


def test_a_command_that_reads_nothing(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "x" * 200_000)  # more than a pipe holds
    process = follow(fabstir, "echo done")
    assert read_lines(process, 1) == ["done\n"]
    assert ended(process) == ""


def test_what_the_documents_show(fabstir: Command, daemon: ScriptedDaemon, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    [line] = [one for one in page.splitlines() if one.startswith("$ fabstir events --follow")]
    daemon.publish("peer:connect", peerId=PEER, address="/ip4/1.2.3.4/tcp/1", direction="inbound")
    process = fabstir.start(*shlex.split(line)[2:], "--after", "0", cwd=tmp_path)
    told = tmp_path / "peers.txt"
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"), WITHIN)
    assert told.read_text() == f"{PEER}\n"
    ended(process)
