"""The TypeScript SDK's P2P client on a bare WebSocket: three methods, and messages that really arrive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.harness import ANSWER, Connection, Process, asked_until, daemon, ipc, post, ws
from tests.support.minipeer import mini_peer
from tests.support.yamux import StreamReset

ON = {"api.bridge": True}
BRIDGE = "/fabstird/message/1.0.0"
BUSY = 0x1002  # libp2p's error code for a limit
MESSAGE = {"type": "job", "payload": {"model": "llama", "text": "grüße"}}


async def pushed(connection: Connection) -> Any:
    """The next push, which is no JSON-RPC."""
    with trio.fail_after(ANSWER):
        text = await connection.receive_text()
    assert text is not None
    message = json.loads(text)
    assert message.keys() == {"type", "data"}
    assert message["type"] == "p2p_message"
    return message["data"]


async def ask(connection: Connection, method: str, params: Any) -> Any:
    """As the SDK's client does: the id is a string."""
    await connection.send({"jsonrpc": "2.0", "method": method, "params": params, "id": "1"})
    answer = await connection.receive()
    assert answer["id"] == "1"
    return answer["result"] if "result" in answer else answer["error"]["data"]["code"]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Process, Process, str, str]]:
    """Two connected daemons, and their peer ids."""
    async with daemon(ON) as one, daemon(ON) as other, ipc(one) as first, ipc(other) as second:
        await one.started()
        await other.started()
        status = await second.call("status")
        await first.call("connect", [status["listenAddresses"][0]])
        with trio.fail_after(ANSWER):
            while not (await second.call("peers")):
                pass
        yield one, other, (await first.call("status"))["peerId"], status["peerId"]


async def test_a_message_gets_to_every_bridge_client_of_the_other_daemon_and_back() -> None:
    async with (
        pair() as (one, other, here, there),
        ws(one) as client,
        ws(other) as listener,
        ws(other) as speaker,
        ws(other) as another_program,
    ):
        await another_program.call("version")  # no bridge client's: nothing but JSON-RPC comes to it
        assert (await ask(speaker, "getStatus", {}))["connections"] == 1
        assert await ask(client, "getStatus", {}) == {"connected": True, "peerId": here, "connections": 1}
        sent = await ask(client, "sendMessage", {"peerId": there, "message": MESSAGE})
        assert sent == {"peerId": there, "delivered": 2}
        for connection in (listener, speaker):
            data = await pushed(connection)
            assert data.pop("timestamp") > 1_700_000_000_000
            assert data == {**MESSAGE, "from": here}
        assert (
            await ask(speaker, "sendMessage", {"peerId": here, "message": {**MESSAGE, "from": "x", "timestamp": 7}})
        )["delivered"] == 1
        assert await pushed(client) == {**MESSAGE, "from": there, "timestamp": 7}  # who it is from cannot be made up
        assert (await ask(client, "sendMessage", {"peerId": there, "message": "hello"}))["delivered"] == 2
        assert (await pushed(listener))["payload"] == "hello"
        assert (await another_program.call("version"))["version"]


async def test_discover_names_connected_peers() -> None:
    async with pair() as (one, _, __, there), ws(one) as client:
        for params in ({}, {"filter": None}, {"filter": {}}, {"filter": {"capabilities": []}}):
            found = await ask(client, "discover", params)
            assert found["source"] == "local"
            [node] = found["nodes"]
            assert (node["id"], node["capabilities"]) == (there, [])
            assert node["address"].endswith(f"/p2p/{there}")
        assert await ask(client, "discover", {"filter": {"minReputation": 1}}) == {"nodes": [], "source": "local"}
        assert await ask(client, "discover", {"filter": {"capabilities": ["llama"]}}) == "FEATURE_DISABLED"  # no DHT


async def test_discover_finds_who_provides_every_capability() -> None:
    settings = {**ON, "node.enable_dht": True, "dht.mode": "server"}
    async with daemon(settings) as one, daemon(settings) as other, ipc(one) as first, ipc(other) as second:
        await one.started()
        await other.started()
        status = await second.call("status")
        await first.call("connect", [status["listenAddresses"][0]])
        with trio.fail_after(60):
            while not any("agentVersion" in peer for peer in await second.call("peers")):
                pass
            await second.call("fabstir.announce", {"capabilities": ["llama", "whisper"]})
            async with ws(one) as client:
                while True:
                    found = await ask(client, "discover", {"filter": {"capabilities": ["llama", "whisper"]}})
                    if found["nodes"]:
                        break
                    await first.call("fabstir.discover", {"model": "llama", "forceRefresh": True})
                    await first.call("fabstir.discover", {"model": "whisper", "forceRefresh": True})
                assert found["source"] == "dht"
                assert [(node["id"], node["capabilities"]) for node in found["nodes"]] == [
                    (status["peerId"], ["llama", "whisper"])
                ]
                nobody = await ask(client, "discover", {"filter": {"capabilities": ["llama", "nothing"]}})
                assert nobody == {"nodes": [], "source": "dht"}


async def test_a_message_that_reaches_nobody_is_an_error() -> None:
    async with pair() as (one, other, _, there), ws(one) as client:
        params: dict[str, Any] = {"peerId": there, "message": MESSAGE}
        assert await ask(client, "sendMessage", params) == "INVALID_STATE"  # no bridge client is there
        async with ws(other):
            assert (await ask(client, "sendMessage", params))["delivered"] == 1
        async with mini_peer() as peer, ipc(one) as connection:
            await connection.call("connect", [await peer.listen()])
            assert await ask(client, "sendMessage", {**params, "peerId": peer.peer_id}) == "INVALID_STATE"
        stranger = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
        assert await ask(client, "sendMessage", {**params, "peerId": stranger}) == "PEER_NOT_FOUND"
        large = {**params, "message": {"type": "x", "payload": "x" * (1024 * 1024 - 200)}}
        assert await ask(client, "sendMessage", large) == "INVALID_STATE"  # it fits, and nobody is there


async def test_messages_of_one_peer_are_bounded_and_count_as_those_of_users_do() -> None:
    async with mini_peer() as peer, daemon(ON) as running, ipc(running) as owner:
        await running.started()
        link = await peer.dial((await owner.call("status"))["listenAddresses"][0])
        streams = [await link.open_stream(BRIDGE) for _ in range(8)]
        for stream in streams:
            await stream.send_all(b"\0")  # of a length: it is being read

        async def under_way(count: int) -> None:
            with trio.fail_after(ANSWER):
                while (await owner.call("metrics"))["bounds"]["waitingRequests"] != {"current": count, "limit": 64}:
                    pass

        await under_way(8)
        with pytest.raises(StreamReset) as caught:
            await link.open_stream(BRIDGE)
        assert caught.value.code == BUSY
        await streams[0].send_all(b"\0\0\2{}")
        answer = await streams[0].receive_exactly(int.from_bytes(await streams[0].receive_exactly(4), "big"))
        assert json.loads(answer) == {"delivered": 0}
        await under_way(7)
        await (await link.open_stream(BRIDGE)).reset()  # there is room again


async def test_a_message_outlives_a_restart_of_the_node() -> None:
    async with pair() as (one, other, _, there), ws(one) as client, ws(other) as listener, ipc(other) as control:
        await control.call("stop")
        async with ipc(one) as connection:
            await asked_until(lambda: connection.call("peers"), lambda peers: peers == [])  # it has seen the end
            status = await control.call("start")
            await connection.call("connect", [status["listenAddresses"][0]])
        assert (await ask(client, "sendMessage", {"peerId": there, "message": MESSAGE}))["delivered"] == 1
        assert (await pushed(listener))["payload"] == MESSAGE["payload"]


@pytest.mark.parametrize("method", ["discover", "sendMessage", "getStatus"])
async def test_it_is_off_unless_it_is_switched_on(method: str) -> None:
    params = {"peerId": "x", "message": 1} if method == "sendMessage" else {}
    async with daemon({"node.auto_start": False}) as running:
        reply = await post(running, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        data = reply.json["error"]["data"]
        assert (data["code"], data["configKey"]) == ("FEATURE_DISABLED", "api.bridge")
