"""The wall: every task below the node, and every task of a caller, stands in a fence or is one of the daemon's own; and
a defect in any of them ends what it was about, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstir_client.api.errors import DialFailed, FabstirError
from fabstir_client.api.tunnels import TunnelForwardParams
from fabstird.config import Config, ConnectionsConfig, NodeConfig
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p.dht import engine
from fabstird.p2p.host import host as host_module
from fabstird.p2p.host import identify_message, streams
from fabstird.p2p.host.identify import Identify
from fabstird.p2p.mdns import discovery
from fabstird.p2p.nat import autonat, relay
from fabstird.p2p.nat.portmap import mapper
from fabstird.p2p.net import link as link_module
from fabstird.p2p.net import outbound
from fabstird.p2p.node import Node
from fabstird.p2p.peers import book, keepalive
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.tunnels import manager
from fabstird.p2p.wire.errors import ConnectionLost
from tests import harness
from tests.harness import Json, asked_until, until
from tests.support.minipeer import Stage, Stream, StreamReset, mini_peer, mini_peers, parse_address
from tests.support.ports import black_hole

STRANGER = Identity.from_seed(bytes([7]) * 32).peer_id
KAD = "/ipfs/kad/1.0.0"
THROUGH = "/tunnel/1"
FENCES = {"Fence.run", "Fence._again", "Fence._until_started"}

# The daemon's own: no byte of a stranger's or a caller's is looked at in these, and a defect in them ends the process.
OWN = {
    "run",  # fabstird.daemon's
    "Node.serve",  # its states, and in it `Connections.run`, which carries out the plan
    "Connections._watch_clock",
    "Swarm._accept",
    "Beat.run",  # due times; what goes wrong at a connection's turn ends that connection
    "serve_listeners",  # trio's; what is accepted is handed to a fence
    "_serve_one_listener",
    "Fanout._run",
    "Supervised.run",
    "Supervised._tell",
    "Canary.run",
    "_serve",  # HTTP's listener
    "_accept",
    "Lifespan.handle_lifespan",
    "_begin",
    "Tunnels.serve",  # waits; what comes through a tunnel is handed to a fence
    "Tunnels._add.<locals>.run",  # a tunnel's listener
}


def outside(tasks: list[Json]) -> Iterator[str]:
    """The tasks of a tree that stand neither in a fence nor among the daemon's own."""
    above: list[bool] = []  # by depth: that task stands in a fence
    for task in tasks:
        calls = [line.split(" ")[-1] for line in task["stack"]]
        if calls[:1] == ["_run_handler"]:  # trio's frame around whatever was accepted
            del calls[0]
        del above[task["depth"] :]
        fenced = any(above) or bool(FENCES & set(calls[:1]))
        above.append(fenced)
        if task["depth"] >= 2 and not fenced and calls and calls[0] not in OWN:
            yield f"{task['name']}: {' > '.join(calls)}"


async def test_every_task_stands_in_a_fence_or_is_one_of_the_daemons_own() -> None:
    async def silent(stream: Stream) -> None:
        await trio.sleep_forever()

    with black_hole() as port:
        async with mini_peers(4) as [caller, called, relaying, slow]:
            called.handle(KAD, silent)
            called.handle(THROUGH, silent)
            settings = {
                "node.enable_dht": True,
                "node.enable_mdns": True,
                "node.bootstrap_nodes": [f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"],
                "relay.nodes": [await relaying.listen()],
                "dht.mode": "server",
                "api.bridge": True,
            }
            async with harness.daemon(settings) as daemon, harness.ipc(daemon) as connection, harness.ws(daemon) as ws:
                await daemon.started()
                [address] = (await connection.call("status"))["listenAddresses"]
                link = await caller.dial(address)
                held = [await link.open_stream(protocol) for protocol in (None, KAD)]
                await slow.dial(address, hold=Stage.NOISE)
                await connection.call("connect", [await called.listen()])
                forward = {"peerId": called.peer_id, "protocol": THROUGH, "listen": "127.0.0.1:0"}
                port_of_it = int((await connection.call("tunnel.forward", forward))["listen"].rpartition(":")[2])
                program = await trio.open_tcp_stream("127.0.0.1", port_of_it)
                await connection.call("subscribe", [])
                await ws.call("subscribe", [])
                await asked_until(
                    lambda: connection.call("dht.status"), lambda status: status["peers"] or status["asked"]
                )
                await connection.send({"jsonrpc": "2.0", "id": "w", "method": "wait", "params": {"peers": 9}})
                async with harness.ipc(daemon) as other:
                    await other.send({"jsonrpc": "2.0", "id": "g", "method": "dht.get_value", "params": {"key": "x"}})
                    looks, names, calls = 0, set[str](), set[str]()
                    wanted = {"_serve", "_hold", "_maintain", "_dial_nearby", "keep_saved", "keep_in_use", "_handle"}
                    wanted |= {"_keep_reaching"}  # without these the test would prove nothing
                    with trio.move_on_after(120):
                        while looks < 20 or not wanted <= names or "_carry" not in calls:  # tasks come and go
                            tasks = (await ws.call("debug.tasks"))["tasks"]
                            assert list(outside(tasks)) == []
                            names |= {task["name"].rpartition(".")[2] for task in tasks}
                            calls |= {line.rpartition(".")[2] for task in tasks for line in task["stack"]}
                            looks += 1
                            await trio.sleep(0.1)
                assert wanted <= names, wanted - names
                assert "_carry" in calls, "nor is anything carried through a tunnel"
                await program.aclose()
                for stream in held:
                    await stream.reset()


def test_a_bare_task_is_found() -> None:
    tree = [
        {"name": "init", "depth": 0, "stack": ["a.py:1 init"]},
        {"name": "main", "depth": 1, "stack": ["a.py:1 run"]},
        {"name": "Node.serve", "depth": 2, "stack": ["a.py:1 Node.serve"]},
        {"name": "_hear", "depth": 3, "stack": ["a.py:1 Fence.run", "a.py:2 Mdns._hear"]},
        {"name": "inner", "depth": 4, "stack": ["a.py:1 read"]},
        {"name": "bare", "depth": 3, "stack": ["a.py:1 Mdns._ask", "a.py:2 Fence.run"]},
        {"name": "below", "depth": 4, "stack": ["a.py:1 read"]},
        {"name": "accepted", "depth": 3, "stack": ["trio.py:1 _run_handler", "a.py:2 Fence.run"]},
    ]
    assert [line.split(":")[0] for line in outside(tree)] == ["bare", "below"]


# --------------------------------------------------------------------------------------------------------------------
# Defects


def defect(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a defect")


DEFECTS: list[tuple[str, object, str]] = [
    ("stream", identify_message, "read"),
    ("identify", Identify, "_learn"),
    ("stream", streams, "_Known"),
    ("connection", link_module.Link, "part"),
    ("connection", Connections, "disconnected"),
    ("connection", Connections, "connected"),
    ("dial", outbound.Outbound, "dial"),
    ("dht", engine.Engine, "_maintain"),
    ("dht", engine.Engine, "_review"),
    ("mdns", discovery, "interfaces"),
    ("mdns", discovery.Mdns, "_dial_nearby"),
    ("autonat", autonat.AutoNat, "_candidates"),
    ("relay", relay.Relays, "run"),
    ("portmap", mapper.PortMapper, "_round"),
    ("keepalive", host_module.Host, "identify_again"),
    ("book", book.Book, "keep_saved"),
]


@pytest.mark.parametrize(("kind", "owner", "name"), DEFECTS, ids=[f"{kind}-{name}" for kind, _, name in DEFECTS])
async def test_a_defect_ends_what_it_is_about_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, owner: object, name: str
) -> None:
    for module, interval in ((book, "SAVE_INTERVAL"), (autonat, "LOOK"), (keepalive, "RECONSIDER")):
        monkeypatch.setattr(module, interval, 0.05)
    config = Config(
        node=NodeConfig(listen_addresses=("/ip4/127.0.0.1/tcp/0",), enable_mdns=True, enable_dht=True),
        connections=ConnectionsConfig(idle_refresh=50),
    )
    events = EventLog(100)
    node = Node(config, Identity.from_seed(bytes(32)), events, Counters(), Book(tmp_path / "peers.json"))
    async with mini_peer() as peer, trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, defect)
            nursery.start_soon(node.serve)
            await node.start()
            link = await peer.dial(node.view.listen_addresses()[0])
            if kind == "dial":
                with pytest.raises(DialFailed, match="its log"):
                    await node.run().commands.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}", 5000)
            elif kind == "connection":
                link.drop()
            elif owner is streams:
                with pytest.raises(StreamReset):
                    await link.ping()
            await until(lambda: node.fence.caught[kind])
            assert {one for one, count in node.fence.caught.items() if count} == {kind}
        assert node.state == "started"
        # It goes on for everybody else
        async with mini_peer() as other:
            again = await other.dial(node.view.listen_addresses()[0])
            assert await again.ping() < 30
        await node.stop()
        nursery.cancel_scope.cancel()


async def test_a_defect_in_a_tunnel_ends_what_came_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = NodeConfig(listen_addresses=("/ip4/127.0.0.1/tcp/0",), enable_mdns=False)
    node = Node(
        Config(node=settings), Identity.from_seed(bytes(32)), EventLog(9), Counters(), Book(tmp_path / "peers.json")
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        await node.start()
        tunnels = (await node.shared()).tunnels
        nursery.start_soon(tunnels.serve)
        for name in ("open", "connect"):
            monkeypatch.setattr(manager.Tunnels, name, defect)
        holder = object()
        [_, end] = [await tunnels.forward(TunnelForwardParams(STRANGER, THROUGH, "127.0.0.1:0"), holder) for _ in "12"]
        assert end.listen is not None
        for _ in range(2):  # and the next one is taken as well
            async with await trio.open_tcp_stream("127.0.0.1", int(end.listen.rpartition(":")[2])) as program:
                with pytest.raises(trio.BrokenResourceError):
                    await program.receive_some()
        await until(lambda: node.fence.caught["stream"] == 2 and node.fence.caught["dial"] >= 2)
        monkeypatch.setattr(manager.Tunnels, "close", defect)
        tunnels.release(holder)
        await until(lambda: node.fence.caught["caller"] == 2)
        assert node.state == "started"
        await node.stop()
        nursery.cancel_scope.cancel()


async def test_a_defect_of_the_nodes_own_loop_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loudly: without its plan a daemon would look alive and do nothing."""
    node = Node(Config(), Identity.from_seed(bytes(32)), EventLog(9), Counters(), Book(tmp_path / "peers.json"))
    monkeypatch.setattr("fabstird.p2p.peers.policy.plan", defect)
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.serve)
            await node.start({"listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "enableMDNS": False})
            await trio.sleep_forever()


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_a_stop_at_the_moment_in_which_a_handshake_fails_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """Nurseries put the cancellation and the error into one group, which is no `Exception`."""
    begun = trio.Event()

    async def fail_when_cancelled(_: object, nursery: trio.Nursery, *__: object) -> None:
        nursery.start_soon(trio.sleep_forever)  # as the reader of a WebSocket
        begun.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise ConnectionLost("closed at that moment") from None

    monkeypatch.setattr(outbound.sockets, "accept" if direction == "inbound" else "dial", fail_when_cancelled)
    config = Config(node=NodeConfig(listen_addresses=("/ip4/127.0.0.1/tcp/0",)))
    node = Node(config, Identity.from_seed(bytes(32)), EventLog(100), Counters(), Book(tmp_path / "peers.json"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        await node.start()

        async def dial() -> None:
            with suppress(FabstirError):
                await node.run().commands.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}", 60000)

        if direction == "inbound":
            host, port, _ = parse_address(node.view.listen_addresses()[0])
            stream = await trio.open_tcp_stream(host, port)
        else:
            nursery.start_soon(dial)
        await begun.wait()
        await node.stop()
        assert not any(node.fence.caught.values()), node.fence.caught
        if direction == "inbound":
            await stream.aclose()
        nursery.cancel_scope.cancel()
