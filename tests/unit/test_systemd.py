"""sd_notify(3) to a real datagram socket, and to none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabstird.systemd import notify


@pytest.fixture
def supervisor() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
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
