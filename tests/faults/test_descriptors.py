"""A process that may have 128 descriptors and is given more callers than that."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import trio
import trio.testing

from tests.harness import Daemon, fabstird, until
from tests.support.holding import open_files, released, settled
from tests.support.minipeer import Connection, Gone, MiniPeer, mini_peers

LIMIT = 128
CALLERS = 200
LIMITED = (
    sys.executable,
    "-c",
    f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}));"
    "os.execv(sys.argv[1], sys.argv[1:])",
)
LOUD = 5  # kinds of lines at level warning or above, at most: once a minute each


async def newly_asked(path: Path, method: str) -> dict[str, object]:
    """The answer to somebody who was not there before."""
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        await stream.send_all(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = await stream.receive_some()
            assert more, "it was cut off"
            answer += more
        result: dict[str, object] = json.loads(answer)["result"]
        return result


def assert_quiet(daemon: Daemon, began: float) -> None:
    """The log warns seldom, and its lines at level error are counted with the others."""
    loud = Counter(daemon.warnings())
    assert len(loud) <= LOUD, loud
    assert max(loud.values(), default=0) <= 1 + (trio.current_time() - began) / 60, loud
    daemon.errors.clear()


async def test_more_callers_than_descriptors(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    settings = {"connections.handshake_timeout": 30000}
    began = trio.current_time()
    async with (
        mini_peers(2) as [friend, late],
        mini_peers(CALLERS) as callers,
        fabstird(data_dir, settings, prefix=LIMITED) as daemon,
    ):
        address = daemon.address("tcp")
        link = await friend.dial(address)
        await daemon.wait_event("peer:identify", peerId=friend.peer_id)
        before = await settled(daemon)
        accepted: list[Connection] = []

        async def call(number: int, peer: MiniPeer) -> None:
            try:
                with trio.fail_after(120):
                    accepted.append(await peer.dial(address, source=f"127.0.5.{number % 20 + 1}"))
            except (Gone, OSError):
                pass  # turned away

        async with trio.open_nursery() as nursery:
            for number, peer in enumerate(callers):
                nursery.start_soon(call, number, peer)
        status = await daemon.call("status")
        print(f"{len(accepted)} of {CALLERS} were let in; {status['connections']} connections")
        assert len(accepted) >= LIMIT // 4, "the limit leaves room for more"
        for _ in range(20):
            with trio.fail_after(60):
                await newly_asked(data_dir / "api.sock", "status")
        assert not link.closed.is_set(), link.end_reason
        assert await link.ping() < 20

        for connection in accepted:
            connection.drop()
        await until(lambda: all(connection.closed.is_set() for connection in accepted))
        await released(daemon, before)
        with trio.fail_after(60):
            assert await (await late.dial(address)).ping() < 20
        # The book and api.json need descriptors too
        assert (await daemon.call("stop"))["state"] == "stopped"
        assert_quiet(daemon, began)


async def test_local_callers_who_would_take_every_descriptor(tmp_path: Path) -> None:
    """Few are let in where descriptors are few, the others are told why; the node keeps its own, and dials."""
    data_dir, began = tmp_path / "d", trio.current_time()
    async with mini_peers(2) as [friend, host], fabstird(data_dir, prefix=LIMITED) as daemon:
        address = daemon.address("tcp")
        link = await friend.dial(address)
        await daemon.wait_event("peer:identify", peerId=friend.peer_id)
        before = await settled(daemon)
        target = await host.listen()
        most = (await daemon.call("config"))["api"]["max_ipc_connections"]
        assert most < LIMIT
        async with AsyncExitStack() as stack:
            streams = [await trio.open_unix_socket(str(data_dir / "api.sock")) for _ in range(LIMIT)]
            for stream in streams:
                stack.push_async_callback(trio.aclose_forcefully, stream)
            told = 0

            async def turned_away(stream: trio.SocketStream) -> None:
                nonlocal told
                assert b'"configKey":"api.max_ipc_connections"' in await stream.receive_some()
                told += 1

            async with trio.open_nursery() as nursery:
                for stream in streams:  # whoever of those that come at once: the order is not promised
                    nursery.start_soon(turned_away, stream)
                await until(lambda: told == LIMIT - (most - 1))  # this test's first connection is one of those let in
                await trio.testing.wait_all_tasks_blocked()
                assert told == LIMIT - (most - 1)
                nursery.cancel_scope.cancel()
            assert open_files(daemon) < LIMIT
            for _ in range(20):
                assert (await daemon.call("status"))["connections"] == 1
            await daemon.call("connect", address=target)
            assert await link.ping() < 20
            await daemon.call("disconnect", peerId=host.peer_id)
        await released(daemon, before)
        assert (await newly_asked(data_dir / "api.sock", "status"))["connections"] == 1
        assert_quiet(daemon, began)
