"""What docs/from-the-mock.md shows of tunnels, as a reader would run it: the commands on two machines, and a WebSocket
client of today that knows nothing of any of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.clients import toolbox
from tests.clients.toolbox import ROOT, Tools
from tests.harness import RunningDaemon, running_daemon

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ADDRESS = f"/dns4/host.example/tcp/4001/p2p/{PEER}"
TOKENS = 5000


def section() -> str:
    text = (ROOT / "docs" / "from-the-mock.md").read_text()
    return text.split("## A client that stays as it is\n")[1].split("\n## ")[0]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", section(), re.S)


@contextmanager
def host() -> Iterator[int]:
    """The port of a server of today: it answers a prompt with tokens, one a message, and closes."""

    def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        prompt = connection.recv()
        connection.send(f"{connection.request.path} {prompt}")
        for number in range(TOKENS):
            connection.send(f"token {number}")

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def fabstir(running: RunningDaemon, line: str) -> str:
    words = shlex.split(line.removeprefix("$ fabstir "))
    command = [sys.executable, "-m", "fabstir_client", "--data-dir", str(running.data_dir), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("major", ["22"])  # the first that has WebSocket of its own
def test_a_client_that_stays_as_it_is(tools: Tools, major: str) -> None:
    on_host, on_client = blocks("console")
    [script] = blocks("js")
    with running_daemon() as far, running_daemon() as near, host() as port:
        [listen] = on_host.splitlines()
        fabstir(far, listen.replace(":8080", f":{port}"))
        [address] = [one for one in fabstir(far, "$ fabstir addresses").split() if "127.0.0.1" in one][:1]
        connect, forward = on_client.splitlines()
        fabstir(near, connect.replace(ADDRESS, address))
        told = fabstir(near, forward.replace(PEER, address.rpartition("/")[2]).replace(":8090", ":0"))
        found = re.search(r"127\.0\.0\.1:(\d+)", told)
        assert found is not None, told
        words = [tools.node(major), "-e", script.replace(":8090", f":{found[1]}")]
        lines = toolbox.run(words, ROOT).splitlines()
    assert lines[0] == '/v1/ws {"type":"prompt","text":"hello"}'
    assert lines[1:-1] == [f"token {number}" for number in range(TOKENS)]
    assert lines[-1] == "closed with 1000"
