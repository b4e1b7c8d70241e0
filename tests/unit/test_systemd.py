"""What is said to systemd and taken from it, over real sockets; `tests/service` does the same with systemd itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabstird.systemd import credential, listen_sockets, notify, reloading, status, watchdog_interval


@pytest.fixture
def supervisor() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(60)
        yield bound


def test_a_path(supervisor: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    supervisor.bind(path)
    assert notify("READY=1", "STATUS=peer 12D3K", environ={"NOTIFY_SOCKET": path})
    assert supervisor.recv(1000) == b"READY=1\nSTATUS=peer 12D3K"


def test_an_abstract_address(supervisor: socket.socket) -> None:
    name = f"fabstird-test-{os.getpid()}"
    supervisor.bind(f"\0{name}")
    assert notify("STOPPING=1", environ={"NOTIFY_SOCKET": f"@{name}"})
    assert supervisor.recv(1000) == b"STOPPING=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_systemd_nothing_is_sent(environ: dict[str, str]) -> None:
    assert notify("READY=1", environ=environ) is False


def test_a_supervisor_that_has_gone_is_no_error(supervisor: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    assert notify("READY=1", environ={"NOTIFY_SOCKET": path}) is False
    supervisor.bind(path)
    supervisor.close()
    assert notify("READY=1", environ={"NOTIFY_SOCKET": path}) is False
    assert notify("READY=1", environ={"NOTIFY_SOCKET": "/" + "x" * 200}) is False


def test_a_supervisor_that_does_not_read_delays_nobody(supervisor: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    supervisor.bind(path)
    sent = 0
    while notify("STATUS=" + "x" * 1000, environ={"NOTIFY_SOCKET": path}):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_a_status_is_one_line() -> None:
    assert status("two\nlines\x1b[31m") == "STATUS=two lines [31m"
    assert len(status("x" * 10_000)) < 600


def test_a_reload_says_when_it_began() -> None:
    before = time.monotonic_ns() // 1000
    first, second = reloading()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_s_interval(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(environ) == interval


def test_a_credential_is_a_file_of_the_unit_s_directory(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential("identity.key", environ) is None
    (tmp_path / "identity.key").write_bytes(b"")
    assert credential("identity.key", environ) == tmp_path / "identity.key"
    assert credential("identity.key", {}) is None


PASSED = """
import os, sys
from fabstird.systemd import listen_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
for one in listen_sockets():
    print(one.name, one.where, one.is_unix, os.get_inheritable(one.socket.fileno()), one.socket.getblocking())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), listen_sockets())
"""


def test_passed_sockets_are_taken_once(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        # A shell puts them where systemd does: at descriptor 3 and up
        line = f'exec 3<&{unix.fileno()} 4<&{tcp.fileno()}; exec "$0" -c "$1"'
        ran = subprocess.run(
            ["bash", "-c", line, sys.executable, PASSED],
            pass_fds=[unix.fileno(), tcp.fileno()],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "ipc:other"},
            capture_output=True,
            text=True,
            check=True,
        )
        port = tcp.getsockname()[1]
    assert ran.stdout.splitlines() == [
        f"ipc {path} True False False",
        f"other 127.0.0.1:{port} False False False",
        "[] []",
    ]


def test_sockets_for_another_process_are_left_alone() -> None:
    assert listen_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert listen_sockets({}) == []
