"""What the API answers where something is wrong, over IPC, POST /rpc and WebSocket alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from fabstir_client.api import errors
from fabstird import __version__
from tests.functional.asking import STATUS, STRANGER, TRANSPORTS, asking, connecting, error, keys, request, result
from tests.harness import Json, Process, ipc, post, ws
from tests.support.minipeer import Stage, mini_peer, mini_peers
from tests.support.ports import refusing_port, taken_port

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
        assert 0.15 <= trio.current_time() - started < 60
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
        own = status["peerId"]
        assert (await error(ask, "request", [own, "/echo/1.0.0", ""])).data == {"param": "peerId"}
    async with asking(plain, "ipc") as ask:
        assert (await error(ask, "stream.open", [own, "/echo/1.0.0"])).data == {"param": "peerId"}


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
        with trio.fail_after(60):
            await silent.accepted()
        with trio.fail_after(60):
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
        assert_too_large(await connection.receive(), 2000, 2001, "api.max_request_bytes", request("version")["id"])
        await connection.send(line)
        assert (await connection.receive())["result"]["version"] == __version__


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


def assert_too_large(answer: Json, limit: int, current: int, key: str, identity: object = None) -> None:
    assert answer["id"] == identity
    found = errors.from_error_object(answer["error"])
    assert (type(found), found.retryable) == (errors.TooLarge, False)
    assert found.data == {"limit": limit, "current": current, "configKey": key}
