"""The client in programs that fork, and beside a daemon that is frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

import fabstir_client
from fabstir_client import sync
from fabstir_client.api.errors import ClientTimeout, DaemonUnreachable
from tests.field.commands import WITHIN, environment, run
from tests.harness import RunningDaemon, running_daemon

GENEROUS = 20.0  # seconds for what has 1 s, on a busy machine; without a bound it takes 60

FORKS = """
import os, sys
import fabstir_client

with fabstir_client.connect_sync(api=sys.argv[1]) as client:
    client.start()
    events = client.events(["p2p:stopped"])
    events.open()
    child = os.fork()
    for _ in range(100):
        if child:
            assert client.version().version == client.call("version")["version"]
        else:
            assert client.call("config")["api"]["max_batch"] == 100
            assert client.status().state in ("started", "stopped", "starting")
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    client.stop()
    assert events.get(30).type == "p2p:stopped"
    print("both had their own answers")
"""

FORKS_ASYNC = """
import asyncio, os, sys
import anyio
import fabstir_client

async def theirs(client):
    for _ in range(50):
        assert (await client.call("config"))["api"]["max_batch"] == 100

async def main():
    async with fabstir_client.connect(api=sys.argv[1]) as client:
        await client.status()
        child = os.fork()
        if child == 0:
            asyncio.run(theirs(client))  # no event loop outlives a fork: the child has one of its own
            os._exit(0)
        for _ in range(50):
            assert "protocols" in await client.call("version")
        with anyio.fail_after(60):
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                await anyio.sleep(0.01)
        assert (await client.status()).version
    print("both had their own answers")

anyio.run(main)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with running_daemon() as running:
        yield running


@contextmanager
def frozen(daemon: RunningDaemon) -> Iterator[None]:
    os.kill(daemon.api["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.api["pid"], signal.SIGCONT)


@pytest.mark.parametrize("program", [FORKS, FORKS_ASYNC], ids=["blocking", "asyncio"])
@pytest.mark.parametrize("way", ["ipc", "http"])
def test_a_fork_has_connections_of_its_own(daemon: RunningDaemon, program: str, way: str) -> None:
    token = (daemon.data_dir / "api.token").read_text().strip()
    api = daemon.ipc if way == "ipc" else daemon.http
    done = subprocess.run(
        [sys.executable, "-c", program, api],
        env=environment(FABSTIR_TOKEN=token),
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("both had their own answers\n", 0), done.stderr


def _bounded(call: Callable[[], object], *errors: type[Exception]) -> None:
    began = time.monotonic()
    with pytest.raises(errors):
        call()
    assert time.monotonic() - began < GENEROUS


@pytest.mark.parametrize("way", ["ipc", "http"])
def test_the_callers_deadline_bounds_all_of_it(daemon: RunningDaemon, way: str) -> None:
    """Connecting, the handshake of a WebSocket, and waiting for the answer."""
    token = (daemon.data_dir / "api.token").read_text().strip()
    where = {"api": daemon.ipc if way == "ipc" else daemon.http, "token": token}
    peer = "12D3KooWJWEKvSFbben74C7H4YtKjhPMTDxd7gP7zxWSUEeF27st"

    async def asks_anew() -> None:
        async with fabstir_client.connect(**where) as client:  # type: ignore[arg-type]
            await client.ping(peer, timeout=1000)

    async def asks_on_an_open_connection() -> None:
        async with fabstir_client.connect(**where, bound=1) as client:  # type: ignore[arg-type]
            await client.status()
            with frozen(daemon):
                await client.status()

    with sync.connect(**where) as open_already:  # type: ignore[arg-type]
        open_already.status()
        events = open_already.events()
        events.open()
        with frozen(daemon):
            _bounded(lambda: open_already.ping(peer, timeout=1000), ClientTimeout, DaemonUnreachable)
            _bounded(lambda: open_already.call("status", bound=1), ClientTimeout, DaemonUnreachable)
            _bounded(lambda: sync.connect(**where, bound=1).status(), ClientTimeout, DaemonUnreachable)  # type: ignore[arg-type]
            _bounded(lambda: events.get(1), ClientTimeout)
            _bounded(lambda: sync.connect(**where).events().open(1), ClientTimeout, DaemonUnreachable)  # type: ignore[arg-type]
            for backend in ("asyncio", "trio"):
                _bounded(partial(anyio.run, asks_anew, backend=backend), ClientTimeout, DaemonUnreachable)
        for backend in ("asyncio", "trio"):
            _bounded(partial(anyio.run, asks_on_an_open_connection, backend=backend), ClientTimeout)


def test_wait_ends_in_its_own_time(daemon: RunningDaemon) -> None:
    with frozen(daemon):
        began = time.monotonic()
        done = run("fabstir", "--api", daemon.ipc, "wait", "started", "--timeout", "2")
        assert time.monotonic() - began < GENEROUS
    assert done.returncode == 4
    assert "did not hold within 2 s" in done.stderr


def test_a_name_that_nobody_answers_for_is_bounded_too(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises((DaemonUnreachable, ClientTimeout)):
        sync.connect(api="http://nobody.invalid:4780", bound=1).status()
    assert time.monotonic() - began < GENEROUS
