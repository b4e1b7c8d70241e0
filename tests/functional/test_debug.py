"""Looking inside a running daemon: its tasks, a dump, its log's levels; and one whose event loop is stuck."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from base64 import b64decode

import trio

from fabstird.config import ApiConfig
from fabstird.identity import load_or_make
from tests.harness import START_TIMEOUT, daemon, fetch, ipc, ws

STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
STUCK = """
import os, signal, sys, time
from fabstird.signals import Signals
signals = Signals()
from fabstird.log import logger as log
log.configure("info", "json")
import trio
from fabstird import daemon

async def hang():
    signals.attach(lambda: None, lambda: None, daemon._log_tasks, daemon._log_threads, lambda: None)
    print("hanging", flush=True)
    a_call_that_never_ends()

def a_call_that_never_ends():
    time.sleep(600)

trio.run(hang)
"""


async def test_the_tasks_say_what_they_wait_for() -> None:
    async with daemon() as running, ipc(running) as connection:
        await running.started()
        found = await connection.call("debug.tasks")
        tasks = found["tasks"]
        assert found["count"] == len(tasks) > 5
        assert (tasks[0]["depth"], tasks[0]["name"]) == (0, "<init>")
        # Each task stands below its owner
        assert all(tasks[i]["depth"] <= tasks[i - 1]["depth"] + 1 for i in range(1, len(tasks)))
        canary = [task for task in tasks if task["name"].endswith("Canary.run")]
        assert len(canary) == 1
        assert any("fabstird/canary.py:" in call and "Canary.run" in call for call in canary[0]["stack"])


async def test_a_dump_holds_what_helps_and_nothing_secret() -> None:
    async with daemon({"log.level": "debug"}) as running:
        await running.started()
        async with ipc(running) as connection, ws(running) as other:
            await other.call("status")
            assert (await fetch(running, "GET", "/metrics")).status == 200
            await connection.answer("connect", {"address": f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"})
            result = await connection.call("debug.dump")
            status = await connection.call("status")
        packed = b64decode(result["content"])
        assert len(packed) == result["size"]
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            files = {name.partition("/")[2]: archive.read(name) for name in names}
        assert {name.partition("/")[0] for name in names} == {result["name"].removesuffix(".zip")}
        assert list(files) == result["files"]
        assert json.loads(files["status.json"])["peerId"] == status["peerId"]
        assert json.loads(files["config.json"])["log"]["level"] == "debug"
        assert json.loads(files["about.json"])["packages"]["libp2p"]
        assert b"fabstird_rpc_calls_total{" in files["metrics.txt"]
        assert "p2p:started" in [json.loads(line)["type"] for line in files["events.jsonl"].splitlines()]
        assert "API ready" in [json.loads(line)["event"] for line in files["log.jsonl"].splitlines()]
        assert b"Canary.run" in files["tasks.txt"]
        assert b"MainThread" in files["threads.txt"]
        seed = (running.data_dir / "identity.key").read_bytes()
        secrets = [
            running.token.encode(),
            seed,
            seed.hex().encode(),
            load_or_make(running.data_dir / "identity.key").seed,
        ]
        for name, content in {**files, "the log": running.text().encode()}.items():
            assert not any(secret in content for secret in secrets), name


async def test_the_log_level_changes_at_run_time() -> None:
    async with daemon({"log.level": "warning"}) as running, ipc(running) as connection:
        first = await connection.call("log.level")
        assert (first["level"], first["loggers"]) == ("warning", {})
        assert {"audit", "daemon", "libp2p"} - set(first["known"]) <= {"audit"}
        assert (await connection.call("log.level", {"level": "info"}))["level"] == "info"
        assert (await connection.call("config"))["log"]["level"] == "info"
        turned = await connection.call("log.level", ["node", "debug"])
        assert (turned["level"], turned["loggers"]) == ("info", {"fabstird.node": "debug"})
        assert (await connection.call("log.level", ["node", "inherit"]))["loggers"] == {}
        for params, words in (
            ({"level": "loud"}, "level: must be one of debug, info, warning, error, not 'loud'"),
            ({"level": "inherit"}, "level: must be one of debug, info, warning, error, not 'inherit'"),
            ({"logger": "no.such", "level": "debug"}, 'logger: there is no logger "no.such"; known are'),
        ):
            error = await connection.error("log.level", params)
            assert (error["code"], words in error["message"]) == (-32602, True), error


MAX_CALLS = ApiConfig().max_calls


async def test_what_hangs_is_seen_without_the_api() -> None:
    """A caller with all the calls in flight that it may have is not heard any more. The tree says what it waits for."""
    async with daemon() as running:
        await running.started()
        async with ipc(running) as connection:
            head = (await connection.call("status"))["head"]
            for number in range(MAX_CALLS + 1):  # the last one has to wait for its turn
                params = {"after": head, "types": ["error"], "timeout": 60000}
                await connection.send({"jsonrpc": "2.0", "id": f"e{number}", "method": "events", "params": params})

            async def told() -> list[str]:
                before = len(running.lines())
                os.kill(running.pid, signal.SIGUSR1)
                return list((await running.line("task tree", after=before))["tree"])

            def seen(tree: list[str]) -> tuple[int, bool]:
                calls = sum("await self._more.wait()" in line for line in tree)
                return calls, any("api/session.py" in line and "await self._slots.acquire()" in line for line in tree)

            with trio.fail_after(START_TIMEOUT):
                while seen(await told()) != (MAX_CALLS, True):
                    pass  # asked again: each answer is a line of the log that has to come first


async def test_a_stuck_event_loop_shows_its_threads() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        with trio.fail_after(START_TIMEOUT):
            assert await process.stdout.receive_some()
            process.send_signal(signal.SIGUSR1)
            text = b""
            while not text.endswith(b"\n"):
                text += await process.stderr.receive_some()
        told = json.loads(text)
        assert told["event"] == "the event loop is stuck"
        assert "a_call_that_never_ends" in "".join(told["threads"]["MainThread"])
    finally:
        process.kill()
        await process.wait()
