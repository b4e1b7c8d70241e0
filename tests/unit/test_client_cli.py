"""The ``fabstir`` command as a process: output, exit status, pipes and signals, over a scripted daemon."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fabstir_client.api.errors import InternalError, NodeNotRunning
from fabstir_client.cli.format import clean, duration, event_line
from fabstir_client.cli.results import show
from tests.unit.command import WITHIN, Command, read_lines
from tests.unit.scripted_daemon import PEER, ScriptedDaemon, connect_peer, note, scripted_daemon

CID = "bafzaajaiaejca3yvqfyjxn5r54bq2iinwghdwc5by53pxjs5rtnk2bkbkfbndcpy"  # of PEER


@pytest.mark.parametrize("args", [("--json", "status"), ("status", "--json")])
def test_json_is_the_result_and_nothing_else(fabstir: Command, daemon: ScriptedDaemon, args: tuple[str, ...]) -> None:
    daemon.methods["status"] = lambda params: {"later": [1, 2.50, None], "nested": {"é": "\u2028"}}
    output = fabstir(*args)
    assert output.count("\n") == 1
    assert json.loads(output) == {"later": [1, 2.5, None], "nested": {"é": "\u2028"}}


def test_tables_are_for_people(fabstir: Command, daemon: ScriptedDaemon) -> None:
    assert "state      stopped" in fabstir("status")
    assert fabstir("peers") == "no peers\n"
    daemon.peers = [PEER, "another"]
    head, first, second = fabstir("peers").splitlines()
    assert head.split() == ["PEER", "DIRECTION", "SINCE", "LATENCY", "AGENT", "ADDRESS", "MARKS"]
    assert first.startswith(f"{PEER}  inbound")
    assert second.startswith("another")
    assert "state      started" in fabstir("start")
    assert "state      stopped" in fabstir("stop")


def test_commands_with_arguments(fabstir: Command, daemon: ScriptedDaemon) -> None:
    result = {"peerId": PEER, "address": "/ip4/1.2.3.4/tcp/1", "direction": "outbound", "alreadyConnected": False}
    daemon.methods["connect"] = lambda params: result
    daemon.methods["disconnect"] = lambda params: {"peerId": params["peerId"], "closed": 2}
    daemon.methods["ping"] = lambda params: {"peerId": params["peerId"], "rtt": 1.25}
    assert fabstir("connect", "/ip4/1.2.3.4/tcp/1/p2p/x", "--timeout", "500ms").startswith(f"connected to {PEER} at ")
    assert fabstir("disconnect", PEER) == f"disconnected from {PEER}: 2 connections closed\n"
    assert fabstir("ping", PEER) == f"{PEER} answered in 1.25 ms\n"
    assert daemon.calls == [
        ("connect", {"address": "/ip4/1.2.3.4/tcp/1/p2p/x", "timeout": 500}),
        ("disconnect", {"peerId": PEER}),
        ("ping", {"peerId": PEER}),
    ]


def test_any_method(fabstir: Command, daemon: ScriptedDaemon) -> None:
    assert json.loads(fabstir("call", "echo", '{"a": [1]}')) == {"a": [1]}
    assert fabstir("--json", "call", "echo", "[1,  2]") == "[1, 2]\n"
    assert json.loads(fabstir("call", "echo")) == {}


def test_an_error_of_the_daemon_is_one_line_and_1(fabstir: Command, daemon: ScriptedDaemon) -> None:
    def stopped(params: Any) -> Any:
        raise NodeNotRunning("the node is stopped;\ncall start first")

    daemon.methods["peers"] = stopped
    assert fabstir("peers", status=1) == "fabstir: the node is stopped; call start first\n"
    assert fabstir("--json", "peers", status=1) == "fabstir: the node is stopped; call start first\n"
    assert "no method nope" in fabstir("call", "nope", status=1)

    def defective(params: Any) -> Any:
        raise InternalError("Internal error", logId="abc123")

    daemon.methods["metrics"] = defective
    assert fabstir("metrics", status=1) == ("fabstir: Internal error; the daemon's log has the details under abc123\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "COMMAND"),
        (("nope",), "nope"),
        (("connect",), "ADDRESS"),
        (("connect", "x", "--timeout", "0s"), "more than 0"),
        (("status", "extra"), "extra"),
        (("events", "--after", "-1"), "--after"),
        (("wait", "rain"), "no such condition: 'rain'"),
        (("wait", "peers=x"), "peers=x"),
        (("wait", "peer="), "peer="),
        (("wait", "peer=zzz"), "'zzz' is not a peer id"),
        (("wait", "ready", "--timeout", "-1"), "duration"),
        (("call", "echo", "{"), "not JSON"),
        (("call", "echo", "7"), "object or array"),
        (("--api", "nonsense", "status"), "ipc:/path or http://host:port"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(fabstir: Command, args: tuple[str, ...], text: str) -> None:
    assert text in fabstir(*args, status=2)


def test_without_a_daemon_it_says_what_was_tried_and_3(tmp_path: Path) -> None:
    errors = Command(tmp_path, None)("status", status=3)
    assert f"{tmp_path}/.local/state/fabstird/api.json: not there" in errors
    assert "/run/fabstird/api.sock" in errors
    assert errors.endswith("Start one with: fabstird run\n")
    assert f"{tmp_path}/x/api.sock: not there" in Command(tmp_path, None)(
        "status", "--data-dir", f"{tmp_path}/x", status=3
    )
    assert Command(tmp_path, None)("status", "--data-dir", f"{tmp_path}/x", status=3).endswith(
        f"Start one with: fabstird run --data-dir {tmp_path}/x\n"
    )


def test_a_daemon_that_goes_away_in_the_middle(fabstir: Command, daemon: ScriptedDaemon) -> None:
    daemon.methods["status"] = lambda params: daemon.cut()
    assert "closed the connection" in fabstir("status", status=3)


def test_the_data_directory_comes_before_the_environment(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    fabstir = Command(tmp_path, "ipc:/nonexistent")
    assert "stopped" in fabstir("--data-dir", str(tmp_path), "status")
    assert "stopped" in fabstir("status", "--data-dir", str(tmp_path))
    assert "stopped" in fabstir("status", "--api", f"ipc:{daemon.path}")
    assert "not there" in fabstir("status", status=3)


def test_held_events(fabstir: Command, daemon: ScriptedDaemon) -> None:
    assert fabstir("events") == ""
    note(daemon, "one", "two words")
    connect_peer(daemon)
    lines = fabstir("events").splitlines()
    assert [line.split()[2] for line in lines] == ["1", "2", "3"]
    assert lines[1].endswith('note                  text="two words"')
    assert [json.loads(line) for line in fabstir("events", "--json").splitlines()] == daemon.log
    assert fabstir("events", "--after", "2", "--type", "note") == ""
    assert len(fabstir("events", "--after", "1", "--type", "note", "--type", "peer:connect").splitlines()) == 2


def test_held_events_of_which_some_are_gone(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "1", "2", "3", "4")
    daemon.oldest = 3
    assert len(fabstir("events").splitlines()) == 2
    assert fabstir("events", "--after", "1").splitlines()[0] == (
        "-- 1 event missing: the daemon no longer holds them --"
    )
    first, *rest = fabstir("events", "--after", "0", "--json").splitlines()
    assert json.loads(first) == {"type": "lagged", "missed": 2, "resume": 3}
    assert len(rest) == 2


def test_followed_events_survive_a_restart_and_end_with_ctrl_c(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "before")
    process = fabstir.start("events", "--follow", "--json")
    assert daemon.subscribed.wait(WITHIN)
    daemon.publish("note", unknown={"to": ["this", "client"]})
    (line,) = read_lines(process, 1)
    assert json.loads(line) == daemon.log[1]
    daemon.subscribed.clear()
    daemon.restart("run-2")
    note(daemon, "new")
    lagged, line = read_lines(process, 2)
    assert json.loads(lagged) == {"type": "lagged", "missed": None, "resume": 1}
    assert json.loads(line) == daemon.log[0]
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=WITHIN)
    assert (process.returncode, output) == (-signal.SIGINT, "")
    assert errors.splitlines()[0].endswith("waiting for it to come back")
    assert "Traceback" not in errors


def test_followed_events_after_one(fabstir: Command, daemon: ScriptedDaemon) -> None:
    note(daemon, "one", "two", "three")
    process = fabstir.start("events", "--follow", "--after", "1", "--type", "note")
    assert ["two" in line or "three" in line for line in read_lines(process, 2)] == [True, True]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WITHIN)


@pytest.mark.parametrize("args", [("events",), ("events", "--follow", "--after", "0"), ("--json", "events")])
def test_a_reader_that_has_seen_enough(fabstir: Command, daemon: ScriptedDaemon, args: tuple[str, ...]) -> None:
    note(daemon, *(["x" * 1000] * 500))
    process = fabstir.start(*args)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(WITHIN) == 0
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""


@pytest.mark.parametrize("args", [("status",), ("events",), ("--json", "status")])
def test_output_that_cannot_be_written(fabstir: Command, daemon: ScriptedDaemon, args: tuple[str, ...]) -> None:
    note(daemon, "one")
    with open("/dev/full", "w") as full:
        process = fabstir.start(*args, stdout=full)
    _, errors = process.communicate(timeout=WITHIN)
    assert (process.returncode, errors) == (1, "fabstir: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    ("condition", "happens"),
    [
        ("started", lambda daemon: daemon.methods["start"]({})),
        ("peers=1", connect_peer),
        ("peers=2", lambda daemon: (connect_peer(daemon), connect_peer(daemon, "another"))),
        (f"peer={PEER}", connect_peer),
    ],
)
def test_wait_is_driven_by_events(fabstir: Command, daemon: ScriptedDaemon, condition: str, happens: Any) -> None:
    process = fabstir.start("wait", condition, "--timeout", "50")
    assert daemon.subscribed.wait(WITHIN)
    happens(daemon)
    assert process.communicate(timeout=WITHIN) == (f"{condition}: yes\n", "")
    assert process.returncode == 0
    assert [method for method, _ in daemon.calls] == ["subscribe"]


@pytest.mark.parametrize("spelled", [f"/p2p/{PEER}", f"/ipfs/{PEER}", CID])
def test_wait_takes_a_peer_id_in_each_of_its_spellings(fabstir: Command, daemon: ScriptedDaemon, spelled: str) -> None:
    connect_peer(daemon)
    assert fabstir("wait", f"peer={spelled}", "--timeout", "20s") == f"peer={PEER}: yes\n"


def test_wait_for_what_ends(fabstir: Command, daemon: ScriptedDaemon) -> None:
    daemon.methods["start"]({})
    connect_peer(daemon)
    process = fabstir.start("wait", "peers=0", "--timeout", "50")
    assert daemon.subscribed.wait(WITHIN)
    daemon.methods["stop"]({})
    assert process.communicate(timeout=WITHIN) == ("peers=0: yes\n", "")
    assert fabstir("wait", "stopped") == "stopped: yes\n"


def test_wait_for_what_is_so_already(fabstir: Command, daemon: ScriptedDaemon) -> None:
    assert fabstir("wait", "stopped") == "stopped: yes\n"
    assert fabstir("wait", "ready") == "ready: yes\n"
    assert fabstir("wait", "peers=0") == "peers=0: yes\n"
    assert json.loads(fabstir("wait", "stopped", "--json")) == daemon.status()


def test_wait_for_a_daemon_that_is_not_there_yet(tmp_path: Path) -> None:
    fabstir = Command(tmp_path, f"ipc:{tmp_path}/api.sock")
    # A listener that ends every connection shows that the command is up and trying before there is a daemon.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/api.sock")
        listener.listen()
        process = fabstir.start("wait", "ready", "--timeout", "50")
        listener.settimeout(WITHIN)
        listener.accept()[0].close()
    (tmp_path / "api.sock").unlink()
    with scripted_daemon(tmp_path / "api.sock"):
        assert process.communicate(timeout=WITHIN) == ("ready: yes\n", "")


def test_wait_goes_on_over_a_restart(fabstir: Command, daemon: ScriptedDaemon) -> None:
    process = fabstir.start("wait", "peers=1", "--timeout", "50")
    assert daemon.subscribed.wait(WITHIN)
    daemon.stop()
    daemon.epoch, daemon.log = "run-2", []
    connect_peer(daemon)
    daemon.start()
    assert process.communicate(timeout=WITHIN) == ("peers=1: yes\n", "")


def test_wait_that_lost_some_events_looks_again(fabstir: Command, daemon: ScriptedDaemon) -> None:
    process = fabstir.start("wait", f"peer={PEER}", "--timeout", "50")
    assert daemon.subscribed.wait(WITHIN)
    daemon.peers.append(PEER)
    for connection in daemon.connections:
        connection.notify("lagged", missed=1, resume=daemon.head + 1)
    assert process.communicate(timeout=WITHIN) == (f"peer={PEER}: yes\n", "")


def test_wait_times_out_with_4(fabstir: Command, daemon: ScriptedDaemon, tmp_path: Path) -> None:
    begun = time.monotonic()
    errors = fabstir("wait", "peers=3", "--timeout", "0.3", status=4)
    assert errors == ("fabstir: peers=3 did not hold within 0.3 s; at the end: the node is stopped, with 0 peers\n")
    assert "no daemon was reached" in Command(tmp_path, "ipc:/nonexistent")("wait", "ready", "--timeout", "0", status=4)
    assert time.monotonic() - begun < WITHIN


def test_what_strangers_sent_does_not_steer_the_terminal(fabstir: Command, daemon: ScriptedDaemon) -> None:
    evil = "\x1b[2J\r\nfabstir: \x9b31m"
    daemon.methods["peers"] = lambda params: [daemon.peer(PEER) | {"agentVersion": evil}]
    daemon.methods["call-me"] = lambda params: {"agentVersion": evil}
    daemon.publish("peer:identify", agentVersion=evil)
    for args in (("peers",), ("events",), ("call", "call-me")):
        output = fabstir(*args)
        assert not [character for character in output if not character.isprintable() and character != "\n"]
        assert r"\x1b[2J" in output or r"\u001b[2J" in output


def test_output_in_a_locale_without_unicode(fabstir: Command, daemon: ScriptedDaemon) -> None:
    fabstir.environ |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    daemon.methods["peers"] = lambda params: [daemon.peer(PEER) | {"agentVersion": "né"}]
    assert "n\\xe9" in fabstir("peers")
    assert json.loads(fabstir("peers", "--json"))[0]["agentVersion"] == "né"


def imported(fabstir: Command, *args: str) -> set[str]:
    code = (
        "import sys; from fabstir_client.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=fabstir.environ, capture_output=True, text=True, check=True, timeout=WITHIN)
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("args", [("status",), ("events",), ("wait", "ready"), ("--json", "peers")])
def test_over_ipc_neither_event_loops_nor_websockets_are_imported(fabstir: Command, args: tuple[str, ...]) -> None:
    found = imported(fabstir, *args)
    assert "msgspec" in found
    assert not found & {"anyio", "websockets", "trio", "asyncio", "libp2p", "fabstird", "logging", "ssl", "http"}


def test_the_client_imports_nothing_of_the_daemon() -> None:
    """Nor of any one event loop: `fabstir_client` is for those who installed neither."""
    code = (
        "import sys, importlib, pkgutil, fabstir_client\n"
        "for m in pkgutil.iter_modules(fabstir_client.__path__):\n"
        "    m.name == '__main__' or importlib.import_module('fabstir_client.' + m.name)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WITHIN)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert not found & {"trio", "asyncio", "libp2p", "fabstird", "quart", "hypercorn", "structlog", "rich"}


def test_every_name_of_the_package_can_be_had() -> None:
    import fabstir_client

    for name in dir(fabstir_client):
        assert getattr(fabstir_client, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        fabstir_client.nonsense  # noqa: B018


def test_texts() -> None:
    assert [duration(ms) for ms in (999, 6_000, 306_000, 14_700_000, 273_600_000)] == [
        "0s",
        "6s",
        "5m 6s",
        "4h 5m",
        "3d 4h",
    ]
    assert clean("a\nb\x1b") == r"a\nb\x1b"
    assert event_line({"time": 0, "seq": 1, "type": "x", "data": {"a": ["b", "c d"]}}).endswith('a=[b, "c d"]')
    assert show("unknown", {"a": 1}) == '{\n  "a": 1\n}'
    assert show("shutdown", {}) == "the daemon is stopping"
