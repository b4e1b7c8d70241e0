"""Streams over the HTTP endpoint: by `Upgrade: fabstir-stream` as plain bytes, and by WebSocket."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.functional.local_streams import WAIT, Local, local
from tests.harness import Daemon, Process, daemon, fabstird, ipc, ws

ECHO = "/echo/1.0.0"
MIB = 1024 * 1024


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Process, Daemon]]:
    """Two daemons that are connected: one whose HTTP endpoint is asked, and one that takes streams."""
    async with daemon({"node.auto_start": True}) as asked, fabstird() as taking, ipc(asked) as own:
        await own.call("start")
        await own.call("connect", {"address": taking.address("tcp")})
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        yield asked, taking


async def taken(taking: Daemon, there: Local, count: int = 1) -> None:
    told = await taking.wait_event("stream.incoming", count=count, timeout=WAIT)
    await there.call("stream.accept", {"streamId": told["streamId"]})


@asynccontextmanager
async def upgraded(running: Process, query: str, behind: bytes = b"", **headers: str) -> AsyncIterator[Raw]:
    """`GET /stream`, asking for plain bytes."""
    async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
        given = {
            "Host": f"127.0.0.1:{running.port}",
            "Authorization": f"Bearer {running.token}",
            "Connection": "Upgrade",
            "Upgrade": "fabstir-stream",
            **headers,
        }
        lines = [f"GET /stream?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + behind)
        raw = Raw(stream)
        await raw.read_head()
        yield raw


class Raw(Local):
    status = 0
    headers: dict[str, str]

    async def read_head(self) -> None:
        self.status = int((await self._line()).split()[1])
        self.headers = {}
        while line := (await self._line()).strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    async def refusal(self) -> dict[str, Any]:
        body = await self.exactly(int(self.headers["content-length"]))
        error = json.loads(body)["error"]
        assert error.keys() == {"code", "message", "data"}
        return dict(error["data"])


@asynccontextmanager
async def websocket(
    running: Process, query: str, *, path: str = "/stream", offer: list[str] | None = None
) -> AsyncIterator[WebSocketConnection]:
    """`GET /stream` by a WebSocket, whose token is a subprotocol."""
    failure: BaseException | None = None
    async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream, trio.open_nursery() as nursery:
        host, offer = f"127.0.0.1:{running.port}", offer or [f"fabstir.token.{running.token}"]
        try:
            yield await wrap_client_stream(nursery, stream, host, f"{path}?{query}", subprotocols=offer)
        except BaseException as error:  # noqa: BLE001 - raised again below, not inside the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# --------------------------------------------------------------------------------------------------------------------
# Plain bytes


async def test_an_upgraded_connection_is_the_stream() -> None:
    data = os.urandom(4 * MIB)
    async with pair() as (asked, taking), local(taking.path) as there:
        query = f"peerId={taking.peer_id}&protocol=/echo/9.0.0&protocol={ECHO}"
        async with upgraded(asked, query, behind=b"early ") as here, trio.open_nursery() as nursery:
            assert here.status == 101
            assert here.headers["upgrade"] == "fabstir-stream"
            assert here.headers["fabstir-peer-id"] == taking.peer_id
            assert here.headers["fabstir-protocol"] == ECHO
            stream_id = here.headers["fabstir-stream-id"]
            await taken(taking, there)
            nursery.start_soon(here.send, data)
            assert await there.exactly(6) == b"early "
            assert await there.exactly(len(data)) == data
            nursery.start_soon(there.send, data)
            assert await here.exactly(len(data)) == data
            async with ipc(asked) as own:
                bounds = (await own.call("metrics"))["bounds"]
                assert (bounds["streams"]["current"], bounds["httpConnections"]["current"]) == (1, 0)
                (entry,) = await own.call("stream.list")
                assert (entry["streamId"], entry["bytesOut"]) == (stream_id, len(data) + 6)
            await here.end()
            assert await there.rest() == b""
            await there.send(b"last words")
            await there.end()
            assert await here.rest() == b"last words"
        closed = await taking.wait_event("stream.closed")
        assert closed["outcome"] == "ended"


async def test_a_reset_resets_the_connection_too() -> None:
    async with pair() as (asked, taking):
        query = f"peerId={taking.peer_id}&protocol={ECHO}"
        async with local(taking.path) as there, upgraded(asked, query) as here:
            await taken(taking, there)
            await taking.call("stream.reset", streamId=there.id)
            with pytest.raises(trio.BrokenResourceError):
                await here.stream.receive_some()


async def test_a_peers_stream_is_accepted_over_http() -> None:
    async with pair() as (asked, taking), ws(asked) as owner, local(taking.path) as opening:
        await owner.call("protocol.handle", {"protocol": ECHO, "mode": "stream"})
        peer_id = (await owner.call("status"))["peerId"]
        await opening.call("stream.open", {"peerId": peer_id, "protocol": ECHO})
        stream_id = (await owner.notification("stream.incoming"))["params"]["streamId"]
        async with upgraded(asked, f"streamId={stream_id}") as here:
            assert (here.status, here.headers["fabstir-stream-id"]) == (101, stream_id)
            await opening.send(b"hello")
            assert await here.exactly(5) == b"hello"
            async with upgraded(asked, f"streamId={stream_id}") as again:
                assert (again.status, (await again.refusal())["code"]) == (409, "INVALID_STATE")


async def test_what_is_refused_says_why_and_leaves_the_connection_for_the_next_request() -> None:
    async with pair() as (asked, taking):
        good = f"peerId={taking.peer_id}&protocol={ECHO}"
        for query, headers, status, code in (
            (f"peerId={taking.peer_id}&protocol=/none/1", {}, 502, "STREAM_FAILED"),
            (f"peerId={taking.peer_id}", {}, 400, "INVALID_PARAMS"),
            (f"{good}&colour=red", {}, 400, "INVALID_PARAMS"),
            (f"{good}&timeout=soon", {}, 400, "INVALID_PARAMS"),
            (f"{good}&peerId=twice", {}, 400, "INVALID_PARAMS"),
            ("streamId=cafe", {}, 409, "INVALID_STATE"),
            (f"peerId=12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN&protocol={ECHO}", {}, 404, "PEER_NOT_FOUND"),
            (good, {"Authorization": "Bearer wrong"}, 401, "FORBIDDEN"),
            (good, {"Authorization": ""}, 401, "FORBIDDEN"),
            (f"{good}&token={asked.token}", {"Authorization": ""}, 401, "FORBIDDEN"),
            (good, {"Host": "evil.example"}, 403, "FORBIDDEN"),
            (good, {"Origin": "http://evil.example"}, 403, "FORBIDDEN"),
            (good, {"Upgrade": ""}, 426, "INVALID_PARAMS"),
            (good, {"Upgrade": "h2c"}, 426, "INVALID_PARAMS"),
            (good, {"Upgrade": "websocket"}, 400, "INVALID_PARAMS"),
        ):
            async with upgraded(asked, query, **headers) as here:
                assert here.status == status, query
                assert (await here.refusal())["code"] == code
        assert taking.found("stream.incoming") == []
        async with upgraded(asked, "streamId=cafe") as here:
            await here.refusal()
            head = f"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{asked.port}\r\n\r\n"
            await here.send(head.encode())
            await here.read_head()
            assert here.status == 200
        async with ipc(asked) as own:
            token = (await own.call("token.create", {"name": "reader", "access": "read"}))["token"]
        async with upgraded(asked, good, Authorization=f"Bearer {token}") as here:
            assert (here.status, (await here.refusal())["code"]) == (403, "FORBIDDEN")


async def test_a_token_that_is_revoked_ends_its_streams() -> None:
    async with pair() as (asked, taking), ipc(asked) as own, local(taking.path) as there:
        token = (await own.call("token.create", {"name": "app", "access": "write"}))["token"]
        query = f"peerId={taking.peer_id}&protocol={ECHO}"
        async with upgraded(asked, query, Authorization=f"Bearer {token}") as here:
            assert here.status == 101
            await taken(taking, there)
            await own.call("token.revoke", {"name": "app"})
            assert await there.rest() == b""
            assert (await taking.wait_event("stream.closed"))["outcome"] == "peer_reset"


# --------------------------------------------------------------------------------------------------------------------
# WebSocket


async def test_a_websocket_is_the_stream() -> None:
    data = os.urandom(3 * MIB + 17)
    async with pair() as (asked, taking), local(taking.path) as there:
        async with websocket(asked, f"peerId={taking.peer_id}&protocol={ECHO}") as here:
            assert here.subprotocol == f"fabstir.token.{asked.token}"
            result = json.loads(await here.get_message())
            assert (result["peerId"], result["protocol"], result["direction"]) == (taking.peer_id, ECHO, "outbound")
            await taken(taking, there)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.send_message, data)
                nursery.start_soon(there.send, data)
                assert await there.exactly(len(data)) == data
                came = b""
                with trio.fail_after(WAIT):
                    while len(came) < len(data):
                        came += await here.get_message()
                assert came == data
            with trio.fail_after(WAIT):
                await here.ping(b"are you there?")
            await here.send_message('{"end": true}')
            assert await there.rest() == b""
            await there.send(b"last words")
            await there.end()
            assert await here.get_message() == b"last words"
            assert json.loads(await here.get_message()) == {"end": True}
            with pytest.raises(ConnectionClosed) as caught:
                await here.get_message()
            assert caught.value.reason.code == 1000
        assert (await taking.wait_event("stream.closed"))["outcome"] == "ended"


async def test_resets_pass_through_a_websocket_both_ways() -> None:
    async with pair() as (asked, taking):
        query = f"peerId={taking.peer_id}&protocol={ECHO}"
        async with local(taking.path) as there, websocket(asked, query) as here:
            await here.get_message()
            await taken(taking, there)
            await taking.call("stream.reset", streamId=there.id)
            with pytest.raises(ConnectionClosed) as caught:
                await here.get_message()
            assert caught.value.reason.code == 4000
        await taking.wait_event("stream.closed")
        for closing in (4000, None):
            count = len(taking.found("stream.closed")) + 1
            async with local(taking.path) as there, websocket(asked, query) as here:
                await here.get_message()
                await taken(taking, there, count)
                if closing:
                    await here.aclose(code=closing)
                else:
                    await here._stream.aclose()
                assert (await taking.wait_event("stream.closed", count=count))["outcome"] == "peer_reset"


async def test_what_a_websocket_may_not_do() -> None:
    async with pair() as (asked, taking):
        query = f"peerId={taking.peer_id}&protocol={ECHO}"
        handshake = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
        async with upgraded(asked, query, Authorization="", **handshake) as refused:
            assert (refused.status, (await refused.refusal())["code"]) == (401, "FORBIDDEN")
        async with local(taking.path) as there, websocket(asked, query) as here:
            await here.get_message()
            await taken(taking, there)
            await here.send_message("a text that says nothing")
            with pytest.raises(ConnectionClosed) as caught:
                await here.get_message()
            assert caught.value.reason.code == 4000
            assert (await taking.wait_event("stream.closed"))["outcome"] == "peer_reset"


async def test_a_token_may_be_a_subprotocol_of_ws_too() -> None:
    async with daemon() as running:
        offer = ["fabstir.v1", f"fabstir.token.{running.token}"]
        async with websocket(running, "", path="/ws", offer=offer) as here:
            assert here.subprotocol == "fabstir.v1", "the token need not come back"
            await here.send_message('{"jsonrpc":"2.0","id":1,"method":"version"}')
            assert json.loads(await here.get_message())["result"]["python"]
