"""The programs of examples/streams, run between two real daemons."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.conftest import leave_out
from tests.harness import Process, daemon, ipc

EXAMPLES = Path(__file__).parents[2] / "examples" / "streams"
DOCUMENT = Path(__file__).parents[2] / "docs" / "streams.md"
PATIENCE = 60


@contextmanager
def serving(program: str, running: Process, says: str) -> Iterator[subprocess.Popen[str]]:
    """One of the examples, once it has said that it serves."""
    python = program.endswith(".py")
    where = str(running.data_dir) if python else str(running.api["ipc"])
    command = [sys.executable if python else "node", str(EXAMPLES / program), where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline().startswith(says)
            yield server
        finally:
            server.kill()


async def run(*command: str, **environ: str) -> str:
    env = {**os.environ, **environ}
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("program", "ends"), [("token_server.py", "had enough: peer_reset"), ("token_server.mjs", ": peer_reset")]
)
async def test_a_token_server_and_its_clients(program: str, ends: str, pytestconfig: pytest.Config) -> None:
    """The whole one, and the one that the document shows: either has the server stop."""
    if program.endswith(".mjs") and shutil.which("node") is None:
        leave_out(pytestconfig, "js", "there is no `node` here")
    (*_, shown) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    async with daemon() as one, daemon() as other:
        peer_id = await joined(one, other)
        with serving(program, other, "serving") as server, trio.fail_after(PATIENCE):
            assert server.stdout is not None
            client = str(EXAMPLES / "token_client.py")
            said = await run(sys.executable, client, peer_id, "to be or not", str(one.data_dir))
            assert said == "['to-0', 'be-1', 'or-2', 'not-3', 'to-4']\n"
            assert (await trio.to_thread.run_sync(server.stdout.readline)).endswith("asks: to be or not\n")
            assert (await trio.to_thread.run_sync(server.stdout.readline)).endswith(f"{ends}\n")
            said = await run(sys.executable, "-c", shown, peer_id, FABSTIR_API=f"ipc:{one.api['ipc']}")
            assert said.startswith("what-0\na-1\nfine-2\nday-3\nwhat-4\n")
            assert said.count("\n") < 1000, "it has not stopped the server"
            assert (await trio.to_thread.run_sync(server.stdout.readline)).endswith("asks: what a fine day\n")
            assert (await trio.to_thread.run_sync(server.stdout.readline)).endswith(f"{ends}\n")


@pytest.mark.parametrize("program", ["echo.sh", "echo.mjs"])
async def test_echo(program: str, pytestconfig: pytest.Config) -> None:
    tool = {"echo.sh": "nc", "echo.mjs": "node"}[program]
    if shutil.which(tool) is None:
        leave_out(pytestconfig, "js" if tool == "node" else tool, f"there is no `{tool}` here")
    interpreter = {"echo.sh": "bash", "echo.mjs": "node"}[program]
    async with daemon() as one, daemon() as other:
        peer_id = await joined(one, other)
        with serving("echo.py", other, "echoing"), trio.fail_after(PATIENCE):
            assert await run(interpreter, str(EXAMPLES / program), one.api["ipc"], peer_id) == "hello\n"


def test_the_document_shows_what_the_examples_do() -> None:
    shown = DOCUMENT.read_text()
    (echo,) = re.findall(r"def echo.*?\n\n\n", shown, re.DOTALL)
    assert echo in (EXAMPLES / "echo.py").read_text()
    for file in re.findall(r"\(\.\./examples/streams/(\S+)\)", shown):
        assert (EXAMPLES / file).exists()


async def joined(one: Process, other: Process) -> str:
    """Connect the first to the second; the second one's peer id."""
    await one.started()
    await other.started()
    async with ipc(one) as here, ipc(other) as there:
        status = await there.call("status")
        await here.call("connect", {"address": status["listenAddresses"][0]})
    return str(status["peerId"])
