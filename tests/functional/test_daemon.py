"""The daemon as a process: how its node starts, how it is told things, and how it ends."""

from __future__ import annotations

import base64
import os
import re
import signal
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import LimitExceeded, from_error_object
from tests.functional.asking import STRANGER
from tests.functional.starts import ASLEEP, CRASHED, STOPPED, call
from tests.harness import STOP_TIMEOUT, asked_until, daemon, exchange, fetch, ipc, process
from tests.support.minipeer import Stage, mini_peers
from tests.support.ports import black_hole, refusing_port, taken_port

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
                    await asked_until(lambda: call(running, "peers"), lambda found: len(found) == 3)
                    began = trio.current_time()
                    await running.stop(number)
                    assert trio.current_time() - began < STOP_TIMEOUT
                for link in links[1:]:
                    with trio.fail_after(60):
                        await link.closed.wait()
        assert [line["event"] for line in running.lines()][-1] == "daemon stopped"
        assert sorted(os.listdir(running.data_dir)) == [
            "api.sock.lock",
            "api.token",
            "identity.key",
            "lock",
            "peers.json",
            "ports.json",
        ]
        for name in ("api.token", "identity.key", "peers.json", "ports.json"):
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
        assert await running.exited() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
        assert (running.data_dir / "api.json").exists()  # nothing was cleared away
    async with daemon(ASLEEP, data_dir=short / "data") as again:
        assert (await call(again, "status"))["peerId"] == peer_id


async def test_a_second_signal_of_another_kind_ends_it_with_its_own_number(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(  # else a busy machine may give us no turn before the stop is over
        "import trio, fabstird.p2p.node as node\n"
        "async def stop(*_): await trio.sleep_forever()\n"
        "node.Node.stop = stop\n"
    )
    with process(environ={"PYTHONPATH": str(tmp_path)}) as running, trio.fail_after(120):
        await running.started()
        running.popen.send_signal(signal.SIGINT)
        await running.line("daemon stopping")
        running.popen.send_signal(signal.SIGSTOP)
        running.popen.send_signal(signal.SIGTERM)
        running.popen.send_signal(signal.SIGCONT)
        assert await running.exited() == 128 + signal.SIGTERM


async def test_a_stop_during_the_start_is_a_stop() -> None:
    with process() as running:
        await running.line("daemon starting")
        await running.stop()


async def test_a_crash_is_told_and_has_a_status_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import fabstird.p2p.peers.policy as policy\n"
        "def plan(*_, **__): raise ZeroDivisionError('a defect')\n"
        "policy.plan = plan\n"
    )
    with process(environ={"PYTHONPATH": str(tmp_path)}) as running:
        assert await running.exited(within=60) == CRASHED
        (line,) = [line for line in running.lines() if line["level"] == "critical"]
        assert line["event"] == "daemon crashed"
        assert "a defect" in line["traceback"]
        assert "fabstird: crashed: ZeroDivisionError" in running.text()


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
            ("fabstird.p2p.node.Node.serve", "fabstird/p2p/peers/manager.py"),
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
