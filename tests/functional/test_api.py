"""The whole API of a real daemon, over IPC, POST /rpc and WebSocket alike."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import trio

from fabstir_client.api import types
from fabstird import __version__
from fabstird.config import Config
from tests.functional.asking import (
    STATUS,
    STRANGER,
    STREAMS,
    TRANSPORTS,
    asking,
    connecting,
    error,
    held,
    keys,
    request,
    result,
)
from tests.harness import Json, Process, ipc, post
from tests.support.minipeer import mini_peer, mini_peers
from tests.support.ports import refusing_port

# --------------------------------------------------------------------------------------------------------------------
# Every method, by name and by position

PEER = "peerId direction connectedAt addresses connections protocols tags protected bootstrap bytesIn bytesOut"
CONNECTION = "address direction openedAt transport security muxer streams bytesIn bytesOut"
METHODS = (
    "start stop status peers addresses metrics connect disconnect ping subscribe unsubscribe events config version "
    "shutdown rpc.discover peer.tag peer.untag peer.protect peer.unprotect peer.ban peer.unban peer.bans peer.keep "
    "peer.forget peer.explain"
)
METRICS = (
    "connected peerId connections totalPeers connectedPeers listenAddresses bootstrapNodes "
    "failedConnections successfulConnections inboundConnections outboundConnections retries"
)


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by position"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_method_gives_what_the_contract_says(plain: Process, transport: str, by_name: bool) -> None:
    def params(**named: Any) -> Any:
        return named if by_name else list(named.values())

    async with asking(plain, transport) as ask, mini_peer(agent="mini/7") as peer:
        address = await peer.listen()

        status = await result(ask, "start", params(config={}))
        held(status, types.Status)
        keys(status, f"{STATUS} startTime uptime", "error")
        assert (status["state"], status["connected"]) == ("started", True)
        own = status["peerId"]
        assert (status["connections"], status["peers"]) == (0, 0)
        assert status["version"] == __version__
        assert status["epoch"] == plain.api["epoch"]
        assert all(one.endswith(f"/p2p/{own}") and "/tcp/0/" not in one for one in status["listenAddresses"])

        connected = await result(ask, "connect", params(address=address, timeout=30000))
        assert connected == {
            "peerId": peer.peer_id,
            "address": address,
            "direction": "outbound",
            "alreadyConnected": False,
        }
        held(connected, types.ConnectResult)
        again = await result(ask, "connect", params(address=peer.peer_id))
        assert again == {**connected, "alreadyConnected": True}

        head = (await result(ask, "status", None))["head"]
        events = await result(
            ask, "events", params(after=head - 1, epoch=status["epoch"], types=None, limit=1, timeout=0)
        )
        held(events, types.EventsResult)
        keys(events, "epoch head events missed")
        keys(events["events"][0], "epoch seq time type data")
        assert (events["events"][0]["seq"], events["missed"]) == (head, 0)

        async def identified() -> Any:
            found = await result(ask, "peers", params())
            held(found, list[types.Peer])
            return found[0] if "agentVersion" in found[0] else None

        entry = None
        with trio.fail_after(60):
            while entry is None:
                entry = await identified()
        keys(entry, f"{PEER} agentVersion protocolVersion", "latency")
        keys(entry["connections"][0], CONNECTION)
        assert (entry["peerId"], entry["agentVersion"], entry["direction"]) == (peer.peer_id, "mini/7", "outbound")
        link = entry["connections"][0]
        assert (link["address"], link["transport"], link["security"], link["muxer"]) == (
            address,
            "tcp",
            "/noise",
            "/yamux/1.0.0",
        )
        assert address in entry["addresses"]
        assert "/ipfs/id/1.0.0" in entry["protocols"]

        found = await result(ask, "addresses", params())
        held(found, types.Addresses)
        keys(found, "peerId listen announced observed reachability portMapping")
        assert (found["peerId"], found["listen"]) == (own, status["listenAddresses"])

        metrics = await result(ask, "metrics", params())
        held(metrics, types.Metrics)
        assert set(f"{METRICS} startTime uptime".split()) <= set(metrics)
        assert (metrics["connected"], metrics["connections"], metrics["totalPeers"]) == (True, 1, 1)
        assert metrics["connectedPeers"] == [peer.peer_id]
        assert metrics["outboundConnections"] + metrics["inboundConnections"] == metrics["successfulConnections"] > 0
        keys(metrics["mdns"], "sent sendFailed received garbage throttled")

        pong = await result(ask, "ping", params(peerId=peer.peer_id, timeout=30000))
        held(pong, types.PingResult)
        assert pong["peerId"] == peer.peer_id
        assert 0 < pong["rtt"] < 30000

        gone = await result(ask, "disconnect", params(peerId=peer.peer_id))
        assert held(gone, types.DisconnectResult) == types.DisconnectResult(peer_id=peer.peer_id, closed=1)

        if transport != "http":
            subscribed = await result(ask, "subscribe", params(types=["peer:connect"], after=None, epoch=None))
            held(subscribed, types.SubscribeResult)
            keys(subscribed, "subscription epoch head status peers")
            name = subscribed["subscription"]
            assert await result(ask, "unsubscribe", params(subscription=name)) == {"subscription": name}

        config = await result(ask, "config", params())
        assert {section: set(table) for section, table in config.items()} == {
            section: set(table) for section, table in Config().to_dict().items()
        }
        assert (config["log"]["level"], config["node"]["max_retries"]) == ("debug", 3)
        assert plain.token not in json.dumps(config)

        version = await result(ask, "version", params())
        held(version, types.VersionResult)
        assert version["version"] == __version__
        assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(version["protocols"])

        document = await result(ask, "rpc.discover", params())
        assert {method["name"] for method in document["methods"]} >= set(METHODS.split())

        stopped = await result(ask, "stop", params())
        held(stopped, types.Status)
        keys(stopped, STATUS)
        assert (stopped["state"], stopped["connected"], stopped["peerId"]) == ("stopped", False, own)
        assert await result(ask, "stop", params()) == stopped
        started = await result(ask, "start", params())
        assert (started["state"], started["peerId"]) == ("started", own)


@pytest.mark.parametrize("transport", STREAMS)
async def test_notifications_get_no_answer(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        notification = {"jsonrpc": "2.0", "method": "status"}
        await connection.send(notification)
        await connection.send([notification, notification])
        await connection.send({"jsonrpc": "2.0", "method": "no such method"})
        await connection.send(request("version"))
        assert (await connection.receive())["id"] == "x"


async def test_notifications_over_http_get_204(plain: Process) -> None:
    notification = {"jsonrpc": "2.0", "method": "status"}
    for message in (notification, [notification, notification]):
        reply = await post(plain, message)
        assert (reply.status, reply.body) == (204, b"")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_batch_is_one_answer(plain: Process, transport: str) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "version"},
        {"jsonrpc": "2.0", "method": "status"},
        {"jsonrpc": "2.0", "id": "two", "method": "ping", "params": ["nonsense"]},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "id": None, "method": "status"},
    ]
    async with asking(plain, transport) as ask:
        answers = await ask(batch)
    assert [answer["id"] for answer in answers] == [1, "two", None, None]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32602, -32600, None]


@pytest.mark.parametrize("transport", STREAMS)
async def test_answers_come_as_they_are_ready(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        head = (await connection.call("status"))["head"]
        await connection.send(
            {"jsonrpc": "2.0", "id": "slow", "method": "events", "params": {"after": head, "timeout": 60000}}
        )
        await connection.send({"jsonrpc": "2.0", "id": "quick", "method": "version"})
        assert (await connection.receive())["id"] == "quick"
        await connection.call("stop")  # for which the other one waits; either is answered first
        while not any(message.get("id") == "slow" for message in connection.notifications):
            connection.notifications.append(await connection.receive())
        await connection.call("start")


async def test_a_text_without_its_last_newline_counts(plain: Process) -> None:
    """`printf … | nc -U -q1 api.sock`"""
    async with ipc(plain) as connection:
        await connection.stream.send_all(
            json.dumps(request("version")).encode() + b"\n\n  \n" + json.dumps(request("status")).encode()
        )
        await connection.stream.send_eof()
        answers = [await connection.receive() for _ in range(2)]
        assert {answer["result"]["version"] for answer in answers} == {__version__}
        assert await connection.receive_text() is None


async def test_changing_calls_are_logged_with_their_caller(plain: Process) -> None:
    before = len(plain.lines())
    async with ipc(plain) as connection:
        await connection.call("start")
    line = await plain.line("call", after=before, method="start")
    assert (line["transport"], line["uid"], line["pid"], line["outcome"]) == ("ipc", os.getuid(), os.getpid(), "ok")


# --------------------------------------------------------------------------------------------------------------------
# What the methods promise together


async def test_listen_addresses_are_real_ones(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        await result(ask, "stop")
        started = await result(ask, "start", [{"listenAddresses": ["/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]}])
        listen = (await result(ask, "addresses"))["listen"]
        assert started["listenAddresses"] == listen
        parts = [address.split("/") for address in listen]
        assert {part[-2:][0] for part in parts} == {"p2p"}
        assert "0.0.0.0" not in {part[2] for part in parts}
        assert "0" not in {part[4] for part in parts}
        assert [part[5] for part in parts if part[2] == "127.0.0.1"] == ["p2p", "ws"]
        async with mini_peer() as peer:
            for address in listen:
                if "/ws/" not in address:
                    assert (await peer.dial(address)).peer_id == started["peerId"]
        await result(ask, "stop")
        await result(ask, "start")


async def test_a_repeated_start_or_stop_publishes_nothing(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        head = (await result(ask, "start"))["head"]
        assert (await result(ask, "start", [{}]))["head"] == head
        head = (await result(ask, "stop"))["head"]
        assert (await result(ask, "stop"))["head"] == head
        assert (await result(ask, "start"))["head"] == head + 1


async def test_counters_outlive_the_node(plain: Process) -> None:
    def lasting(metrics: Json) -> Json:
        names = ("failedConnections", "successfulConnections", "inboundConnections", "outboundConnections", "retries")
        return {name: metrics[name] for name in (*names, "bytesReceived", "bytesSent")}

    async with asking(plain, "ipc") as ask, mini_peer() as peer:
        before = await result(ask, "metrics")
        await result(ask, "connect", [await peer.listen()])
        await result(ask, "disconnect", [peer.peer_id])
        with refusing_port() as port:
            await error(ask, "connect", [f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"])
        await result(ask, "stop")
        stopped = await result(ask, "metrics")
        assert stopped["successfulConnections"] == before["successfulConnections"] + 1
        assert stopped["outboundConnections"] == before["outboundConnections"] + 1
        assert stopped["failedConnections"] == before["failedConnections"] + 1
        assert stopped["bytesSent"] > before["bytesSent"]
        assert lasting(await result(ask, "metrics")) == lasting(stopped)
        await result(ask, "start")
        assert lasting(await result(ask, "metrics")) == lasting(stopped)


async def test_several_connections_of_one_peer_are_one_peer(plain: Process) -> None:
    async with connecting(plain, "ipc") as connection, mini_peer() as peer:
        subscribed = await connection.call("subscribe", {"types": ["peer:connect", "peer:disconnect"]})
        (own, *_) = subscribed["status"]["listenAddresses"]
        for _ in range(3):
            await peer.dial(own)
        with trio.fail_after(60):
            while (status := await connection.call("status"))["connections"] < 3:
                pass
        assert status["peers"] == 1
        (entry,) = await connection.call("peers")
        assert [link["direction"] for link in entry["connections"]] == ["inbound"] * 3
        assert entry["direction"] == "inbound"
        metrics = await connection.call("metrics")
        assert (metrics["connections"], metrics["totalPeers"]) == (3, 1)
        assert await connection.call("disconnect", [peer.peer_id]) == {"peerId": peer.peer_id, "closed": 3}
        assert await connection.call("peers") == []
        up, down = [(await connection.notification())["params"] for _ in range(2)]
        assert (up["type"], up["data"]["peerId"], up["data"]["direction"]) == ("peer:connect", peer.peer_id, "inbound")
        assert (down["type"], down["data"]["peerId"], down["data"]["reason"]) == (
            "peer:disconnect",
            peer.peer_id,
            "closed",
        )
        assert down["data"]["duration"] >= 0
        head = (await connection.call("status"))["head"]
        rest = await connection.call("events", {"after": down["seq"], "types": ["peer:connect", "peer:disconnect"]})
        assert (rest["events"], rest["head"]) == ([], head)


async def test_a_stop_tells_of_every_peer_before_it_is_over_and_nothing_after(plain: Process) -> None:
    async with connecting(plain, "ipc") as connection, mini_peers(3) as peers:
        subscribed = await connection.call("subscribe", {"types": ["peer:disconnect", "p2p:stopped", "p2p:started"]})
        for peer in peers:
            await connection.call("connect", [await peer.listen()])
        await connection.call("stop")
        told = [(await connection.notification())["params"] for _ in range(4)]
        assert {one["data"]["peerId"] for one in told[:3]} == {peer.peer_id for peer in peers}
        assert [one["type"] for one in told] == ["peer:disconnect"] * 3 + ["p2p:stopped"]
        assert told[3]["data"] == {"peerId": subscribed["status"]["peerId"]}
        started = await connection.call("start")
        assert (started["head"], started["peers"]) == (told[3]["seq"] + 1, 0)
        after = (await connection.notification())["params"]
        assert (after["type"], after["seq"]) == ("p2p:started", told[3]["seq"] + 1)
        assert after["data"] == {"peerId": started["peerId"], "listenAddresses": started["listenAddresses"]}
