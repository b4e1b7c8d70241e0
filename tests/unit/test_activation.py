"""Which passed socket is which endpoint."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabstird.api.activation import Activated, assign
from fabstird.api.errors import BindError
from fabstird.config import ApiConfig
from fabstird.systemd import Passed


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Passed]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "a"))
        sock.listen()
        yield Passed("fabstird.socket", str(tmp_path / "a"), sock)


@pytest.fixture
def tcp() -> Iterator[Passed]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield Passed("fabstird.socket", f"127.0.0.1:{sock.getsockname()[1]}", sock)


def test_by_kind_where_the_name_says_nothing(unix: Passed, tcp: Passed) -> None:
    assert assign([], ApiConfig()) == Activated()
    assert assign([tcp, unix], ApiConfig()) == Activated(ipc=unix, http=tcp)


def test_a_unix_socket_for_http(unix: Passed) -> None:
    named = dataclasses.replace(unix, name="http")
    assert assign([named], ApiConfig()) == Activated(http=named)
    assert assign([unix], ApiConfig(http=f"unix:{unix.where}")) == Activated(http=unix)


def test_two_for_one_endpoint(unix: Passed) -> None:
    with pytest.raises(BindError, match="remove the other ListenStream="):
        assign([unix, unix], ApiConfig())


def test_one_for_an_endpoint_that_is_switched_off(unix: Passed, tcp: Passed) -> None:
    with pytest.raises(BindError, match=rf"listens at {tcp.where}, but \[api\] http is switched off"):
        assign([unix, tcp], ApiConfig(http=""))


def test_one_that_takes_no_connections(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "a"))
        with pytest.raises(BindError, match="takes no connections; it may have ListenStream= only"):
            assign([Passed("ipc", str(tmp_path / "a"), sock)], ApiConfig())


def test_what_is_no_socket(tmp_path: Path) -> None:
    """In a process of its own: a passed descriptor is its number 3."""
    program = (
        "import os\n"
        "from fabstird.api.activation import take\n"
        "from fabstird.config import ApiConfig\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "take(ApiConfig())\n"
    )
    ran = subprocess.run(
        ["bash", "-c", 'exec 3</dev/null; exec "$0" -c "$1"', sys.executable, program],
        env={**os.environ, "LISTEN_FDS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr.endswith(
        "BindError: the socket unit passes something that is not a socket (Socket operation on non-socket); "
        "it may have ListenStream= only\n"
    )
