"""Addresses that are kept for as long as whoever asked for it lives."""

from __future__ import annotations

import subprocess
import sys

import fabstir_client.sync
from tests.harness import RunningDaemon, asked_until, daemon, ipc, post, running_daemon, wait_until, ws

DEAD = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
LEASE = {"address": DEAD, "lease": "connection"}
HOLDER = """
import sys, time
from fabstir_client import P2PClient, connect_sync
with connect_sync(api=sys.argv[1]) as client:
    client.keep(sys.argv[2], lease="connection")
    print("kept", flush=True)
    time.sleep(600)
"""


async def test_a_lease_ends_with_its_connection() -> None:
    async with daemon() as running, ipc(running) as watcher:
        await running.started()

        async def dialled() -> list[str]:
            return [one["address"] for one in await watcher.call("dials")]

        async with ipc(running) as one:
            async with ws(running) as other:
                for holder in (one, other, other):
                    kept = await holder.call("peer.keep", LEASE)
                    assert (kept["kept"], kept["lease"]) == (True, "connection")
                assert await dialled() == [DEAD]
            assert await dialled() == [DEAD]  # the first one still has it
            assert (await watcher.call("peer.forget", {"target": DEAD}))["addresses"] == []
            await watcher.call("stop")
            await watcher.call("start")
            assert await dialled() == [DEAD]
            metrics = await watcher.call("metrics")
            assert metrics["bounds"]["keptAddresses"]["current"] == 1
        await asked_until(dialled, lambda found: found == [])
        async with ipc(running) as one:
            await one.call("peer.keep", LEASE)
            assert (await one.call("peer.forget", {"target": DEAD}))["addresses"] == [DEAD]
            assert await dialled() == []
            await watcher.call("stop")
            await one.call("peer.keep", LEASE)  # in any state of the node
        await watcher.call("start")
        assert await dialled() == []


async def test_who_has_no_connection_cannot_hold_a_lease() -> None:
    async with daemon({"node.auto_start": False}) as running:
        call = {"jsonrpc": "2.0", "id": 1, "method": "peer.keep", "params": LEASE}
        error = (await post(running, call)).json["error"]
        assert (error["code"], error["data"]["param"]) == (-32602, "lease")


def dials(running: RunningDaemon) -> list[str]:
    with fabstir_client.sync.connect(api=running.ipc) as client:
        return [str(one["address"]) for one in client.call("dials")]


def test_a_lease_ends_when_its_holder_is_killed() -> None:
    with running_daemon() as running:
        command = [sys.executable, "-c", HOLDER, running.ipc, DEAD]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            try:
                assert holder.stdout.readline() == "kept\n"
                wait_until(lambda: dials(running) == [DEAD], within=60)  # once the node is started
            finally:
                holder.kill()
        wait_until(lambda: dials(running) == [])


def test_a_shared_node_is_left_as_it_is() -> None:
    """Two applications on one node, and neither stops it, configures it or keeps anything for longer than it lives."""
    with running_daemon() as running, fabstir_client.sync.connect(api=running.ipc) as client:
        wait_until(lambda: client.status().state == "started", within=60)
        before = client.status()
        shared = {"api": running.ipc, "shared": True}
        one = fabstir_client.sync.P2PClient({"bootstrapNodes": [DEAD], "dialTimeout": 77}, **shared)
        other = fabstir_client.sync.FabstirSDK("production", {"bootstrapNodes": [DEAD]}, **shared)
        told: list[str] = []
        for name in ("p2p:started", "p2p:stopped"):
            other.on(name, lambda payload, name=name: told.append(name))
        with one:
            with other:
                assert one.is_started()
                assert other.is_p2p_connected()
                assert dials(running) == [DEAD]
                assert client.status().bootstrap_nodes == before.bootstrap_nodes
            assert told == ["p2p:started", "p2p:stopped"]
            assert not other.is_p2p_connected()
            assert dials(running) == [DEAD]  # the other application is still there
        wait_until(lambda: dials(running) == [])
        status = client.status()
        assert (status.state, status.start_time) == ("started", before.start_time)
        client.stop()
        with fabstir_client.sync.P2PClient(shared=True, api=running.ipc) as third:
            assert third.is_started()
        assert client.status().state == "started"


def test_leases_are_taken_again_after_the_daemon_was_killed() -> None:
    with (
        running_daemon() as running,
        fabstir_client.sync.P2PClient({"bootstrapNodes": [DEAD]}, api=running.ipc, shared=True),
    ):
        assert dials(running) == [DEAD]
        running.kill()
        running.start()
        wait_until(lambda: dials(running) == [DEAD], within=60)
