"""What the README shows, run: the first session, the snippets, and the mistakes of a configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = Path(sys.executable).parent
TIMEOUT = 180


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@contextmanager
def running(tmp_path: Path, *settings: str, **environ: str) -> Iterator[dict[str, str]]:
    """The environment of a user whose daemon runs, as `make run` leaves it, but for its port."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
    environment = {**kept, "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1", **environ}
    # The user's daemons are alone; these share a machine with those of every other test.
    environment |= {"FABSTIRD_NODE__ENABLE_MDNS": "false", "FABSTIRD_NODE__ENABLE_DHT": "false"}
    environment["PORT"] = str(free_port())
    overrides = [f"--set={setting}" for setting in (f"api.http=127.0.0.1:{environment['PORT']}", *settings)]
    with subprocess.Popen(
        [PROGRAMS / "fabstird", "run", *overrides], env=environment, stderr=subprocess.PIPE
    ) as daemon:
        try:
            waiting = [PROGRAMS / "fabstir", "wait", "started", "--timeout", str(TIMEOUT)]
            subprocess.run(waiting, env=environment, check=True, timeout=TIMEOUT, stdout=subprocess.DEVNULL)
            yield environment
            daemon.terminate()
            assert daemon.wait(TIMEOUT) == 0
        finally:
            daemon.kill()  # else a test that fails would wait for it


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """In a login session."""
    (tmp_path / "run").mkdir(mode=0o700)
    with running(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run")) as environment:
        yield environment


def run(command: str, environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    port = free_port()
    for shown, ours in (
        (".venv/bin/", f"{PROGRAMS}/"),
        ("/tmp/bob", str(tmp_path / "b")),
        ("4001", str(port)),
        ("/run/fabstird", str(tmp_path / "service")),
        ("127.0.0.1:4780", f"127.0.0.1:{environment.get('PORT', '')}"),
    ):
        command = command.replace(shown, ours)
    return subprocess.run(
        ["bash", "-eu", "-c", command], env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def test_the_first_session(home: dict[str, str], tmp_path: Path) -> None:
    session = [block for block in blocks("console") if "check-config" not in block]
    commands = [line[2:] for block in session for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 9
    done = run("\n".join(commands), home, tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("state      started", "connected to 12D3KooW", "answered in", "peers=0: yes", "peer:disconnect"):
        assert words in done.stdout
        assert words in README, "the README shows what is printed"
    printed = [line.split()[0] for line in done.stdout.splitlines() if line[:1].islower()]
    shown = [line.split()[0] for line in session[0].splitlines() if line[:1].islower()]
    assert shown == printed[: len(shown)], "the rows of status are those that the README shows"


def test_the_shell_snippets(home: dict[str, str], tmp_path: Path) -> None:
    (snippet,) = [block for block in blocks("sh") if "curl" in block]
    by_socket, by_http = snippet.split("\n\n")
    if shutil.which("curl") is not None:
        assert '"state":"started"' in run(by_http, home, tmp_path).stdout
    assert by_socket.startswith("# in a login session")
    asks_by_socket(home, tmp_path)


def asks_by_socket(environment: dict[str, str], tmp_path: Path) -> None:
    """The snippets for the shell and for Node."""
    (snippet,) = [block for block in blocks("sh") if "curl" in block]
    if shutil.which("nc") is not None:
        asked = run(snippet.partition("\n\n")[0], environment, tmp_path)
        assert asked.stdout == '{"jsonrpc":"2.0","result":[],"id":1}\n', asked.stderr
    if shutil.which("node") is not None:
        (snippet,) = blocks("js")
        program = tmp_path / "follow.mjs"
        program.write_text(snippet.replace("/run/fabstird", str(tmp_path / "service")))
        assert first_line(["node", str(program)], environment) == "peers now: 0\n"


def test_the_socket_is_found_without_a_login_session(tmp_path: Path) -> None:
    with running(tmp_path) as environment:
        asks_by_socket(environment, tmp_path)


def test_the_socket_of_the_service_is_found(tmp_path: Path) -> None:
    """By somebody whose own folders have none. The service's folder is another one here: /run is the machine's."""
    (tmp_path / "service").mkdir()
    (tmp_path / "other").mkdir()
    with running(tmp_path, f"api.ipc={tmp_path}/service/api.sock") as environment:
        asks_by_socket({**environment, "HOME": str(tmp_path / "other")}, tmp_path)


def first_line(command: list[str], environment: dict[str, str]) -> str:
    """What a program that runs on prints first."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        try:
            begun = time.monotonic()
            line = one.stdout.readline()
            assert line, (
                f"nothing printed in {time.monotonic() - begun:.0f} s: {one.stderr.read() if one.stderr else ''}"
            )
            return line
        finally:
            one.kill()


def test_the_python_snippets(home: dict[str, str]) -> None:
    following, asking = blocks("python")
    assert first_line([sys.executable, "-c", following], home).endswith(" is started\n")
    done = subprocess.run([sys.executable, "-c", asking], env=home, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_mistakes_of_a_configuration(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("console") if "check-config" in block]
    command, _, shown = block.partition("\n")
    done = run(command[2:], {**os.environ, "HOME": str(tmp_path)}, tmp_path)
    assert done.returncode == 2
    assert done.stderr == shown
