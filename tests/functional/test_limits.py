"""Limits that explain themselves, on real daemons: each refusal says what the limit is, how much there is, and the key
that sets it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import fabstir_client
from tests.functional.asking import asking
from tests.functional.bounds import WITHIN, bound, cancelled, message, silence, until_bound
from tests.harness import Connection, Json, Process, Reply, asked_until, daemon, ipc, post, process, request_text, ws

SMALL = {
    "api.max_calls": 2,
    "api.max_subscriptions": 2,
    "api.max_ipc_connections": 3,
    "api.max_http_connections": 3,
    "api.max_request_values": 100,
    "api.max_answer_bytes": 20000,
}
# Of daemons of their own: a busy machine takes as long for what is to succeed
HASTY = {"api.header_timeout": 300, "api.body_timeout": 300}
RESTLESS = {"api.idle_timeout": 2000}


@contextmanager
def shared(settings: Mapping[str, Any]) -> Iterator[Process]:
    with process(settings) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


@pytest.fixture(scope="module")
def limited_daemon() -> Iterator[Process]:
    with shared(SMALL) as running:
        yield running


@pytest.fixture
async def small(limited_daemon: Process) -> Process:
    """A daemon with small limits, shared by the tests of this module. What the one before has held is free again."""

    async def let_in() -> bool:
        async with ipc(limited_daemon) as connection:
            try:
                await connection.send({"jsonrpc": "2.0", "id": 1, "method": "status"})
            except trio.BrokenResourceError:
                return False  # it was turned away already
            if (text := await connection.receive_text()) is None or b"result" not in text:
                return False  # they are still counted
            await alone(connection)
            return True

    await asked_until(let_in, bool, within=60)
    return limited_daemon


@pytest.fixture(scope="module")
def hasty() -> Iterator[Process]:
    """A daemon that gives its callers little time to say what they want."""
    with shared(HASTY) as running:
        yield running


@pytest.fixture(scope="module")
def restless() -> Iterator[Process]:
    """A daemon that closes connections that rest."""
    with shared(RESTLESS) as running:
        yield running


async def alone(connection: Connection) -> None:
    """Wait until no other connection is counted."""
    await until_bound(connection, "ipcConnections", 1)
    await until_bound(connection, "httpConnections", 0)


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
    async with ipc(small) as first:
        await alone(first)
        async with AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(ipc(small))
            await until_bound(first, "ipcConnections", 3)
            async with ipc(small) as refused:
                answer = await refused.receive()
                assert limited(answer["error"], "LIMIT_EXCEEDED", 3, "api.max_ipc_connections"), answer
                assert (answer["id"], await refused.receive_text()) == (None, None)
            assert await bound(first, "ipcConnections") == (3, 3)
        await until_bound(first, "ipcConnections", 1)


async def test_connections_over_http(small: Process) -> None:
    async with ipc(small) as connection, AsyncExitStack() as held:
        await alone(connection)
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
        await alone(connection)
        before = (await bound(connection, "fileDescriptors"))[0]
        crowd = []
        for _ in range(300):
            crowd.append(socket.create_connection(("127.0.0.1", small.port)))
        assert "result" in await connection.answer("version")
        for one in crowd:
            one.close()
        await until_bound(connection, "httpConnections", 0)
        with trio.fail_after(WITHIN):
            while (await bound(connection, "fileDescriptors"))[0] > before:
                pass


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
    async with ipc(small) as watching, transport(small) as connection:
        head = (await connection.call("status"))["head"]
        for number in range(6):
            asked = {"after": head, "types": ["p2p:stopped"], "timeout": 60_000}
            await connection.send(message("events", asked, 100 + number))
        await until_bound(watching, "calls", 2)
        assert (await bound(watching, "calls"))[1] == 2
        await watching.call("stop")  # which the two wait for, and those behind them find there
        await watching.call("start")
        answered = [await connection.receive() for _ in range(6)]
        assert sorted(one["id"] for one in answered) == [100 + number for number in range(6)]
        assert all(one["result"]["events"] for one in answered)
        await until_bound(watching, "calls", 0)


@pytest.mark.parametrize("way", ["ipc", "http", "ws"])
async def test_values_in_a_text(small: Process, way: str) -> None:
    async with asking(small, way) as ask:
        answer = await ask({**message("events"), "params": {"types": ["peer:connect"] * 101}})
        assert limited(answer["error"], "TOO_LARGE", 100, "api.max_request_values"), answer
        assert answer["id"] == message("events")["id"]
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


@pytest.mark.parametrize("way", ["ipc", "http"])
async def test_the_client_is_told_which_limit_it_met(small: Process, way: str) -> None:
    async with AsyncExitStack() as held:
        first = await held.enter_async_context(ipc(small))
        await alone(first)
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
async def test_a_head_that_does_not_end(hasty: Process, begun: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", hasty.port) as stream:
        await stream.send_all(begun)
        reply = reply_of(await read_all(stream))
    assert reply.status == 408
    assert too_many(reply, "LIMIT_EXCEEDED", 300, "api.header_timeout")


async def test_a_head_that_comes_drop_by_drop(hasty: Process) -> None:
    """The limit is on the whole, not on the time between two drops."""
    async with await trio.open_tcp_stream("127.0.0.1", hasty.port) as stream, trio.open_nursery() as nursery:

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


async def test_a_second_head_has_its_own_time(hasty: Process) -> None:
    """Time that a connection rests is not counted."""
    whole = request_text("GET", "/healthz", {"host": "localhost"})
    async with await trio.open_tcp_stream("127.0.0.1", hasty.port) as stream:
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
async def test_a_body_that_does_not_end(hasty: Process, chunked: bool) -> None:
    headers = {"content-type": "application/json"} | (
        {"transfer-encoding": "chunked"} if chunked else {"content-length": "100"}
    )
    headers |= {"host": "localhost", "authorization": f"Bearer {hasty.token}"}
    begun = b"10\r\n{\r\n" if chunked else b"{"
    async with await trio.open_tcp_stream("127.0.0.1", hasty.port) as stream:
        await stream.send_all(request_text("POST", "/rpc", headers, begun[:3]))
        reply = reply_of(await read_all(stream))
    assert reply.status == 408
    assert too_many(reply, "LIMIT_EXCEEDED", 300, "api.body_timeout")


async def test_a_line_that_does_not_end(hasty: Process) -> None:
    async with ipc(hasty) as connection:
        await connection.stream.send_all(json.dumps(message("version")).encode() + b'\n{"jsonrpc":')
        answers = {answer["id"]: answer for answer in [await connection.receive() for _ in range(2)]}
        assert "result" in answers[1]
        assert limited(answers[None]["error"], "LIMIT_EXCEEDED", 300, "api.body_timeout"), answers
        assert await connection.receive_text() is None


async def test_a_line_that_waits_between_two_is_none(hasty: Process) -> None:
    """A connection over IPC may rest for as long as it likes."""
    async with ipc(hasty) as connection:
        for _ in range(2):
            assert "result" in await connection.answer("version")
            await trio.sleep(0.5)


async def test_an_idle_connection_over_http_is_closed(restless: Process) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", restless.port) as stream:
        assert await read_all(stream) == b""


async def test_an_idle_websocket_is_not(restless: Process) -> None:
    async with ws(restless) as connection:
        await trio.sleep(2.5)
        assert "result" in await connection.answer("version")


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
        assert limited((await connection.response())["error"], "TOO_LARGE", 2, "api.max_batch")
        before = len(running.lines())
        file.write_text("[api]\nmax_batch = 3\nmax_subscriptions = 2\nmax_ipc_connections = 1\n")
        os.kill(running.pid, signal.SIGHUP)
        await running.line("configuration reloaded", after=before)
        await connection.call("subscribe")
        await connection.send(three)
        assert len(await connection.response()) == 3
        async with ipc(running) as refused:
            assert "max_ipc_connections" in (await refused.receive())["error"]["message"]
        assert (await connection.call("config"))["api"]["max_subscriptions"] == 2
