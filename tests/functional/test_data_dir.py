"""What a daemon leaves on the disk, and where."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import trio

from fabstird import __version__
from fabstird.identity import Identity
from tests.functional.starts import ASLEEP, STOPPED, call, fabstird
from tests.harness import START_TIMEOUT, daemon, fetch, post, process, request_text
from tests.support.minipeer import mini_peers


async def test_what_api_json_says(short: Path) -> None:
    async with daemon({**ASLEEP, "api.ipc_mode": "0600"}, data_dir=short / "data") as running:
        about = json.loads((short / "data" / "api.json").read_bytes())
        assert about == {
            "pid": running.pid,
            "epoch": (await call(running, "status"))["epoch"],
            "version": __version__,
            "ipc": f"{short}/data/api.sock",
            "http": f"127.0.0.1:{running.port}",
        }
        assert running.port > 0
        assert (await fetch(running, "GET", "/healthz")).status == 200
        assert (short / "data" / "api.sock").stat().st_mode & 0o777 == 0o600
        assert (short / "data").stat().st_mode & 0o777 == 0o700
    assert not (short / "data" / "api.json").exists()


async def test_endpoints_can_be_moved_or_switched_off(short: Path) -> None:
    """Four daemons at a time: HTTP on a Unix socket, HTTP on IPv6, HTTP alone, and no API at all."""
    moved = {**ASLEEP, "api.ipc": f"{short}/moved/my.sock", "api.http": f"unix:{short}/http.sock"}
    with (
        process(moved, data_dir=short / "1") as unix,
        process({**ASLEEP, "api.http": "[::1]:0"}, data_dir=short / "2") as six,
        process({**ASLEEP, "api.ipc": ""}, data_dir=short / "3") as http_only,
        process({**ASLEEP, "api.ipc": "", "api.http": ""}, data_dir=short / "4") as closed,
    ):
        for running in (unix, six, http_only, closed):
            await running.ready()
        assert (unix.api["ipc"], unix.api["http"]) == (f"{short}/moved/my.sock", f"unix:{short}/http.sock")
        assert (await call(unix, "status"))["state"] == "stopped"
        assert os.stat(f"{short}/http.sock").st_mode & 0o777 == 0o660
        headers = {"host": "localhost", "authorization": f"Bearer {unix.token}", "connection": "close"}
        async with await trio.open_unix_socket(f"{short}/http.sock") as stream:
            await stream.send_all(request_text("GET", "/metrics", headers))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")

        assert re.fullmatch(r"\[::1\]:[0-9]+", six.api["http"])
        async with await trio.open_tcp_stream("::1", six.port) as stream:
            await stream.send_all(request_text("GET", "/healthz", {"host": six.api["http"], "connection": "close"}))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")

        assert http_only.api["ipc"] is None
        assert not (short / "3" / "api.sock").exists()
        reply = await post(http_only, {"jsonrpc": "2.0", "id": 1, "method": "status"})
        assert reply.json["result"]["state"] == "stopped"

        assert (closed.api["ipc"], closed.api["http"]) == (None, None)
        await closed.line("the API is switched off: [api] ipc and http are both empty", level="warning")
        for running in (unix, six, http_only, closed):
            await running.stop()
    assert not (short / "http.sock").exists()
    assert not (short / "moved" / "my.sock").exists()


async def test_under_systemd_it_lives_where_it_is_told_and_says_when_it_is_ready(short: Path) -> None:
    environ = {
        "STATE_DIRECTORY": f"{short}/state",
        "RUNTIME_DIRECTORY": f"{short}/run",
        "NOTIFY_SOCKET": f"{short}/notify",
        "XDG_STATE_HOME": f"{short}/not here",
        "XDG_RUNTIME_DIR": f"{short}/not here",
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(f"{short}/notify")
        supervisor.settimeout(START_TIMEOUT)
        with process(ASLEEP, data_dir=short / "state", give_data_dir=False, environ=environ) as running:
            told = b""
            while not told.startswith(b"READY=1"):  # a start that takes long tells of itself before
                told = await trio.to_thread.run_sync(supervisor.recv, 1000)
            running.api = json.loads((short / "state" / "api.json").read_bytes())  # there, as soon as it is ready
            assert running.api["ipc"] == f"{short}/run/api.sock"
            assert told.decode() == "READY=1\nSTATUS=the node is stopped"
            await running.stop()
            assert supervisor.recv(1000).startswith(b"STOPPING=1\n")
    assert not (short / "not here").exists()


async def test_on_a_desktop_it_lives_where_xdg_says(short: Path) -> None:
    environ = {"XDG_STATE_HOME": f"{short}/state", "XDG_RUNTIME_DIR": f"{short}/run"}
    home = short / "state" / "fabstird"
    async with daemon(ASLEEP, data_dir=home, give_data_dir=False, environ=environ) as running:
        assert running.api["ipc"] == f"{short}/run/fabstird/api.sock"
        assert (short / "run" / "fabstird").stat().st_mode & 0o777 == 0o700
        assert (home / "identity.key").exists()


async def test_id_is_the_peer_id_of_the_data_directory(short: Path) -> None:
    made = fabstird("id", "--data-dir", f"{short}/data")
    assert (made.returncode, made.stderr) == (STOPPED, "")
    seed = (short / "data" / "identity.key").read_bytes()[4:36]
    assert made.stdout == f"{Identity.from_seed(seed).peer_id}\n"
    async with daemon(ASLEEP, data_dir=short / "data") as running:
        assert (await call(running, "status"))["peerId"] == made.stdout.strip()
        assert fabstird("id", "--data-dir", f"{short}/data").stdout == made.stdout


async def test_known_peers_outlive_the_daemon(short: Path) -> None:
    async with mini_peers(1) as (peer,):
        address = await peer.listen()
        async with daemon(data_dir=short / "data") as first:
            await first.started()
            await call(first, "connect", [address])
        async with daemon(data_dir=short / "data") as second:
            await second.started()
            connected = await call(second, "connect", [peer.peer_id])
        assert connected["address"] == address


async def test_a_damaged_book_of_peers_is_set_aside(short: Path) -> None:
    (short / "data").mkdir()
    (short / "data" / "peers.json").write_bytes(b"\xff\xfe")
    async with daemon(ASLEEP, data_dir=short / "data") as running:
        await running.line("known peers are damaged; starting without them", level="warning")
    (aside,) = (short / "data").glob("peers.json.damaged-*")
    assert aside.read_bytes() == b"\xff\xfe"
