"""The daemon as a process: how it starts, what it leaves on the disk, how it is told things, and how it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstir_client.errors import LimitExceeded, from_error_object
from fabstird import __version__
from fabstird.identity import Identity
from tests.functional.running import STOP, Process, daemon, exchange, fetch, ipc, post, process, request_text
from tests.interop.daemon import environment
from tests.support.minipeer import Stage, mini_peers
from tests.support.ports import black_hole, refusing_port, taken_port

STOPPED, CRASHED, MISCONFIGURED, IN_USE, CANNOT_BIND = range(5)  # CONTRACT, section 1
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
DAMAGED = {"empty": b"", "text": b"nonsense", "zeros": bytes(68), "RSA": bytes.fromhex("080012") + bytes(65)}
ASLEEP = {"node.auto_start": False}


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory:
        yield Path(directory)


def fabstird(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fabstird", *arguments]
    return subprocess.run(command, env=environment() | environ, capture_output=True, text=True, timeout=30, check=False)


async def refused(running: Process) -> tuple[int, str]:
    """The exit status of a daemon that must not come up, and what it said to the person who started it."""
    status = await running.exited(within=20)
    said = [line["event"] for line in running.lines() if not line["level"]]
    assert all(line.startswith("fabstird: ") for line in said), running.text()
    assert not (running.data_dir / "api.json").exists()
    return status, "\n".join(said)


async def call(running: Process, method: str, params: Any = None) -> Any:
    async with ipc(running) as connection:
        return await connection.call(method, params)


# --------------------------------------------------------------------------------------------------------------------
# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_well_whatever_is_going_on(number: int, short: Path) -> None:
    """With peers connected, one of them frozen; bootstrap nodes that are silent, deaf or gone; a call under way."""
    async with mini_peers(4) as peers:
        with black_hole() as deaf, refusing_port() as gone:
            nodes = [
                await peers[0].listen(hold=Stage.TCP),
                f"/ip4/127.0.0.1/tcp/{deaf}/p2p/{STRANGER}",
                f"/ip4/127.0.0.1/tcp/{gone}/p2p/{STRANGER}",
            ]
            settings = {"node.bootstrap_nodes": nodes, "node.retry_delay": 60000, "log.level": "debug"}
            with process(settings, data_dir=short / "data") as running:
                await running.started()
                own = (await call(running, "addresses"))["listen"][0]
                links = [await peer.dial(own) for peer in peers[1:]]
                links[0].freeze()
                await running.line("connection:retry")
                async with ipc(running) as connection:
                    silent = await peers[0].listen(hold=Stage.TCP)
                    await connection.send({"jsonrpc": "2.0", "id": 1, "method": "connect", "params": [silent]})
                    assert len(await call(running, "peers")) == 3
                    began = trio.current_time()
                    await running.stop(number)
                    assert trio.current_time() - began < STOP
                for link in links[1:]:
                    with trio.fail_after(5):
                        await link.closed.wait()
        assert [line["event"] for line in running.lines()][-1] == "daemon stopped"
        assert sorted(os.listdir(running.data_dir)) == [
            "api.sock.lock",
            "api.token",
            "identity.key",
            "lock",
            "peers.json",
        ]
        for name in ("api.token", "identity.key", "peers.json"):
            assert (running.data_dir / name).stat().st_mode & 0o777 == 0o600
        seed = (running.data_dir / "identity.key").read_bytes()[4:36]
        for secret in (running.token, seed.hex(), base64.b64encode(seed).decode().rstrip("="), repr(seed)[2:-1]):
            assert secret not in running.text()


async def test_a_second_signal_ends_it_at_once_and_blocks_no_start(short: Path) -> None:
    with process(data_dir=short / "data") as running:
        await running.started()
        peer_id = (await call(running, "status"))["peerId"]
        running.popen.send_signal(signal.SIGSTOP)  # so that it finds both when it goes on, in either order
        running.popen.send_signal(signal.SIGTERM)
        running.popen.send_signal(signal.SIGINT)
        running.popen.send_signal(signal.SIGCONT)
        assert await running.exited(within=2) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
        assert (running.data_dir / "api.json").exists()  # nothing was cleared away
    async with daemon(ASLEEP, data_dir=short / "data") as again:
        assert (await call(again, "status"))["peerId"] == peer_id


async def test_a_second_signal_of_another_kind_ends_it_with_its_own_number(short: Path) -> None:
    with process(data_dir=short / "data") as running, trio.fail_after(30):
        await running.started()
        running.popen.send_signal(signal.SIGINT)
        await running.line("daemon stopping")
        running.popen.send_signal(signal.SIGSTOP)
        running.popen.send_signal(signal.SIGTERM)
        running.popen.send_signal(signal.SIGCONT)
        assert await running.exited(within=2) == 128 + signal.SIGTERM


async def test_a_stop_during_the_start_is_a_stop() -> None:
    with process() as running:
        await running.line("daemon starting")
        await running.stop()


async def test_a_crash_is_told_and_has_a_status_of_its_own() -> None:
    with process(ASLEEP) as running:
        await running.ready()
        (running.data_dir / "api.json").unlink()
        (running.data_dir / "api.json").mkdir()  # which it cannot remove in the end
        running.popen.send_signal(signal.SIGTERM)
        assert await running.exited() == CRASHED
        (line,) = [line for line in running.lines() if line["level"] == "critical"]
        assert line["event"] == "daemon crashed"
        assert "Is a directory" in line["traceback"]
        assert "fabstird: crashed: IsADirectoryError" in running.text()


# --------------------------------------------------------------------------------------------------------------------
# What keeps it from starting


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
            assert await running.exited(within=20) == MISCONFIGURED
            assert words in running.text()


async def test_one_daemon_per_data_directory() -> None:
    async with daemon(ASLEEP) as first:
        about = (first.data_dir / "api.json").read_bytes()
        with process(data_dir=first.data_dir) as second:
            assert await second.exited(within=20) == IN_USE
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
    assert "api.sock is there and is no socket; move it away, or set another [api] ipc" in said
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


# --------------------------------------------------------------------------------------------------------------------
# What it leaves on the disk, and where


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
        supervisor.settimeout(30)
        with process(ASLEEP, data_dir=short / "state", give_data_dir=False, environ=environ) as running:
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


# --------------------------------------------------------------------------------------------------------------------
# Starting the node


async def test_without_auto_start_it_waits_to_be_told() -> None:
    async with daemon(ASLEEP) as running:
        status = await call(running, "status")
        assert (status["state"], status["head"]) == ("stopped", 0)
        assert (await call(running, "start"))["state"] == "started"
        assert await call(running, "metrics")


async def test_an_auto_start_that_fails_leaves_the_daemon_up() -> None:
    with taken_port() as port, process({"node.listen_addresses": [f"/ip4/127.0.0.1/tcp/{port}"]}) as running:
        await running.ready()
        await running.line("node failed to start")
        status = await call(running, "status")
        assert status["state"] == "failed"
        assert f"/ip4/127.0.0.1/tcp/{port}" in status["error"]
        started = await call(running, "start", [{"listenAddresses": ["/ip4/127.0.0.1/tcp/0"]}])
        assert started["state"] == "started"
        await running.stop()


async def test_shutdown_is_answered_and_then_it_ends() -> None:
    with process() as running:
        await running.started()
        async with ipc(running) as connection:
            await connection.call("subscribe")
            assert await connection.call("shutdown") == {}
            assert (await connection.notification())["params"]["type"] == "p2p:stopped"
            assert await connection.receive_text() is None
        assert await running.exited() == STOPPED


# --------------------------------------------------------------------------------------------------------------------
# Signals while it runs


async def test_sighup_takes_over_what_can_change_and_refuses_what_is_wrong(short: Path) -> None:
    file = short / "config.toml"
    file.write_text("")
    with process(data_dir=short / "data", arguments=("--config", str(file))) as running:
        await running.started()

        async def provoke() -> None:
            """What is logged at level debug, and nothing at info."""
            assert (await fetch(running, "GET", "/metrics", authorization=None)).status == 401

        await provoke()
        assert [line for line in running.lines() if line["level"] == "debug"] == []

        file.write_text('[log]\nlevel = "debug"\n[connections]\nmax = 1\n')
        running.popen.send_signal(signal.SIGHUP)
        await running.line("configuration reloaded")
        await provoke()
        await running.line("request refused", level="debug")
        async with mini_peers(2) as peers, ipc(running) as connection:
            await connection.call("connect", [await peers[0].listen()])
            error = from_error_object(await connection.error("connect", [await peers[1].listen()]))
            assert isinstance(error, LimitExceeded)
            assert error.data["limit"] == 1
            config = await connection.call("config")
            assert (config["log"]["level"], config["connections"]["max"]) == ("debug", 1)

        file.write_text('[log]\nlevel = "warning"\n[node]\nmax_retries = -1\n')
        seen = len(running.lines())
        running.popen.send_signal(signal.SIGHUP)
        line = await running.line("configuration not reloaded", level="error")
        assert line["mistakes"] == [f"{file}: node.max_retries: must be an integer, 0 or more, not -1"]
        await provoke()
        await running.line("request refused", after=seen, level="debug")
        assert (await call(running, "status"))["state"] == "started"

        file.unlink()
        running.popen.send_signal(signal.SIGHUP)
        await running.line(
            "configuration not reloaded",
            after=seen + 1,
            mistakes=[f"{file}: cannot be read: No such file or directory"],
        )
        running.popen.send_signal(signal.SIGTERM)
        assert await running.exited() == STOPPED


async def test_sigusr1_writes_the_task_tree() -> None:
    async with daemon() as running:
        await running.started()
        async with ipc(running) as connection:
            await connection.call("version")
            running.popen.send_signal(signal.SIGUSR1)
            line = await running.line("task tree", level="warning")
        tree = "\n".join(line["tree"])
        for task, at in (
            ("fabstird.daemon.run", "fabstird/daemon.py"),
            ("fabstird.p2p.node.Node.run", "fabstird/p2p/connections.py"),
            ("trio._highlevel_serve_listeners._run_handler", "fabstird/api/sockets.py"),  # our own connection
        ):
            assert re.search(rf"{re.escape(task)} at \S*{at}:[0-9]+ \S", tree), tree


async def test_signals_before_the_loop_runs_are_harmless() -> None:
    with process(ASLEEP) as running:
        await running.line("daemon starting")
        for number in (signal.SIGHUP, signal.SIGUSR1) * 3:
            running.popen.send_signal(number)
        await running.ready()
        await running.stop()


async def test_the_console_format_is_for_people() -> None:
    async with daemon({**ASLEEP, "log.format": "console"}) as running:
        pass
    assert "daemon stopped" in running.text()
    assert "{" not in running.text().splitlines()[0]
    assert "\x1b" not in running.text()


async def test_half_a_request_holds_nobody_up() -> None:
    async with daemon(ASLEEP) as running, ipc(running) as half:
        await half.stream.send_all(b'{"jsonrpc": "2.0", "id": 1, "method": "st')
        await exchange(running.port, b"GET / HTTP/1.1\r\n\r\n")
        assert (await call(running, "status"))["state"] == "stopped"
