"""Who may call what over IPC, where the kernel says who calls: real daemons, real users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.harness import OWN, Json, Process, command, daemon, environment, ipc

NOBODY, NOGROUP = 65534, 65534

# Becomes another user, sends the lines that it is given, and prints the answers: argv is socket, uid, gid, groups
AS_USER = """
import json, os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(path)
    for line in sys.stdin.buffer:
        sock.sendall(line)
        answer = b""
        while not answer.endswith(b"\\n"):
            answer += sock.recv(65536) or sys.exit("closed")
        sys.stdout.buffer.write(answer); sys.stdout.flush()
"""


class User:
    """A connection over IPC of another user of the machine."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid

    async def answer(self, method: str, params: Any = None) -> Json:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or []}

        def ask() -> bytes:
            assert self._popen.stdin is not None
            assert self._popen.stdout is not None
            self._popen.stdin.write(json.dumps(message).encode() + b"\n")
            self._popen.stdin.flush()
            return self._popen.stdout.readline()

        answer: Json = json.loads(await trio.to_thread.run_sync(ask))
        return answer

    async def allowed(self) -> set[str]:
        """Which levels it has, found by calls that need them and change nothing."""
        asked = {"read": "version", "write": "start", "admin": "token.list"}
        return {level for level, method in asked.items() if "result" in await self.answer(method)}


@asynccontextmanager
async def as_user(running: Process, uid: int, gid: int, groups: tuple[int, ...] = ()) -> AsyncIterator[User]:
    words = [sys.executable, "-c", AS_USER, running.api["ipc"], str(uid), str(gid), json.dumps(groups)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:  # noqa: ASYNC220 - only starts
        try:
            yield User(popen)
        finally:
            popen.kill()


@pytest.fixture
def socket_for_all() -> Iterator[dict[str, Any]]:
    """Settings of a daemon whose socket other users can reach."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        os.chmod(short, 0o755)
        yield {"api.ipc": str(Path(short) / "api.sock"), "api.ipc_mode": "0666"}


@pytest.mark.usefixtures("root")
async def test_users_have_what_they_are_to_the_socket(socket_for_all: dict[str, Any]) -> None:
    async with daemon(socket_for_all) as running:
        await running.started()
        group = os.stat(running.api["ipc"]).st_gid
        levels = {}
        people = {
            "root": (0, NOGROUP, ()),
            "in the group": (NOBODY, group, ()),
            "in the group besides": (NOBODY, NOGROUP, (1, 2, 3, group)),
            "neither": (NOBODY, NOGROUP, ()),
        }
        for name, who in people.items():
            async with as_user(running, *who) as user:
                levels[name] = await user.allowed()
        assert levels == {
            "root": {"read", "write", "admin"},
            "in the group": {"read", "write"},
            "in the group besides": {"read", "write"},
            "neither": {"read"},
        }


@pytest.mark.usefixtures("root")
async def test_the_user_of_the_daemon_is_its_administrator(socket_for_all: dict[str, Any]) -> None:
    """A daemon that runs as somebody else than root: that user, and root, may do everything."""
    directory = Path(socket_for_all["api.ipc"]).parent
    data_dir, log = directory / "data", directory / "log"
    os.chown(directory, NOBODY, NOGROUP)
    # It may read this tree, which may lie in a directory of root's
    rights = ("--inh-caps=+dac_read_search,+dac_override", "--ambient-caps=+dac_read_search,+dac_override")
    switch = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups", *rights]
    with log.open("wb") as stderr:
        popen = subprocess.Popen(  # noqa: ASYNC220 - only starts it
            [*switch, *command(data_dir, {**OWN, **socket_for_all})], stderr=stderr, env=environment()
        )
    running = Process(popen, data_dir, log)
    try:
        await running.started()
        levels = []
        for uid, gid in ((NOBODY, NOGROUP), (0, 0), (NOBODY - 1, NOGROUP), (NOBODY - 1, NOGROUP - 1)):
            async with as_user(running, uid, gid) as user:
                levels.append(await user.allowed())
        assert levels == [{"read", "write", "admin"}, {"read", "write", "admin"}, {"read", "write"}, {"read"}]
        await running.stop()
    finally:
        running.end()


@pytest.mark.usefixtures("root")
async def test_a_refusal_says_what_is_needed_and_what_to_do(socket_for_all: dict[str, Any]) -> None:
    async with daemon(socket_for_all) as running:
        group = os.stat(running.api["ipc"]).st_gid
        async with as_user(running, NOBODY, group) as user:
            error = (await user.answer("shutdown"))["error"]
            assert error["code"] == -32008
            assert error["data"] == {
                "code": "FORBIDDEN",
                "retryable": False,
                "method": "shutdown",
                "needed": "admin",
                "granted": "write",
            }
            assert "[api] ipc_group_access" in error["message"]
            assert user.pid != os.getpid()
            async with ipc(running) as connection:
                (refused,) = (await connection.call("audit"))["entries"]
            assert (refused["method"], refused["outcome"]) == ("shutdown", "FORBIDDEN")
            assert (refused["uid"], refused["pid"], refused["transport"]) == (NOBODY, user.pid, "ipc")


@pytest.mark.usefixtures("root")
async def test_the_access_of_the_group_changes_while_it_is_connected(
    socket_for_all: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[api]\nipc_group_access = "read"\n')
    async with daemon(socket_for_all, arguments=("--config", str(file))) as running:
        await running.started()
        group = os.stat(running.api["ipc"]).st_gid
        async with as_user(running, NOBODY, group) as user:
            assert await user.allowed() == {"read"}
            for level, expected in (("admin", {"read", "write", "admin"}), ("write", {"read", "write"})):
                before = len(running.lines())
                file.write_text(f'[api]\nipc_group_access = "{level}"\n')
                os.kill(running.pid, signal.SIGHUP)
                await running.line("configuration reloaded", after=before)
                assert await user.allowed() == expected
