"""The command lines: durations, exit statuses, standard streams, interrupts, and answers of what is no daemon."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabstir_client.cli import arguments
from fabstir_client.cli.format import as_text
from fabstir_client.cli.results import show
from tests.field.commands import WITHIN, environment, run, words
from tests.harness import RunningDaemon, running_daemon, wait_until

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with running_daemon() as running:
        yield running


def fabstir(daemon: RunningDaemon, *args: str, status: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    done = run("fabstir", "--data-dir", str(daemon.data_dir), *args, **options)
    assert "Traceback" not in (done.stderr or "")
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


# --------------------------------------------------------------------------------------------------------------------
# Durations


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("5s", 5000), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("30d", 2_592_000_000)],
)
def test_a_duration_has_a_unit(text: str, milliseconds: int) -> None:
    assert arguments.duration(text) == milliseconds
    assert arguments.timeout(text).milliseconds == milliseconds


@pytest.mark.parametrize(
    "command",
    [
        ("ban", "192.0.2.1", "--duration", "3600"),
        ("connect", PEER, "--timeout", "500"),
        ("ping", PEER, "--timeout", "5"),
        ("--timeout", "5", "status"),
        ("request", PEER, "/x/1", "hello", "--timeout", "5"),
        ("discover", "model", "--max-latency", "50"),
        ("token", "create", "x", "--access", "read", "--expires", "30"),
        ("dht", "get", "key", "--timeout", "3"),
    ],
)
def test_a_bare_number_is_refused_with_words(daemon: RunningDaemon, command: tuple[str, ...]) -> None:
    done = fabstir(daemon, *command, status=2)
    assert "is not a duration such as 500ms, 5s, 2m, 1h or 30d; add a unit, such as" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_given_is_what_is_done(daemon: RunningDaemon) -> None:
    fabstir(daemon, "ban", "192.0.2.7", "--duration", "1h")
    (ban,) = json.loads(fabstir(daemon, "--json", "bans").stdout)
    assert ban["until"] - ban["since"] == 3_600_000
    fabstir(daemon, "unban", "192.0.2.7")
    began = time.monotonic()
    fabstir(daemon, "wait", "peers=3", "--timeout", "0.2", status=4)
    fabstir(daemon, "--timeout", "200ms", "wait", "peers=3", status=4)
    fabstir(daemon, "events", "--follow", "--timeout", "200ms")
    assert time.monotonic() - began < WITHIN


@given(
    text=st.one_of(st.text(max_size=30), st.from_regex(r"[0-9]{1,40}(\.[0-9]{0,20})?(ms|[smhdwy])?", fullmatch=True))
)
def test_whatever_is_typed_it_is_a_duration_or_refused(text: str) -> None:
    for kind in (arguments.duration, arguments.timeout):
        try:
            found = kind(text)
        except arguments.argparse.ArgumentTypeError:
            continue
        assert found if kind is arguments.duration else found.seconds >= 0


# --------------------------------------------------------------------------------------------------------------------
# Exit statuses


def test_what_was_not_there_to_be_ended_is_1(daemon: RunningDaemon) -> None:
    assert fabstir(daemon, "token", "revoke", "nope", status=1).stderr == "fabstir: there is no token nope\n"
    assert fabstir(daemon, "unban", "192.0.2.99", status=1).stdout == ""
    assert fabstir(daemon, "forget", PEER, status=1).stdout == ""
    told = fabstir(daemon, "--json", "token", "revoke", "nope", status=1)
    assert json.loads(told.stdout) == {"name": "nope", "revoked": False}


def test_the_token_alone_is_on_standard_output(daemon: RunningDaemon) -> None:
    made = fabstir(daemon, "token", "create", "ci", "--access", "read", "--expires", "1h")
    assert made.stdout.startswith("fabstir_")
    assert made.stdout.count("\n") == 1
    assert "The token will not be shown again." in made.stderr
    over_http = environment(FABSTIR_API=daemon.http, FABSTIR_TOKEN=made.stdout.strip())
    assert run("fabstir", "status", env=over_http).returncode == 0
    assert fabstir(daemon, "token", "revoke", "ci").stdout == "ci is revoked\n"


def test_ctrl_c_ends_it_as_a_shell_expects(daemon: RunningDaemon) -> None:
    for command in (("events", "--follow"), ("wait", "peers=9", "--timeout", "60")):
        process = subprocess.Popen(
            [*words("fabstir", "--data-dir", str(daemon.data_dir)), *command],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _until_subscribed(daemon)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WITHIN)
        assert (process.returncode, errors) == (-signal.SIGINT, b"")
        _until_subscribed(daemon, 0)


def _until_subscribed(daemon: RunningDaemon, number: int = 1) -> None:
    def subscribers() -> int:
        text = fabstir(daemon, "--json", "metrics").stdout
        return int(json.loads(text)["bounds"]["subscriptions"]["current"])

    wait_until(lambda: subscribers() == number, within=WITHIN)


# --------------------------------------------------------------------------------------------------------------------
# Standard streams


def _closed(*numbers: int) -> object:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("command", [("status",), ("--json", "peers"), ("connect", PEER)])
def test_closed_streams(daemon: RunningDaemon, closed: tuple[int, ...], command: tuple[str, ...]) -> None:
    status = 1 if command[0] == "connect" else 0
    done = run("fabstir", "--data-dir", str(daemon.data_dir), *command, preexec_fn=_closed(*closed))
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_of_the_daemons_own_commands(tmp_path: Path, closed: tuple[int, ...]) -> None:
    commands = ((("check-config",), 0), (("check-config", "--set", "x"), 2), (("id", "--data-dir", str(tmp_path)), 0))
    for command, status in commands:
        done = run("fabstird", *command, preexec_fn=_closed(*closed))
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_full_streams(daemon: RunningDaemon) -> None:
    with open("/dev/full", "w") as full:
        told = {"stdout": full, "stderr": subprocess.PIPE, "capture_output": False}
        for program, command in (
            ("fabstir", ("--data-dir", str(daemon.data_dir), "status")),
            ("fabstird", ("check-config",)),
        ):
            done = run(program, *command, **told)
            assert (done.returncode, done.stderr) == (
                1,
                f"{program}: the output cannot be written: No space left on device\n",
            )
            done = run(program, "nonsense", stdout=subprocess.PIPE, stderr=full, capture_output=False)
            assert (done.returncode, done.stdout) == (2, "")
        done = run(
            "fabstird", "check-config", "--set", "x.y=1", stdout=subprocess.PIPE, stderr=full, capture_output=False
        )
        assert (done.returncode, done.stdout) == (2, "")


SET = ("--set", "api.http=127.0.0.1:0", "--set", "node.auto_start=false")


def test_a_daemon_with_closed_streams_serves(tmp_path: Path) -> None:
    """Its first socket must not become its standard error."""
    process = subprocess.Popen(
        words(
            "fabstird",
            "run",
            "--data-dir",
            str(tmp_path / "d"),
            "--set",
            "api.http=127.0.0.1:0",
            "--set",
            "node.auto_start=false",
        ),
        env=environment(),
        preexec_fn=_closed(0, 1, 2),
    )
    try:
        assert run("fabstir", "--data-dir", str(tmp_path / "d"), "wait", "ready", "--timeout", "50").returncode == 0
        links = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        assert links == [os.devnull] * 3
        process.terminate()
        assert process.wait(WITHIN) == 0
    finally:
        process.kill()
        process.wait()


def test_a_gone_reader_ends_a_command_that_waits(daemon: RunningDaemon) -> None:
    for command, status in ((("events", "--follow"), 0), (("wait", "peers=9", "--timeout", "5m"), 4)):
        process = subprocess.Popen(
            [*words("fabstir", "--data-dir", str(daemon.data_dir)), *command],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _until_subscribed(daemon)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # nothing is ever written that would show it
        assert process.wait(WITHIN) == status
        assert process.stderr.read() == b""
        process.stderr.close()


# --------------------------------------------------------------------------------------------------------------------
# Answers of what is no daemon

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
SHOWN = ["status", "peers", "addresses", "metrics", "connect", "ping", "discover", "explain", "bans", "ban", "version"]


@pytest.mark.parametrize("command", SHOWN)
@given(result=JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_result_can_be_shown(command: str, result: object) -> None:
    show(command, result)


def test_a_ban_until_the_end_of_time_is_shown() -> None:
    assert "10000000000000000000000000000000" in show("bans", [{"target": "192.0.2.1/32", "since": 0, "until": 10**31}])
    assert as_text({"a": 1}) == '{\n  "a": 1\n}'


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[str]:
    """Something that answers every line with these bytes, with the id put in."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(65536):
                        number = json.loads(data.split(b"\n")[0])["id"]
                        connection.sendall(answer.replace(b"ID", str(number).encode()) + b"\n")
                except OSError:
                    pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"ipc:{path}"
        listener.shutdown(socket.SHUT_RDWR)


STRANGE = [
    b'{"jsonrpc":"2.0","id":ID,"result":5}',
    b'{"jsonrpc":"2.0","id":ID,"result":{"state":[]}}',
    b'{"jsonrpc":"2.0","id":ID,"result":"\\ud800"}',
    b'{"jsonrpc":"2.0","id":ID,"result":"\xff"}',
    b'{"jsonrpc":"2.0","id":ID,"result":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"jsonrpc":"2.0","id":ID,"error":{"code":[],"message":{}}}',
    b'{"jsonrpc":"2.0","id":ID,"error":{"code":1e400,"message":"x","data":"\\ud800"}}',
    b'{"jsonrpc":"2.0","id":ID}',
    b"HTTP/1.1 400 Bad Request",
    b"\x00" * 100,
    b"[" * 5000,
]


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_strange_answers_end_in_words(tmp_path: Path, number: int) -> None:
    with answering(tmp_path / "s", STRANGE[number]) as api:
        commands = [("status",), ("peers",), ("events",), ("tasks",), ("wait", "ready", "--timeout", "300ms")]
        for command in (*commands, ("events", "--follow", "--timeout", "300ms"), ("--json", "metrics")):
            done = run("fabstir", "--api", api, *command)
            assert "Traceback" not in done.stderr, done.stderr
            assert done.returncode in (0, 1, 3, 4)
            assert done.stderr.count("\n") <= 1 or "waiting for it" in done.stderr


# --------------------------------------------------------------------------------------------------------------------
# What lies where the daemon's files are


@pytest.mark.parametrize("content", [None, "[]", '{"http": "x"}', '{"http": 5}', '{"pid": 1, "http": "a b:1"}', "\0"])
def test_an_api_json_that_is_none(tmp_path: Path, content: str | None) -> None:
    """A pipe (None) too, whose reader waits for ever."""
    path = tmp_path / "api.json"
    os.mkfifo(path) if content is None else path.write_text(content)
    done = run("fabstir", "--data-dir", str(tmp_path), "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    done = run("fabstir", "--data-dir", str(tmp_path), "doctor")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "1 fault" in done.stdout


def test_a_token_from_a_pipe(daemon: RunningDaemon, tmp_path: Path) -> None:
    """As a shell's <(command) hands it over; one in the data directory is read by nobody."""
    os.mkfifo(tmp_path / "token")
    token = (daemon.data_dir / "api.token").read_text()
    threading.Thread(target=(tmp_path / "token").write_text, args=(token,), daemon=True).start()
    environ = environment(FABSTIR_API=daemon.http, FABSTIR_TOKEN_FILE=str(tmp_path / "token"))
    assert run("fabstir", "status", env=environ).returncode == 0
    os.mkfifo(tmp_path / "api.token")
    done = run("fabstir", "--data-dir", str(tmp_path), "status", env=environment(FABSTIR_API=daemon.http))
    assert done.returncode in (1, 3)
