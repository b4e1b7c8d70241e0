"""The whole API of a real daemon, over IPC, POST /rpc and WebSocket alike (CONTRACT, sections 3 to 5)."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from fabstir_client import errors, types, types_events
from fabstird import __version__
from fabstird.config import Config
from tests.functional.running import Connection, Json, Process, ipc, post, process, ws
from tests.support.minipeer import Stage, mini_peer, mini_peers
from tests.support.ports import refusing_port, taken_port

STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
TRANSPORTS = ["ipc", "http", "ws"]
STREAMS = ["ipc", "ws"]
Ask = Callable[[Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def plain() -> Iterator[Process]:
    """A daemon with the defaults, shared by the tests of this module: each leaves its node started, without peers."""
    with process({"log.level": "debug"}) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


@pytest.fixture(scope="module")
def tight() -> Iterator[Process]:
    """A daemon with narrow limits, shared as well."""
    settings = {
        "connections.max": 1,
        "api.max_request_bytes": 2000,
        "api.max_batch": 5,
        "events.history": 5,
        "events.heartbeat": 200,
        "log.level": "warning",  # some tests make thousands of events
    }
    with process(settings) as running:
        trio.run(running.ready)

        async def started() -> None:
            async with ipc(running) as connection:
                await connection.call("start")

        trio.run(started)
        yield running
        trio.run(running.stop)


# --------------------------------------------------------------------------------------------------------------------
# One way to ask over any transport


@asynccontextmanager
async def asking(running: Process, transport: str) -> AsyncIterator[Ask]:
    """A function that sends one text and gives its answer."""
    if transport == "http":

        async def over_http(message: Any) -> Any:
            reply = await post(running, message)
            assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply
            return reply.json

        yield over_http
        return
    async with connecting(running, transport) as connection:

        async def over_stream(message: Any) -> Any:
            await connection.send(message)
            return await connection.receive()

        yield over_stream


@asynccontextmanager
async def connecting(running: Process, transport: str) -> AsyncIterator[Connection]:
    async with {"ipc": ipc, "ws": ws}[transport](running) as connection:
        yield connection


def request(method: str, params: Any = None) -> Json:
    return {"jsonrpc": "2.0", "id": "x", "method": method, **({} if params is None else {"params": params})}


async def result(ask: Ask, method: str, params: Any = None) -> Any:
    answer = await ask(request(method, params))
    assert answer.keys() == {"jsonrpc", "result", "id"}, answer
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", "x")
    return answer["result"]


async def error(ask: Ask, method: str, params: Any = None) -> errors.RpcError:
    """The error as the client would raise it; its object must be of the contract's form."""
    answer = await ask(request(method, params))
    assert answer.keys() == {"jsonrpc", "error", "id"}, answer
    found = errors.from_error_object(answer["error"])
    assert type(found) is not errors.RpcError, f"no code of the contract: {answer}"
    assert answer["error"] == found.to_error_object()
    return found


def held(value: Any, kind: Any) -> Any:
    """`value` decoded as `kind`; a field that is missing, of another type or not documented is an error."""
    decoded = msgspec.convert(value, kind)
    assert msgspec.to_builtins(decoded) == value
    return decoded


def keys(found: Json, required: str, optional: str = "") -> None:
    """The fields are exactly those that the contract lists."""
    assert set(required.split()) <= set(found) <= set(required.split()) | set(optional.split())


# --------------------------------------------------------------------------------------------------------------------
# Every method, by name and by position

STATUS = "state connected peerId connections peers bootstrapNodes listenAddresses version epoch head"
PEER = "peerId direction connectedAt addresses connections protocols tags protected bootstrap"
CONNECTION = "address direction openedAt transport security muxer streams"
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

        connected = await result(ask, "connect", params(address=address, timeout=5000))
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
        with trio.fail_after(10):
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
        keys(found, "peerId listen announced observed reachability")
        assert (found["peerId"], found["listen"]) == (own, status["listenAddresses"])

        metrics = await result(ask, "metrics", params())
        held(metrics, types.Metrics)
        assert set(f"{METRICS} startTime uptime".split()) <= set(metrics)
        assert (metrics["connected"], metrics["connections"], metrics["totalPeers"]) == (True, 1, 1)
        assert metrics["connectedPeers"] == [peer.peer_id]
        assert metrics["outboundConnections"] + metrics["inboundConnections"] == metrics["successfulConnections"] > 0

        pong = await result(ask, "ping", params(peerId=peer.peer_id, timeout=5000))
        held(pong, types.PingResult)
        assert pong["peerId"] == peer.peer_id
        assert 0 < pong["rtt"] < 5000

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
            {"jsonrpc": "2.0", "id": "slow", "method": "events", "params": {"after": head, "timeout": 300}}
        )
        await connection.send({"jsonrpc": "2.0", "id": "quick", "method": "version"})
        assert [(await connection.receive())["id"] for _ in range(2)] == ["quick", "slow"]


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
        with trio.fail_after(10):
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


# --------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_errors_of_json_rpc(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        for text, kind in (
            (b"{nonsense", errors.ParseError),
            (b"[]", errors.InvalidRequest),
            (b'{"jsonrpc": "2.0", "id": 1.5, "method": "status"}', errors.InvalidRequest),
        ):
            answer = await ask(text)
            assert answer["id"] is None
            assert type(errors.from_error_object(answer["error"])) is kind
        found = await error(ask, "no.such.method")
        assert (type(found), found.data) == (errors.MethodNotFound, {"method": "no.such.method"})


@pytest.mark.parametrize(
    ("method", "params", "param"),
    [
        ("connect", [], "address"),
        ("connect", {"addres": "x"}, "addres"),
        ("connect", [1], "address"),
        ("connect", ["x", "soon"], "timeout"),
        ("connect", [STRANGER, 0], "timeout"),
        ("connect", [STRANGER, -1], "timeout"),
        ("connect", [STRANGER, 10**300], "timeout"),
        ("connect", ["/ip4/127.0.0.1/tcp/1"], "address"),
        ("connect", ["nonsense"], "address"),
        ("connect", ["/ip4/127.0.0.1/tcp/" + "9" * 5000 + f"/p2p/{STRANGER}"], "address"),
        ("disconnect", ["nonsense"], "peerId"),
        ("ping", {"peerId": "nonsense"}, "peerId"),
        ("start", ["config"], "config"),
        ("start", {"config": {"maxRetries": -1}}, "config"),
        ("start", {"config": {"retryDelay": 2**64}}, "config"),
        ("start", {"config": {"max_retries": 1}}, "config"),
        ("start", {"config": {"bootstrapNodes": ["nonsense"]}}, "config"),
        ("events", {"after": -1}, "after"),
        ("events", {"after": 10**300}, "after"),
        ("events", {"limit": 0}, "limit"),
        ("events", {"limit": 10**9}, "limit"),
        ("events", {"timeout": -1}, "timeout"),
        ("events", {"types": ["peer:connect", "peer:konnect"]}, "types"),
        ("events", {"types": "peer:connect"}, "types"),
        ("status", {"verbose": True}, "verbose"),
    ],
)
async def test_a_wrong_parameter_is_named(plain: Process, method: str, params: Any, param: str) -> None:
    async with asking(plain, "ipc") as ask:
        found = await error(ask, method, params)
    assert type(found) is errors.InvalidParams
    assert found.data["param"] == param
    assert param in found.message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_errors_about_peers(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        for method in ("connect", "disconnect", "ping"):
            found = await error(ask, method, [STRANGER])
            assert (type(found), found.retryable, found.data) == (errors.PeerNotFound, False, {"peerId": STRANGER})
        with refusing_port() as port:
            address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"
            found = await error(ask, "connect", [address])
        assert (type(found), found.retryable) == (errors.DialFailed, True)
        assert found.data == {"peerId": STRANGER, "errors": {address: "connection refused"}}
        assert await result(ask, "peers") == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_connect_ends_at_its_own_deadline(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask, mini_peer() as silent:
        address = await silent.listen(hold=Stage.TCP)
        started = trio.current_time()
        found = await error(ask, "connect", {"address": address, "timeout": 150})
        assert 0.15 <= trio.current_time() - started < 5
        assert (type(found), found.retryable) == (errors.DeadlineExceeded, True)
        assert found.data == {"peerId": silent.peer_id, "timeout": 150}


async def test_a_peer_that_is_another_is_told(plain: Process) -> None:
    async with asking(plain, "ipc") as ask, mini_peer() as peer:
        address = (await peer.listen()).replace(peer.peer_id, STRANGER)
        found = await error(ask, "connect", [address])
        assert found.data["errors"] == {
            address: "another peer answers there: its peer id is not the one that was dialled"
        }


async def test_the_node_itself_is_no_peer(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        status = await result(ask, "status")
        for target in (status["peerId"], status["listenAddresses"][0]):
            assert (await error(ask, "connect", [target])).data == {"param": "address"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_node_that_is_stopped(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        await result(ask, "stop")
        for method in ("connect", "disconnect", "ping"):
            found = await error(ask, method, [STRANGER])
            assert (type(found), found.retryable, found.data) == (errors.NodeNotRunning, True, {"state": "stopped"})
        assert await result(ask, "peers") == []
        addresses = await result(ask, "addresses")
        assert (addresses["listen"], addresses["announced"], addresses["observed"]) == ([], [], [])
        metrics = await result(ask, "metrics")
        assert (metrics["connected"], "startTime" in metrics, "uptime" in metrics) == (False, False, False)
        await result(ask, "start")


async def test_start_with_another_configuration_while_started(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        found = await error(ask, "start", [{"maxRetries": 9}])
        assert (type(found), found.retryable) == (errors.InvalidState, False)
        assert (await result(ask, "start", [{"maxRetries": 3}]))["state"] == "started"  # that is how it is


async def test_what_start_overrides_is_for_one_run(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        await result(ask, "stop")
        node = f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"
        started = await result(ask, "start", [{"bootstrapNodes": [node, node], "maxRetries": 0}])
        assert started["bootstrapNodes"] == [node]
        assert (await result(ask, "start"))["bootstrapNodes"] == [node]
        await result(ask, "stop")
        assert (await result(ask, "start"))["bootstrapNodes"] == []
        assert (await result(ask, "config"))["node"]["bootstrap_nodes"] == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_address_that_cannot_be_listened_on(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        await result(ask, "stop")
        with taken_port() as port:
            address = f"/ip4/127.0.0.1/tcp/{port}"
            for _ in range(2):
                found = await error(ask, "start", [{"listenAddresses": ["/ip4/127.0.0.1/tcp/0", address]}])
                assert (type(found), found.retryable) == (errors.ListenFailed, True)
                assert found.data == {"address": address, "reason": "address already in use"}
                status = await result(ask, "status")
                keys(status, f"{STATUS} error")
                assert (status["state"], status["connected"], status["listenAddresses"]) == ("failed", False, [])
                assert address in status["error"]
        assert (await error(ask, "connect", [STRANGER])).data == {"state": "failed"}
        started = await result(ask, "start")
        assert (started["state"], "error" in started) == ("started", False)


async def test_a_failed_start_is_forgotten_by_a_stop(plain: Process) -> None:
    async with asking(plain, "ipc") as ask:
        await result(ask, "stop")
        await error(ask, "start", [{"listenAddresses": ["/ip4/192.0.2.1/tcp/0"]}])
        stopped = await result(ask, "stop")
        assert (stopped["state"], "error" in stopped) == ("stopped", False)
        await result(ask, "start")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_limit_names_itself(tight: Process, transport: str) -> None:
    async with asking(tight, transport) as ask, mini_peers(2) as (first, second):
        addresses = [await peer.listen() for peer in (first, second)]
        await result(ask, "connect", [addresses[0]])
        found = await error(ask, "connect", [addresses[1]])
        assert (type(found), found.retryable) == (errors.LimitExceeded, True)
        assert found.data == {"limit": 1, "current": 1, "configKey": "connections.max"}
        await result(ask, "disconnect", [first.peer_id])
        await result(ask, "connect", [addresses[1]])
        await result(ask, "disconnect", [second.peer_id])


async def test_a_stop_ends_a_connect_that_is_under_way(plain: Process) -> None:
    async with connecting(plain, "ipc") as connection, asking(plain, "ipc") as ask, mini_peer() as silent:
        address = await silent.listen(hold=Stage.TCP)
        await connection.send(request("connect", [address]))
        with trio.fail_after(5):
            await silent.accepted()
        with trio.fail_after(2):
            assert (await result(ask, "stop"))["state"] == "stopped"
            answer = await connection.receive()
        assert type(errors.from_error_object(answer["error"])) in (errors.DialFailed, errors.NodeNotRunning)
        await result(ask, "start")


# --------------------------------------------------------------------------------------------------------------------
# Too large


async def test_a_line_may_be_as_long_as_the_limit_and_no_longer(tight: Process) -> None:
    line = json.dumps(request("version")).encode().ljust(2000)
    async with ipc(tight) as connection:
        await connection.send(line)
        assert (await connection.receive())["result"]["version"] == __version__
        await connection.send(line + b" ")
        assert_too_large(await connection.receive(), 2000, 2001, "api.max_request_bytes")
        assert await connection.receive_text() is None


async def test_a_line_without_an_end_is_refused_at_the_limit(tight: Process) -> None:
    async with ipc(tight) as connection:
        await connection.send(request("version"))
        await connection.stream.send_all(b"[" * 2001)
        answers = [await connection.receive() for _ in range(2)]
        (too_large,) = [answer for answer in answers if "error" in answer]
        assert too_large["error"]["data"]["limit"] == 2000
        assert await connection.receive_text() is None


async def test_a_message_over_the_limit_closes_a_websocket_with_1009(tight: Process) -> None:
    async with ws(tight) as connection:
        await connection.send(json.dumps(request("version")).encode().ljust(2000))
        assert (await connection.receive())["result"]["version"] == __version__
        await connection.send(b" " * 2001)
        assert await connection.receive_text() is None
        reason = connection.websocket.closed
        assert reason is not None
        assert (reason.code, reason.reason) == (1009, "[api] max_request_bytes allows 2000 bytes")


async def test_a_body_over_the_limit_is_413(tight: Process) -> None:
    assert (await post(tight, json.dumps(request("version")).encode().ljust(2000))).status == 200
    assert (await post(tight, json.dumps(request("version")).encode().ljust(2001))).status == 413


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_batch_over_the_limit_is_one_error(tight: Process, transport: str) -> None:
    async with asking(tight, transport) as ask:
        assert len(await ask([request("version")] * 5)) == 5
        assert_too_large(await ask([request("version")] * 6), 5, 6, "api.max_batch")


def assert_too_large(answer: Json, limit: int, current: int, key: str) -> None:
    assert answer["id"] is None
    found = errors.from_error_object(answer["error"])
    assert (type(found), found.retryable) == (errors.TooLarge, False)
    assert found.data == {"limit": limit, "current": current, "configKey": key}


# --------------------------------------------------------------------------------------------------------------------
# Subscriptions


async def cycle(connection: Connection) -> None:
    """Four entries in the log: a stop and a start, twice."""
    for method in ("stop", "start", "stop", "start"):
        await connection.call(method)


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_subscription_replays_what_it_has_not_seen_and_goes_on(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection, asking(plain, "ipc") as ask:
        await cycle(connection)
        before = await connection.call("status")
        await connection.send(request("subscribe", {"after": before["head"] - 3, "epoch": before["epoch"]}))
        reply = await connection.receive()
        assert reply["id"] == "x"  # never after its first notification
        subscribed = held(reply["result"], types.SubscribeResult)
        assert (subscribed.head, subscribed.epoch) == (before["head"], before["epoch"])
        assert (subscribed.status.head, subscribed.status.state, subscribed.peers) == (before["head"], "started", [])
        async with mini_peer() as peer:
            await result(ask, "connect", [await peer.listen()])
            events = [await connection.notification() for _ in range(4)]
            await result(ask, "disconnect", [peer.peer_id])
        for number, event in enumerate(events, before["head"] - 2):
            keys(event, "jsonrpc method params")
            assert (event["jsonrpc"], event["method"]) == ("2.0", "event")
            keys(event["params"], "subscription epoch seq time type data")
            assert (event["params"]["subscription"], event["params"]["seq"]) == (subscribed.subscription, number)
            held(event["params"]["data"], types_events.EVENT_DATA[event["params"]["type"]])
        assert [event["params"]["type"] for event in events] == [
            "p2p:started",
            "p2p:stopped",
            "p2p:started",
            "peer:connect",
        ]
        assert events[-1]["params"]["data"]["peerId"] == peer.peer_id


@pytest.mark.parametrize("transport", STREAMS)
async def test_no_notification_comes_before_the_reply(plain: Process, transport: str) -> None:
    """Even where that takes its time, and there is plenty to tell."""
    async with connecting(plain, transport) as connection:
        head = (await connection.call("status"))["head"]
        slow = {"after": head, "timeout": 200}
        await connection.send([request("events", slow), request("subscribe", {"after": 0})])
        replies = await connection.receive()
        assert [set(reply) for reply in replies] == [{"jsonrpc", "result", "id"}] * 2
        assert (await connection.notification())["params"]["seq"] == 1


async def test_the_snapshot_is_of_one_instant(plain: Process) -> None:
    async with connecting(plain, "ipc") as connection, mini_peer() as peer:
        await connection.call("connect", [await peer.listen()])
        subscribed = await connection.call("subscribe")
        assert [one["peerId"] for one in subscribed["peers"]] == [peer.peer_id]
        assert (subscribed["status"]["peers"], subscribed["status"]["head"]) == (1, subscribed["head"])
        await connection.call("disconnect", [peer.peer_id])
        event = await connection.notification("event")
        while event["params"]["type"] == "peer:identify":
            event = await connection.notification("event")
        assert event["params"]["type"] == "peer:disconnect"


@pytest.mark.parametrize("transport", STREAMS)
async def test_only_the_types_that_were_asked_for(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        await connection.call("subscribe", {"types": ["p2p:stopped"]})
        await cycle(connection)
        found = [await connection.notification() for _ in range(2)]
        assert [one["params"]["type"] for one in found] == ["p2p:stopped", "p2p:stopped"]
        assert found[1]["params"]["seq"] == found[0]["params"]["seq"] + 2


@pytest.mark.parametrize("transport", STREAMS)
async def test_another_epoch_is_a_gap_of_unknown_size(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        for after in (0, 10**9):
            subscribed = await connection.call("subscribe", {"after": after, "epoch": "another"})
            lagged = await connection.notification()
            assert lagged == {
                "jsonrpc": "2.0",
                "method": "lagged",
                "params": {
                    "subscription": subscribed["subscription"],
                    "missed": None,
                    "resume": subscribed["head"] + 1,
                },
            }
            await connection.call("unsubscribe", [subscribed["subscription"]])
        await connection.call("subscribe", {"after": 0, "epoch": "another", "types": ["p2p:stopped"]})
        assert (await connection.notification())["method"] == "lagged"
        await cycle(connection)
        assert (await connection.notification())["params"]["seq"] == lagged["params"]["resume"]


@pytest.mark.parametrize("transport", STREAMS)
async def test_an_entry_that_is_gone_is_a_gap_that_is_counted(tight: Process, transport: str) -> None:
    async with connecting(tight, transport) as connection:
        await cycle(connection)
        await cycle(connection)
        subscribed = await connection.call("subscribe", {"after": 1})
        lagged = await connection.notification()
        resume = subscribed["head"] - 4  # the oldest of the five that are kept
        assert lagged["params"] == {
            "subscription": subscribed["subscription"],
            "missed": resume - 2,
            "resume": resume,
        }
        found = [(await connection.notification("event"))["params"]["seq"] for _ in range(5)]
        assert found == list(range(resume, resume + 5))


@pytest.mark.parametrize("transport", STREAMS)
async def test_wrong_subscriptions_are_refused_and_begin_nothing(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        head = (await result(ask, "status"))["head"]
        for params, param in (
            ({"after": head + 1}, "after"),
            ({"after": head + 1, "epoch": plain.api["epoch"]}, "after"),
            ({"after": -1}, "after"),
            ({"types": ["peer:konnect"]}, "types"),
            ({"types": [1]}, "types[0]"),
            ({"epoch": 1}, "epoch"),
        ):
            found = await error(ask, "subscribe", params)
            assert (type(found), found.data["param"]) == (errors.InvalidParams, param)
        for name in ("s1", "nonsense"):
            found = await error(ask, "unsubscribe", [name])
            assert (type(found), found.data) == (errors.InvalidParams, {"param": "subscription"})


async def test_there_are_no_subscriptions_over_http(plain: Process) -> None:
    async with asking(plain, "http") as ask:
        for method, params in (("subscribe", None), ("unsubscribe", ["s1"])):
            assert type(await error(ask, method, params)) is errors.MethodNotFound


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_silence_is_full_of_heartbeats(tight: Process, transport: str) -> None:
    async with connecting(tight, transport) as connection:
        subscribed = await connection.call("subscribe", {"types": []})
        began = trio.current_time()
        for beats in (1, 2):
            assert await connection.notification() == {
                "jsonrpc": "2.0",
                "method": "heartbeat",
                "params": {"subscription": subscribed["subscription"], "head": subscribed["head"]},
            }
            assert trio.current_time() - began >= beats * 0.2 - 0.05
        await cycle(connection)  # none of it concerns this subscription: it is silence, and the head goes on
        with trio.fail_after(5):
            while (await connection.notification("heartbeat"))["params"]["head"] != subscribed["head"] + 4:
                pass


@pytest.mark.parametrize("transport", STREAMS)
async def test_subscriptions_of_one_connection_are_apart(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        stopped = await connection.call("subscribe", {"types": ["p2p:stopped"]})
        started = await connection.call("subscribe", {"types": ["p2p:started"]})
        assert stopped["subscription"] != started["subscription"]
        await connection.call("stop")
        await connection.call("start")
        found = [await connection.notification() for _ in range(2)]
        assert {(one["params"]["type"], one["params"]["subscription"]) for one in found} == {
            ("p2p:stopped", stopped["subscription"]),
            ("p2p:started", started["subscription"]),
        }
        await connection.call("unsubscribe", [stopped["subscription"]])
        assert connection.notifications == []
        await cycle(connection)
        found = [await connection.notification() for _ in range(2)]
        assert {one["params"]["subscription"] for one in found} == {started["subscription"]}
        assert (await connection.error("unsubscribe", [stopped["subscription"]]))["code"] == -32602


@pytest.fixture(scope="module")
def busy() -> Iterator[Process]:
    """A daemon that, once its node is started, publishes events of 15 KB as fast as it can: its bootstrap node cannot
    be dialled, and is tried again at once and without end."""
    settings = {
        "node.auto_start": False,
        "node.bootstrap_nodes": ["/ip4/127.0.0.1/tcp/1/p2p/" + "0" * 15000],
        "node.max_retries": 10**9,
        "node.retry_delay": 0,
        "events.history": 5,
        "log.level": "warning",
    }
    with process(settings) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_reader_that_is_stuck_delays_nobody_and_is_told_what_it_missed(busy: Process, transport: str) -> None:
    """Its socket fills, the log's five entries go past it; what it then reads is whole or says how much is missing."""
    async with connecting(busy, transport) as stuck, asking(busy, "ipc") as ask:
        subscribed = await stuck.call("subscribe")
        before = subscribed["head"]
        await result(ask, "start")
        slowest, head = 0.0, before
        while head < before + 1000:  # 15 MB
            began = trio.current_time()
            head = (await result(ask, "status"))["head"]
            slowest = max(slowest, trio.current_time() - began)
        assert slowest < 1
        head = (await result(ask, "stop"))["head"]
        seen, missed = before, 0
        while seen < head:
            message = await stuck.notification()
            if message["method"] == "event":
                assert message["params"]["seq"] == seen + 1
                seen = message["params"]["seq"]
            elif message["method"] == "lagged":
                assert message["params"]["missed"] == message["params"]["resume"] - seen - 1 > 0
                seen = message["params"]["resume"] - 1
                missed += message["params"]["missed"]
            assert message["params"]["subscription"] == subscribed["subscription"]
        assert missed > 0, "the reader was never stuck"


# --------------------------------------------------------------------------------------------------------------------
# The long poll


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_events_waits_for_something_new(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask, asking(plain, "ipc") as other, mini_peer() as peer:
        address = await peer.listen()
        head = (await result(ask, "status"))["head"]
        answers: list[Json] = []

        async def poll() -> None:
            answers.append(await result(ask, "events", {"after": head, "types": ["peer:connect"], "timeout": 20000}))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await result(other, "connect", [address])
        (answer,) = answers
        assert (answer["epoch"], answer["missed"]) == (plain.api["epoch"], 0)
        (event,) = answer["events"]
        assert event["type"] == "peer:connect"
        assert event["data"] == {"peerId": peer.peer_id, "address": address, "direction": "outbound"}
        assert head < event["seq"] <= answer["head"]
        await result(ask, "disconnect", [peer.peer_id])


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_events_answers_with_nothing_after_its_timeout(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        status = await result(ask, "status")
        began = trio.current_time()
        answer = await result(ask, "events", {"after": status["head"], "timeout": 200})
        assert 0.2 <= trio.current_time() - began < 5
        assert answer == {"epoch": status["epoch"], "head": status["head"], "events": [], "missed": 0}


async def test_events_without_a_place_to_begin_is_all_there_is(plain: Process) -> None:
    async with asking(plain, "http") as ask:
        answer = await result(ask, "events")
        assert [event["seq"] for event in answer["events"]] == list(range(1, min(answer["head"], 1000) + 1))


async def test_events_are_limited_and_can_be_read_on(plain: Process) -> None:
    async with asking(plain, "ipc") as ask, connecting(plain, "ipc") as connection:
        await cycle(connection)
        head = (await result(ask, "status"))["head"]
        first = await result(ask, "events", {"after": head - 4, "limit": 3})
        assert [event["seq"] for event in first["events"]] == [head - 3, head - 2, head - 1]
        rest = await result(ask, "events", {"after": head - 1, "limit": 3})
        assert [event["seq"] for event in rest["events"]] == [head]


async def test_events_tells_what_is_gone(tight: Process) -> None:
    async with asking(tight, "http") as ask, connecting(tight, "ipc") as connection:
        await cycle(connection)
        await cycle(connection)
        answer = await result(ask, "events", {"after": 2})
        assert answer["missed"] == answer["head"] - 5 - 2
        assert [event["seq"] for event in answer["events"]] == list(range(answer["head"] - 4, answer["head"] + 1))
        answer = await result(ask, "events", {"after": 2, "epoch": "another", "timeout": 20000})
        assert (answer["missed"], answer["events"]) == (None, [])
        found = await error(ask, "events", {"after": answer["head"] + 1})
        assert (type(found), found.data["param"]) == (errors.InvalidParams, "after")
