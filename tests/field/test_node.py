"""The node across restarts, kills and dead ends: what was answered is on disk, ports stay, known peers are tried."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.field.commands import run
from tests.harness import ANSWER, OWN, daemon, ipc, process, until

QUIET = {"node.auto_start": False}
ALONE = {"node.enable_dht": False, "node.enable_mdns": False}
NOBODY = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def data_dir(short: str) -> Path:
    return Path(short) / "data"


async def test_what_was_answered_survives_a_kill() -> None:
    """SIGKILL right behind the answer, for everything that is kept."""
    address = f"/ip4/192.0.2.1/tcp/4001/p2p/{NOBODY}"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("peer.keep", {"address": address}),
        ("peer.ban", {"target": "192.0.2.9"}),
        ("token.create", {"name": "app", "access": "read"}),
        ("tunnel.listen", {"protocol": "/x/1", "target": "127.0.0.1:22", "keep": True}),
    ]
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        for method, params in calls:
            with process(QUIET, data_dir=data_dir(short)) as running:
                await running.ready()
                async with ipc(running) as connection:
                    await connection.call(method, params)
                    running.popen.kill()
        async with daemon(QUIET, data_dir=data_dir(short)) as running, ipc(running) as connection:
            assert (await connection.call("peer.explain", {"target": NOBODY}))["kept"]
            assert [one["target"] for one in await connection.call("peer.bans")] == ["192.0.2.9/32"]
            assert [one["name"] for one in (await connection.call("token.list"))] == ["app"]
            assert [one["protocol"] for one in await connection.call("tunnel.list")] == ["/x/1"]


async def test_the_longest_of_everything_is_read_again() -> None:
    """A file with a number or a size that the next start does not take would be set aside, with all that is in it."""
    longest = 2**53 - 1
    calls: list[tuple[str, dict[str, Any]]] = [
        ("peer.ban", {"target": "192.0.2.9", "duration": longest, "reason": "\x01" * 1000}),
        ("peer.ban", {"target": NOBODY, "duration": longest}),
        ("token.create", {"name": "a" * 64, "access": "read", "expiresIn": longest // 1000}),
    ]
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        async with daemon(QUIET, data_dir=data_dir(short)) as running, ipc(running) as connection:
            for method, params in calls:
                await connection.call(method, params)
            before = await connection.call("peer.bans"), await connection.call("token.list")
            assert [one["until"] for one in before[0]] == [longest, longest]
        async with daemon(QUIET, data_dir=data_dir(short)) as running, ipc(running) as connection:
            assert (await connection.call("peer.bans"), await connection.call("token.list")) == before
            assert not list(data_dir(short).glob("*.damaged-*"))


async def test_a_chosen_port_is_kept() -> None:
    """Across restarts, stops and kills; another, with a warning, where somebody has taken it meanwhile."""
    settings = {**ALONE, "node.listen_addresses": ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]}
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        async with daemon(settings, data_dir=data_dir(short)) as running, ipc(running) as connection:
            first = (await connection.call("wait", {"state": "started", "timeout": 30000}))["status"]["listenAddresses"]
            await connection.call("stop")
            assert (await connection.call("start"))["listenAddresses"] == first
        with process(settings, data_dir=data_dir(short)) as running:
            await running.started()
            async with ipc(running) as connection:
                assert (await connection.call("status"))["listenAddresses"] == first
        port = int(first[0].split("/")[4])
        taken = listening(port)
        async with taken, daemon(settings, data_dir=data_dir(short)) as running, ipc(running) as connection:
            await running.line("the port of the last run is taken; another is chosen", port=port)
            found = await connection.call("wait", {"state": "started", "timeout": 30000})
            assert found["status"]["listenAddresses"][0] != first[0]
            assert found["status"]["listenAddresses"][1] == first[1]
        damaged = data_dir(short) / "ports.json"
        damaged.write_bytes(b'{"version":1,"ports":{"/ip4/127.0.0.1/tcp/0":[99999999, -1, "x"]}}')
        async with daemon(settings, data_dir=data_dir(short)) as running:
            await running.started()
            assert list(data_dir(short).glob("ports.json.damaged-*"))


async def test_tcp_and_quic_have_one_port() -> None:
    """A port that is chosen is the same for both, where it is free; what two TCP listeners have stays apart."""
    tcp, ws, quic = (f"/ip4/127.0.0.1/{one}" for one in ("tcp/0", "tcp/0/ws", "udp/0/quic-v1"))
    settings = {**ALONE, "node.listen_addresses": [tcp, ws, quic]}
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        async with daemon(settings, data_dir=data_dir(short)) as running, ipc(running) as connection:
            first = (await connection.call("wait", {"state": "started", "timeout": 60000}))["status"]["listenAddresses"]
            ports = [address.split("/")[4] for address in first]
            assert ports[0] == ports[2] != ports[1]
        async with daemon(settings, data_dir=data_dir(short)) as running, ipc(running) as connection:
            found = await connection.call("wait", {"state": "started", "timeout": 60000})
            assert found["status"]["listenAddresses"] == first
    backwards = {**ALONE, "node.listen_addresses": [quic, tcp]}
    async with daemon(backwards) as running, ipc(running) as connection:
        found = await connection.call("wait", {"state": "started", "timeout": 60000})
        assert len({address.split("/")[4] for address in found["status"]["listenAddresses"]}) == 1


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[None]:
    """Somebody else."""
    [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with listener:
        yield


async def test_known_peers_are_tried_where_there_is_nobody_else() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:
        async with daemon(ALONE) as other, ipc(other) as there:
            status = (await there.call("wait", {"state": "started", "timeout": 30000}))["status"]
            async with daemon(ALONE, data_dir=data_dir(short)) as running, ipc(running) as connection:
                await connection.call("wait", {"state": "started", "timeout": 30000})
                await connection.call("connect", {"address": status["listenAddresses"][0]})
                await connection.call("wait", {"protocol": "/ipfs/ping/1.0.0", "timeout": 30000})
            async with daemon(ALONE, data_dir=data_dir(short)) as running, ipc(running) as connection:
                await connection.call("wait", {"peerId": status["peerId"], "timeout": 30000})
            # With a bootstrap node, however dead, the operator has said whom to ask
            dead = f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}"
            settings = {**ALONE, "node.bootstrap_nodes": [dead], "node.max_retries": 0}
            async with daemon(settings, data_dir=data_dir(short)) as running, ipc(running) as connection:
                await running.line("connection:failed")
                assert (await connection.call("status"))["peers"] == 0


async def test_dead_bootstrap_nodes_are_warned_of_once_a_minute() -> None:
    dead = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}" for port in (1, 2)]
    settings = {**ALONE, "node.bootstrap_nodes": dead, "node.max_retries": 0, "node.keepalive_interval": 100}

    def about(address: str, level: str) -> list[Any]:
        lines = [one for one in running.lines() if one["event"] == "connection:failed" and one["address"] == address]
        return [one for one in lines if one["level"] == level]

    async with daemon(settings) as running:
        for address in dead:
            await until(lambda one=address: len(about(one, "info")) > 1, within=ANSWER)  # type: ignore[misc]
            assert len(about(address, "warning")) == 1


async def test_a_daemon_that_starts_does_not_look_stopped() -> None:
    """From its first answer on, libp2p not yet imported."""
    with process(ALONE) as running:
        states = []
        async with await reached(str(running.data_dir / "api.sock")) as stream:
            with trio.fail_after(ANSWER):
                while "started" not in states:
                    await stream.send_all(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
                    received = b""
                    while not received.endswith(b"\n"):
                        received += await stream.receive_some()
                    states.append(json.loads(received)["result"]["state"])
                    await trio.sleep(0.01)
        assert set(states) <= {"starting", "started"}
        await running.stop()


async def reached(path: str) -> trio.SocketStream:
    """A connection to the socket there, as soon as it listens."""
    with trio.fail_after(ANSWER):
        while True:
            try:
                return await trio.open_unix_socket(path)
            except (FileNotFoundError, ConnectionRefusedError):  # it is bound before it listens
                await trio.sleep(0.005)


async def test_two_dumps_within_a_second_both_stay() -> None:
    async with daemon({**QUIET, **OWN}) as running:
        with tempfile.TemporaryDirectory() as folder:

            def dump() -> subprocess.CompletedProcess[str]:
                return run("fabstir", "--api", f"ipc:{running.api['ipc']}", "dump", cwd=folder)

            for _ in range(3):
                done = await trio.to_thread.run_sync(dump)
                assert done.returncode == 0, done.stderr
            assert len(os.listdir(folder)) == 3
