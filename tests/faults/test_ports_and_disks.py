"""A port that is taken; a disk that is full or may not be written. One clear line, and on with what still works."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstir_client.api.errors import InvalidState, ListenFailed
from tests.harness import STOP_TIMEOUT, Daemon, Json, command, environment, fabstird, until
from tests.support.minipeer import mini_peer
from tests.support.ports import free_port, taken_port

MISCONFIGURED, IN_USE, CANNOT_BIND = 2, 3, 4  # exit statuses
FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)
# Root may write where nobody may, but for this; everybody else needs nothing
BOUND_BY_RIGHTS = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.geteuid() == 0 else ()


async def end_of(data_dir: Path, settings: Json | None = None, **options: Any) -> tuple[int, str]:
    """The exit status of a daemon that cannot start, and the one line that it says."""
    with trio.fail_after(60):
        ended = await trio.run_process(
            command(data_dir, settings, **options), capture_stderr=True, check=False, env=environment()
        )
    text = ended.stderr.decode()
    told = [line for line in text.splitlines() if line.startswith("fabstird: ")]
    assert len(told) == 1, text
    assert "Traceback" not in text
    for line in set(text.splitlines()) - set(told):
        assert line.startswith("{"), text
        assert json.loads(line)["level"] in ("debug", "info"), text
    return ended.returncode, told[0]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte more fits."""
    filler = disk / "filler"
    with pytest.raises(OSError, match=FULL):
        fill(filler)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


async def lived_in(data_dir: Path) -> str:
    """Makes it the data directory of a daemon that has run and was stopped; its peer id."""
    async with fabstird(data_dir) as daemon:
        await daemon.call("stop")
        return daemon.peer_id


# --------------------------------------------------------------------------------------------------------------------
# Ports


async def test_a_taken_listen_port_fails_the_node_and_not_the_daemon() -> None:
    with taken_port() as port:
        address = f"/ip4/127.0.0.1/tcp/{port}"
        async with fabstird(started=False, listen_addresses=[address]) as daemon:
            await until_failed(daemon)
            status = await daemon.call("status")
            assert status["state"] == "failed"
            assert status["error"] == f"cannot listen on {address}: address already in use"
            await until(daemon.warnings)  # the log is written by a thread of its own
            told = [entry for entry in daemon.said if entry["level"] not in ("debug", "info")]
            assert len(told) == 1, told
            assert address in json.dumps(told[0])
            with pytest.raises(ListenFailed) as raised:
                await daemon.call("start")
            assert raised.value.data["address"] == address
            await daemon.call("start", config={"listenAddresses": ["/ip4/127.0.0.1/tcp/0"]})
            assert (await daemon.call("status"))["state"] == "started"
            daemon.errors.clear()


async def until_failed(daemon: Daemon) -> None:
    with trio.fail_after(60):
        while (await daemon.call("status"))["state"] != "failed":
            pass  # a call takes its time


async def test_one_taken_port_of_two_leaves_nothing_half_open() -> None:
    with taken_port() as port:
        async with fabstird(started=False, auto_start=False) as daemon:
            free = free_port()
            both = [f"/ip4/127.0.0.1/tcp/{free}", f"/ip4/127.0.0.1/tcp/{port}/ws"]
            with pytest.raises(ListenFailed):
                await daemon.call("start", config={"listenAddresses": both})
            with pytest.raises(OSError, match="attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", free)
            await daemon.call("start", config={"listenAddresses": both[:1]})


async def test_a_taken_http_port_ends_the_start(tmp_path: Path) -> None:
    with taken_port() as port:
        status, line = await end_of(tmp_path / "d", {"api.http": f"127.0.0.1:{port}"})
    assert status == CANNOT_BIND
    assert f"127.0.0.1:{port}" in line
    assert "address already in use" in line
    await lived_in(tmp_path / "d")  # it has left nothing that blocks the next one


async def test_a_living_program_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        status, line = await end_of(tmp_path / "d", {"api.ipc": str(path)})
        assert status == CANNOT_BIND
        assert str(path) in line
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


async def test_a_data_directory_has_one_daemon(tmp_path: Path) -> None:
    async with fabstird(tmp_path / "d") as daemon:
        status, line = await end_of(tmp_path / "d")
        assert status == IN_USE
        assert str(daemon.process.pid) in line
        assert (await daemon.call("status"))["state"] == "started"


# --------------------------------------------------------------------------------------------------------------------
# Starting on such a disk


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run before"])
async def test_a_full_disk_ends_the_start(small_disk: Path, has_run: bool) -> None:
    data_dir = small_disk / "d"
    peer_id = await lived_in(data_dir) if has_run else None
    files = sorted(data_dir.iterdir()) if has_run else []
    with full(small_disk):
        status, line = await end_of(data_dir)
        assert status == MISCONFIGURED
        assert f"{data_dir}/" in line
        assert FULL in line
        assert sorted(data_dir.iterdir()) == files or not has_run, "what was there still is, and nothing half-done"
    assert peer_id in (None, await lived_in(data_dir))


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run before"])
async def test_a_read_only_disk_ends_the_start(small_disk: Path, has_run: bool) -> None:
    data_dir = small_disk / "d"
    peer_id = await lived_in(data_dir) if has_run else None
    with read_only(small_disk):
        status, line = await end_of(data_dir)
        assert status == MISCONFIGURED
        assert str(data_dir) in line
        assert READ_ONLY in line
    assert peer_id in (None, await lived_in(data_dir))


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run before"])
async def test_a_directory_without_the_right_to_write_ends_the_start(tmp_path: Path, has_run: bool) -> None:
    if BOUND_BY_RIGHTS and shutil.which(BOUND_BY_RIGHTS[0]) is None:
        pytest.skip("left out: as root, this needs `setpriv` (package util-linux)")
    data_dir = tmp_path / "d"
    if has_run:
        await lived_in(data_dir)
    else:
        data_dir.mkdir()
    data_dir.chmod(0o500)
    try:
        status, line = await end_of(data_dir, prefix=BOUND_BY_RIGHTS)
    finally:
        data_dir.chmod(0o700)
    assert status == MISCONFIGURED
    assert str(data_dir) in line
    assert os.strerror(errno.EACCES) in line


# --------------------------------------------------------------------------------------------------------------------
# Running on it


async def keeps_serving(daemon: Daemon, data_dir: Path, words: str) -> str:
    """The disk takes nothing any more: the daemon says so, connects, keeps, stops and starts as ever. Returns the
    address that was kept in memory only."""
    warned = len(daemon.warnings())
    async with mini_peer() as peer:
        address = await peer.listen()
        with pytest.raises(InvalidState) as raised:
            await daemon.call("peer.keep", address=address)
        assert "peers.json" in str(raised.value)
        assert words in str(raised.value)
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        await daemon.call("stop")
        await until(lambda: len(daemon.warnings()) > warned)
        told = [entry for entry in daemon.said if entry["level"] == "warning"][warned:]
        assert [entry["error"] for entry in told] == [words], told
        await daemon.call("start")
        await daemon.wait_event("peer:connect", count=2, peerId=peer.peer_id)
        await daemon.call("disconnect", peerId=peer.peer_id)
    await until(lambda: not [name for name in os.listdir(data_dir) if name.startswith(".")])  # nothing half-done
    return address


async def test_a_disk_that_fills_up_is_told_and_survived(small_disk: Path) -> None:
    data_dir = small_disk / "d"
    async with fabstird(data_dir) as daemon:
        before = [await daemon.call(method) for method in ("peer.bans", "config")]
        with full(small_disk):
            address = await keeps_serving(daemon, data_dir, FULL)
        assert [await daemon.call(method) for method in ("peer.bans", "config")] == before
        # There is room again, and the next change takes along what could not be saved
        await daemon.call("peer.ban", target="203.0.113.7", reason="a test")
        stored = json.loads((data_dir / "peers.json").read_bytes())
        assert stored["kept"] == [address]
    async with fabstird(data_dir) as daemon:
        assert [ban["target"] for ban in await daemon.call("peer.bans")] == ["203.0.113.7/32"]


async def test_a_directory_that_loses_the_right_to_write_is_told_and_survived(tmp_path: Path) -> None:
    if BOUND_BY_RIGHTS and shutil.which(BOUND_BY_RIGHTS[0]) is None:
        pytest.skip("left out: as root, this needs `setpriv` (package util-linux)")
    data_dir = tmp_path / "d"
    async with fabstird(data_dir, prefix=BOUND_BY_RIGHTS) as daemon:
        data_dir.chmod(0o500)
        try:
            address = await keeps_serving(daemon, data_dir, os.strerror(errno.EACCES))
        finally:
            data_dir.chmod(0o700)
        await daemon.call("stop")
        stored = json.loads((data_dir / "peers.json").read_bytes())
        assert stored["kept"] == [address]


async def test_a_stop_with_the_disk_full_is_a_stop(small_disk: Path) -> None:
    data_dir = small_disk / "d"
    async with fabstird(data_dir) as daemon, mini_peer() as peer:
        await daemon.call("connect", address=await peer.listen())
        with full(small_disk):
            daemon.process.terminate()
            with trio.fail_after(STOP_TIMEOUT):
                assert await daemon.process.wait() == 0
            assert not (data_dir / "api.sock").exists()
            assert not (data_dir / "api.json").exists()
