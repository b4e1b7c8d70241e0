"""What keeps a daemon from starting, and what it leaves alone then: its exit status and its words."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fabstird import __version__
from tests.functional.starts import ASLEEP, CANNOT_BIND, IN_USE, MISCONFIGURED, call, fabstird
from tests.harness import Process, daemon, process
from tests.support.ports import taken_port

DAMAGED = {"empty": b"", "text": b"nonsense", "zeros": bytes(68), "RSA": bytes.fromhex("080012") + bytes(65)}


async def refused(running: Process) -> tuple[int, str]:
    """The exit status of a daemon that must not come up, and what it said to the person who started it."""
    status = await running.exited(within=60)
    said = [line["event"] for line in running.lines() if not line["level"]]
    assert all(line.startswith("fabstird: ") for line in said), running.text()
    assert not (running.data_dir / "api.json").exists()
    return status, "\n".join(said)


async def test_a_wrong_configuration_is_told_in_one_line_a_mistake(short: Path) -> None:
    (short / "config.toml").write_text('[node]\nmax_retries = -1\nbootstrap_nodes = ["nonsense"]\n')
    with process(data_dir=short / "data", arguments=("--config", str(short / "config.toml"))) as running:
        status, said = await refused(running)
    assert status == MISCONFIGURED
    assert [line.partition(": must")[0] for line in said.splitlines()] == [
        f"fabstird: {short}/config.toml: node.max_retries",
        f'fabstird: {short}/config.toml: node.bootstrap_nodes: invalid bootstrap node "nonsense"',
    ]
    assert not (short / "data").exists()


async def test_a_command_line_that_makes_no_sense(short: Path) -> None:
    for arguments in ([], ["walk"], ["run", "--port", "1"], ["check-config", "a", "b"]):
        done = fabstird(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: fabstird" in done.stderr
    assert fabstird("--version").stdout == f"fabstird {__version__}\n"


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_identity_is_never_overwritten(short: Path, content: bytes) -> None:
    (short / "data").mkdir()
    (short / "data" / "identity.key").write_bytes(content)
    with process(data_dir=short / "data") as running:
        status, said = await refused(running)
    assert status == MISCONFIGURED
    assert f"identity {short}/data/identity.key " in said
    done = fabstird("id", "--data-dir", str(short / "data"))
    assert (done.returncode, done.stdout) == (MISCONFIGURED, "")
    assert "identity.key" in done.stderr
    assert (short / "data" / "identity.key").read_bytes() == content


async def test_a_token_that_is_none_and_a_data_directory_that_is_none(short: Path) -> None:
    (short / "data").mkdir()
    (short / "data" / "api.token").write_text("short\n")
    (short / "file").touch()
    for path, words in ((short / "data", "api.token holds no usable token"), (short / "file", "file: File exists")):
        with process(data_dir=path) as running:
            assert await running.exited(within=60) == MISCONFIGURED
            assert words in running.text()


async def test_one_daemon_per_data_directory() -> None:
    async with daemon(ASLEEP) as first:
        about = (first.data_dir / "api.json").read_bytes()
        with process(data_dir=first.data_dir) as second:
            assert await second.exited(within=60) == IN_USE
            assert f"{first.data_dir} is in use by the daemon with pid {first.pid}" in second.text()
        assert (first.data_dir / "api.json").read_bytes() == about
        assert (await call(first, "status"))["epoch"] == first.api["epoch"]


async def test_a_port_that_is_taken(short: Path) -> None:
    with taken_port() as port, process({"api.http": f"127.0.0.1:{port}"}, data_dir=short / "data") as running:
        status, said = await refused(running)
        assert status == CANNOT_BIND
        assert said == (
            f"fabstird: cannot serve HTTP at 127.0.0.1:{port}: address already in use; "
            "another program has it: set another [api] http"
        )
        assert not (short / "data" / "api.sock").exists()


@pytest.mark.parametrize("key", ["api.ipc", "api.http"])
async def test_a_path_too_long_for_a_socket(short: Path, key: str) -> None:
    path = f"/tmp/{'x' * 103}"
    with process({key: path if key == "api.ipc" else f"unix:{path}"}, data_dir=short / "data") as running:
        status, said = await refused(running)
    assert status == CANNOT_BIND
    assert f"the path {path} is 108 bytes long; a Unix socket's may have 107: set a shorter [api] " in said


async def test_a_data_directory_too_long_for_its_socket(tmp_path: Path) -> None:
    with process(data_dir=tmp_path / ("x" * 100)) as running:
        status, said = await refused(running)
    assert status == CANNOT_BIND
    assert "or another --data-dir" in said


async def test_a_file_in_the_place_of_the_socket_is_left_alone(short: Path) -> None:
    (short / "data").mkdir()
    (short / "data" / "api.sock").write_text("precious")
    with process(data_dir=short / "data") as running:
        status, said = await refused(running)
    assert status == CANNOT_BIND
    assert "api.sock exists and is not a socket; move it away, or set another [api] ipc" in said
    assert (short / "data" / "api.sock").read_text() == "precious"


# --------------------------------------------------------------------------------------------------------------------
# Sockets of the living and of the dead


async def test_the_socket_of_another_program_is_never_taken_over(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"{short}/theirs.sock")
        theirs.listen(16)
        for key, value in (("api.ipc", f"{short}/theirs.sock"), ("api.http", f"unix:{short}/theirs.sock")):
            with process({key: value}, data_dir=short / "data") as running:
                status, said = await refused(running)
            assert status == CANNOT_BIND
            assert f"the socket {short}/theirs.sock is served by another program; set another [api] " in said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{short}/theirs.sock")
            theirs.accept()[0].close()


async def test_the_socket_of_another_daemon_is_never_taken_over(short: Path) -> None:
    async with daemon({**ASLEEP, "api.ipc": f"{short}/shared.sock"}, data_dir=short / "one") as first:
        with process({"api.ipc": f"{short}/shared.sock"}, data_dir=short / "two") as second:
            assert (await refused(second))[0] == CANNOT_BIND
        assert (await call(first, "status"))["epoch"] == first.api["epoch"]


async def test_a_kill_leaves_nothing_that_blocks_the_next_start(short: Path) -> None:
    settings = {**ASLEEP, "api.http": f"unix:{short}/http.sock"}
    with process(settings, data_dir=short / "data") as first:
        await first.ready()
        peer_id, token = (await call(first, "status"))["peerId"], first.token
        first.kill()
    left = {"api.json", "api.sock", "api.sock.lock", "api.token", "identity.key", "lock"}
    assert set(os.listdir(short / "data")) == left
    async with daemon(settings, data_dir=short / "data") as second:
        assert second.api["epoch"] != first.api["epoch"]
        assert (await call(second, "status"))["peerId"] == peer_id
        assert second.token == token
    assert set(os.listdir(short / "data")) == left - {"api.json", "api.sock"}
