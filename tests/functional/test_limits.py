"""Limits that explain themselves, on real daemons: each refusal says what the limit is, how much there is, and the key
that sets it. And calls whose callers go away."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import fabstir_client
from tests.functional.running import (
    Connection,
    Json,
    Process,
    Reply,
    daemon,
    ipc,
    post,
    process,
    request_text,
    ws,
)

WITHIN = 30  # seconds; a bound, never a wait
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
SMALL = {
    "api.max_calls": 2,
    "api.max_subscriptions": 2,
    "api.max_ipc_connections": 3,
    "api.max_http_connections": 3,
    "api.max_request_values": 100,
    "api.max_answer_bytes": 20000,
    "api.header_timeout": 300,
    "api.body_timeout": 300,
    "api.idle_timeout": 1000,
}


@pytest.fixture(scope="module")
def small() -> Iterator[Process]:
    """A daemon with small limits, shared by the tests of this module."""
    with process(SMALL) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


@pytest.fixture(scope="module")
def usual() -> Iterator[Process]:
    """A daemon with the limits that it comes with."""
    with process() as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


def message(method: str, params: Any = None, number: int = 1) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": method, **({} if params is None else {"params": params})}


async def bound(connection: Connection, name: str) -> tuple[int, int]:
    told = (await connection.call("metrics"))["bounds"][name]
    return told["current"], told["limit"]


async def until_bound(connection: Connection, name: str, current: int) -> None:
    seen = -1
    with trio.fail_after(WITHIN):
        while seen != current:
            seen, _ = await bound(connection, name)
            await trio.sleep(0.01)


def limited(error: Json, code: str, limit: int, key: str) -> bool:
    data = error["data"]
    return (data["code"], data["limit"], data["configKey"]) == (code, limit, key) and data["current"] >= limit


def too_many(reply: Reply, code: str, limit: int, key: str) -> bool:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["connection"] == "close"
    return limited({"data": reply.json}, code, limit, key) and reply.json["message"] != ""


# --------------------------------------------------------------------------------------------------------------------
# Numbers


async def test_connections_over_ipc(small: Process) -> None:
    async with AsyncExitStack() as held:
        first, *_ = [await held.enter_async_context(ipc(small)) for _ in range(3)]
        await until_bound(first, "ipcConnections", 3)
        async with ipc(small) as refused:
            answer = await refused.receive()
            assert limited(answer["error"], "LIMIT_EXCEEDED", 3, "api.max_ipc_connections"), answer
            assert (answer["id"], await refused.receive_text()) == (None, None)
        assert await bound(first, "ipcConnections") == (3, 3)
    async with ipc(small) as again:
        await until_bound(again, "ipcConnections", 1)


async def test_connections_over_http(small: Process) -> None:
    async with ipc(small) as connection, AsyncExitStack() as held:
        sockets = [await held.enter_async_context(ws(small)) for _ in range(3)]
        await until_bound(connection, "httpConnections", 3)
        reply = await post(small, message("version"))
        assert reply.status == 503
        assert too_many(reply, "LIMIT_EXCEEDED", 3, "api.max_http_connections")
        assert await bound(connection, "httpConnections") == (3, 3)
        assert "result" in await sockets[0].answer("version")  # those that are in are served
    async with ipc(small) as connection:
        await until_bound(connection, "httpConnections", 0)
        assert (await post(small, message("version"))).status == 200


async def test_a_crowd_that_is_turned_away_leaves_nothing_behind(small: Process) -> None:
    """Many more than the limit, all at once, that say nothing: those in it stay served, and no descriptor is lost."""
    async with ipc(small) as connection:
        before = (await bound(connection, "fileDescriptors"))[0]
        crowd = []
        for _ in range(300):
            crowd.append(socket.create_connection(("127.0.0.1", small.port)))
        assert "result" in await connection.answer("version")
        for one in crowd:
            one.close()
        await until_bound(connection, "httpConnections", 0)
        await until_bound(connection, "fileDescriptors", before)


@pytest.mark.parametrize("transport", [ipc, ws])
async def test_subscriptions_on_one_connection(small: Process, transport: Any) -> None:
    async with transport(small) as connection:
        names = [(await connection.call("subscribe"))["subscription"] for _ in range(2)]
        error = await connection.error("subscribe")
        assert limited(error, "LIMIT_EXCEEDED", 2, "api.max_subscriptions"), error
        assert await bound(connection, "subscriptions") == (2, 2)
        await connection.call("unsubscribe", [names[0]])
        await connection.call("subscribe")
    async with transport(small) as other:
        await other.call("subscribe")


@pytest.mark.parametrize("transport", [ipc, ws])
async def test_calls_beyond_the_limit_wait_and_are_answered(small: Process, transport: Any) -> None:
    async with transport(small) as connection, ipc(small) as watching:
        head = (await connection.call("status"))["head"]
        for number in range(6):
            await connection.send(message("events", {"after": head, "timeout": 1500}, 100 + number))
        await until_bound(watching, "calls", 2)
        assert (await bound(watching, "calls"))[1] == 2
        answered = [(await connection.receive())["id"] for _ in range(6)]
        assert sorted(answered) == [100 + number for number in range(6)]
        await until_bound(watching, "calls", 0)


@pytest.mark.parametrize("way", ["ipc", "http", "ws"])
async def test_values_in_a_text(small: Process, way: str) -> None:
    async with asking(small, way) as ask:
        answer = await ask({**message("events"), "params": {"types": ["peer:connect"] * 101}})
        assert limited(answer["error"], "TOO_LARGE", 100, "api.max_request_values"), answer
        assert answer["id"] is None
        answer = await ask([message("version")] * 30)
        assert limited(answer["error"], "TOO_LARGE", 100, "api.max_request_values"), answer
        assert "result" in await ask(message("events", {"types": ["peer:connect"] * 80}))


@pytest.mark.parametrize("way", ["ipc", "http", "ws"])
async def test_an_answer_that_is_too_large(small: Process, way: str) -> None:
    async with asking(small, way) as ask:
        answer = await ask(message("rpc.discover", number=7))
        assert limited(answer["error"], "TOO_LARGE", 20000, "api.max_answer_bytes"), answer
        assert answer["id"] == 7
        assert "result" in await ask(message("version"))


@asynccontextmanager
async def asking(running: Process, way: str) -> AsyncIterator[Any]:
    """Sends a message that is answered by one, over this transport."""
    if way == "http":

        async def ask_by_post(said: Any) -> Any:
            return (await post(running, said)).json

        yield ask_by_post
        return
    async with ipc(running) if way == "ipc" else ws(running) as connection:

        async def ask(said: Any) -> Any:
            await connection.send(said)
            return await connection.receive()

        yield ask


@pytest.mark.parametrize("way", ["ipc", "http"])
async def test_the_client_is_told_which_limit_it_met(small: Process, way: str) -> None:
    async with AsyncExitStack() as held:
        first = await held.enter_async_context(ipc(small))
        for _ in range(2 if way == "ipc" else 3):
            await held.enter_async_context(ipc(small) if way == "ipc" else ws(small))
        await until_bound(first, f"{way}Connections", 3)
        api = f"ipc:{small.api['ipc']}" if way == "ipc" else f"http://127.0.0.1:{small.port}"
        with pytest.raises(fabstir_client.LimitExceeded) as raised:
            await trio.to_thread.run_sync(ask_status, api, small.token)
        assert raised.value.data == {"limit": 3, "current": 3, "configKey": f"api.max_{way}_connections"}
        assert f"[api] max_{way}_connections" in str(raised.value)


def ask_status(api: str, token: str) -> None:
    with fabstir_client.connect_sync(api=api, token=token if api.startswith("http") else None) as client:
        client.status()


# --------------------------------------------------------------------------------------------------------------------
# Times


async def read_all(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    with trio.fail_after(WITHIN):
        try:
            async for data in stream:
                received += data
        except trio.BrokenResourceError:
            pass  # closed with something of ours unread
    return bytes(received)


def reply_of(received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Reply(int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body)


@pytest.mark.parametrize("begun", [b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"])
async def test_a_head_that_does_not_end(small: Process, begun: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", small.port) as stream:
        await stream.send_all(begun)
        reply = reply_of(await read_all(stream))
    assert reply.status == 408
    assert too_many(reply, "LIMIT_EXCEEDED", 300, "api.header_timeout")


async def test_a_head_that_comes_drop_by_drop(small: Process) -> None:
    """The limit is on the whole, not on the time between two drops."""
    async with await trio.open_tcp_stream("127.0.0.1", small.port) as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            try:
                for byte in request_text("GET", "/healthz", {"host": "localhost", "x": "y" * 10000}):
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.02)
            except trio.BrokenResourceError:
                pass  # it has been closed, as it should be

        nursery.start_soon(drip)
        assert reply_of(await read_all(stream)).status == 408
        nursery.cancel_scope.cancel()


async def test_a_second_head_has_its_own_time(small: Process) -> None:
    """Time that a connection rests is not counted."""
    whole = request_text("GET", "/healthz", {"host": "localhost"})
    async with await trio.open_tcp_stream("127.0.0.1", small.port) as stream:
        for _ in range(3):
            await stream.send_all(whole)
            received = b""
            with trio.fail_after(WITHIN):
                while not received.endswith(b"}"):
                    received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 200")
            await trio.sleep(0.4)
        await stream.send_all(whole[:20])
        assert reply_of(await read_all(stream)).status == 408


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_does_not_end(small: Process, chunked: bool) -> None:
    headers = {"content-type": "application/json"} | (
        {"transfer-encoding": "chunked"} if chunked else {"content-length": "100"}
    )
    headers |= {"host": "localhost", "authorization": f"Bearer {small.token}"}
    begun = b"10\r\n{\r\n" if chunked else b"{"
    async with await trio.open_tcp_stream("127.0.0.1", small.port) as stream:
        await stream.send_all(request_text("POST", "/rpc", headers, begun[:3]))
        reply = reply_of(await read_all(stream))
    assert reply.status == 408
    assert too_many(reply, "LIMIT_EXCEEDED", 300, "api.body_timeout")


async def test_a_line_that_does_not_end(small: Process) -> None:
    async with ipc(small) as connection:
        await connection.stream.send_all(json.dumps(message("version")).encode() + b'\n{"jsonrpc":')
        answers = {answer["id"]: answer for answer in [await connection.receive() for _ in range(2)]}
        assert "result" in answers[1]
        assert limited(answers[None]["error"], "LIMIT_EXCEEDED", 300, "api.body_timeout"), answers
        assert await connection.receive_text() is None


async def test_a_line_that_waits_between_two_is_none(small: Process) -> None:
    """A connection over IPC may rest for as long as it likes."""
    async with ipc(small) as connection:
        for _ in range(2):
            assert "result" in await connection.answer("version")
            await trio.sleep(0.5)


async def test_an_idle_connection_over_http_is_closed(small: Process) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", small.port) as stream:
        assert await read_all(stream) == b""


async def test_an_idle_websocket_is_not(small: Process) -> None:
    async with ws(small) as connection:
        await trio.sleep(1.5)
        assert "result" in await connection.answer("version")


# --------------------------------------------------------------------------------------------------------------------
# Callers that do not read


DISCOVER = json.dumps(message("rpc.discover")).encode()  # its answer is large


@asynccontextmanager
async def flooding(running: Process, way: str) -> AsyncIterator[None]:
    """A connection that asks for much more than the sockets hold, and reads none of it."""
    if way == "ipc":
        stream = await trio.open_unix_socket(running.api["ipc"])
        said = DISCOVER + b"\n"
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        said = bytes([0x81, 0x80 | len(DISCOVER), 0, 0, 0, 0]) + DISCOVER  # a frame, masked with zeros
        headers = {"host": "localhost", "upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
        headers |= {"authorization": f"Bearer {running.token}", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        await stream.send_all(request_text("GET", "/ws", headers))
        with trio.fail_after(WITHIN):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    async with stream, trio.open_nursery() as nursery:

        async def flood() -> None:
            try:
                await stream.send_all(said * 2000)
            except trio.BrokenResourceError:
                pass  # it has been closed, as it should be

        nursery.start_soon(flood)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["ipc", "ws"])
async def test_who_does_not_read_is_closed_after_a_while(way: str) -> None:
    async with daemon({"api.send_timeout": 1000}) as running, ipc(running) as watching:
        async with flooding(running, way):
            line = await running.line("a caller does not read; its connection is closed", key="api.send_timeout")
            assert (line["level"], line["limit"], line["waiting"] > 0) == ("warning", 1000, True)
            await until_bound(watching, "ipcConnections", 1)
            await until_bound(watching, "httpConnections", 0)
        assert await bound(watching, "sendQueueBytes") == (0, 33554432)


@pytest.mark.parametrize("transport", [ipc, ws])
async def test_who_leaves_too_much_unread_is_closed_at_once(transport: Any) -> None:
    """What calls that were let in answer together may be more than is kept for one caller."""
    settings = {"api.max_send_queue_bytes": 100_000, "log.level": "debug"}
    async with daemon(settings) as running, ipc(running) as watching, transport(running) as connection:
        for number in range(64):
            await connection.send([message("rpc.discover", number=number), message("events", {"timeout": 1})])
        line = await running.line("a caller does not read; its connection is closed", key="api.max_send_queue_bytes")
        assert line["limit"] == 100_000
        await until_bound(watching, "ipcConnections", 1)
        await until_bound(watching, "httpConnections", 0)


async def test_a_subscriber_that_does_not_read_is_closed_although_nothing_happens() -> None:
    """Heartbeats alone fill its socket in the end."""
    settings = {"api.send_timeout": 1000, "events.heartbeat": 2}
    async with daemon(settings) as running, ipc(running) as watching, ipc(running) as connection:
        await connection.call("subscribe")
        await until_bound(watching, "subscriptions", 1)
        line = await running.line("a caller does not read; its connection is closed", key="api.send_timeout")
        assert line["waiting"] < 1000
        await until_bound(watching, "subscriptions", 0)


async def test_a_subscriber_that_reads_again_gets_its_heartbeats_whole() -> None:
    async with daemon({"events.heartbeat": 2}) as running, ipc(running) as watching, ipc(running) as connection:
        await connection.call("subscribe")
        seen = -1
        with trio.fail_after(WITHIN):
            while seen <= 0:  # until something waits for it
                seen, _ = await bound(watching, "sendQueueBytes")
        for _ in range(2000):  # more than the socket held: they go on
            await connection.notification("heartbeat")


# --------------------------------------------------------------------------------------------------------------------
# Callers that go away


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[str, Any]]:
    """An address that takes connections and never speaks: a dial to it lasts as long as it may. And what waits until
    somebody has come."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        taken: list[socket.socket] = []

        async def come() -> None:
            with trio.fail_after(WITHIN):
                taken.append((await trio.to_thread.run_sync(listener.accept, abandon_on_cancel=True))[0])

        yield f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}/p2p/{STRANGER}", come
        for one in taken:
            one.close()


async def cancelled(watching: Connection, since: int, count: int = 1) -> list[Json]:
    """The audit's entries after number ``since``, once they are so many."""
    with trio.fail_after(WITHIN):
        while True:
            told = await watching.call("audit", {"after": since, "limit": 1000})
            if len(told["entries"]) >= count:
                return list(told["entries"])
            await trio.sleep(0.01)


@pytest.mark.parametrize("way", ["ipc", "http", "ws"])
async def test_a_call_ends_with_its_caller(usual: Process, way: str) -> None:
    dialling = {"timeout": 600_000}
    async with ipc(usual) as watching, silence() as (address, come):
        since = (await watching.call("audit", {"limit": 1}))["head"]
        said = message("connect", {"address": address, **dialling})
        if way == "http":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post, usual, said)
                await come()
                nursery.cancel_scope.cancel()
        else:
            async with ipc(usual) if way == "ipc" else ws(usual) as connection:
                await connection.send(said)
                await come()
        (entry,) = await cancelled(watching, since)
        assert (entry["method"], entry["outcome"], entry["transport"]) == ("connect", "CANCELLED", way)


@pytest.mark.parametrize("way", ["ipc", "ws"])
async def test_a_caller_that_goes_while_it_is_not_read_is_noticed_too(small: Process, way: str) -> None:
    """All its calls are in flight, and more wait behind them unread."""
    async with ipc(small) as watching, silence() as (address, come):
        since = (await watching.call("audit", {"limit": 1}))["head"]
        async with ipc(small) if way == "ipc" else ws(small) as connection:
            for number in range(20):
                await connection.send(message("connect", {"address": address, "timeout": 600_000}, number))
            await come()
            await until_bound(watching, "calls", 2)
        entries = await cancelled(watching, since, 2)
        assert {(entry["method"], entry["outcome"]) for entry in entries} == {("connect", "CANCELLED")}
        await until_bound(watching, "calls", 0)
        await until_bound(watching, "httpConnections", 0)
        await until_bound(watching, "ipcConnections", 1)


async def test_who_only_ends_what_it_sends_is_still_answered(usual: Process) -> None:
    """``printf … | nc -U``: longer than any fixed grace."""
    async with ipc(usual) as connection:
        head = (await connection.call("status"))["head"]
        await connection.send(message("events", {"after": head, "timeout": 6000}, 7))
        await connection.stream.send_eof()
        with trio.fail_after(WITHIN):
            answer = json.loads(await connection.receive_text() or b"null")
        assert (answer["id"], answer["result"]["events"]) == (7, [])
        assert await connection.receive_text() is None


# --------------------------------------------------------------------------------------------------------------------
# While the daemon runs


async def test_limits_change_on_sighup(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[api]\nmax_batch = 2\nmax_subscriptions = 1\n")
    async with daemon(arguments=("--config", str(file))) as running, ipc(running) as connection:
        await connection.call("subscribe")
        assert limited(await connection.error("subscribe"), "LIMIT_EXCEEDED", 1, "api.max_subscriptions")
        three = [message("version", number=number) for number in range(3)]
        await connection.send(three)
        assert limited((await connection.receive())["error"], "TOO_LARGE", 2, "api.max_batch")
        before = len(running.lines())
        file.write_text("[api]\nmax_batch = 3\nmax_subscriptions = 2\nmax_ipc_connections = 1\n")
        os.kill(running.pid, signal.SIGHUP)
        await running.line("configuration reloaded", after=before)
        await connection.call("subscribe")
        await connection.send(three)
        assert len(await connection.receive()) == 3
        async with ipc(running) as refused:
            assert "max_ipc_connections" in (await refused.receive())["error"]["message"]
        assert (await connection.call("config"))["api"]["max_subscriptions"] == 2
