"""Callers that do not read, and callers that go away, on real daemons."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.functional.bounds import WITHIN, bound, cancelled, message, silence, until_bound
from tests.harness import Process, daemon, ipc, post, process, request_text, ws


@pytest.fixture(scope="module")
def usual() -> Iterator[Process]:
    """A daemon with the limits that it comes with."""
    with process() as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


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
        await until_bound(watching, "sendQueueBytes", 0)
        assert await bound(watching, "sendQueueBytes") == (0, 33554432)


@pytest.mark.parametrize("transport", [ipc, ws])
async def test_who_leaves_too_much_unread_is_closed_at_once(transport: Any) -> None:
    """What calls that were let in answer together may be more than is kept for one caller."""
    settings = {"api.max_send_queue_bytes": 100_000, "log.level": "debug"}
    async with daemon(settings) as running, ipc(running) as watching, transport(running) as connection:
        await running.started()
        head = (await watching.call("status"))["head"]
        for number in range(8):  # each waits for the next event, so that all are answered together
            waiting = message("events", {"after": head, "timeout": 60_000})
            await connection.send([message("rpc.discover", number=number), waiting])
        await until_bound(watching, "calls", 8)
        await watching.call("stop")
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
