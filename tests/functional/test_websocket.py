"""The WebSocket of the API on a real daemon: who may upgrade, what goes over it, and how it ends with the daemon."""

from __future__ import annotations

import socket

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.functional.http_guard import ORIGIN, VERSION, WRONG, subsets, upgraded
from tests.harness import (
    ANSWER,
    STOP_TIMEOUT,
    Process,
    daemon,
    fetch,
    ipc,
    upgrade_text,
    ws,
)


@pytest.mark.parametrize("wrong", subsets("host", "origin", "token"), ids=lambda wrong: "+".join(wrong) or "nothing")
async def test_upgrades_are_refused_in_the_same_order(guarded: Process, wrong: tuple[str, ...]) -> None:
    headers: dict[str, str | None] = {"origin": ORIGIN}
    for name in wrong:
        headers |= WRONG[name][1]
    assert await upgraded(guarded, **headers) == (WRONG[wrong[0]][0] if wrong else 101)


async def test_a_websocket_that_cannot_set_headers_brings_its_token_in_the_query(guarded: Process) -> None:
    token = guarded.token
    assert await upgraded(guarded, f"/ws?token={token}", authorization=None) == 101
    assert await upgraded(guarded, f"/ws?x=1&token={token}", authorization=None) == 101
    for query in (
        "",
        "?token=",
        "?token=nonsense",
        f"?token={token}&token={token}",
        f"?Token={token}",
        f"?token={token}%00",
    ):
        assert await upgraded(guarded, f"/ws{query}", authorization=None) == 401
    assert await upgraded(guarded, f"/ws?token={token}", authorization="Bearer nonsense") == 401


async def test_other_paths_are_no_websockets(guarded: Process) -> None:
    for path in ("/rpc", "/", "/healthz"):
        assert await upgraded(guarded, path) in (400, 404, 405)
    assert (await fetch(guarded, "GET", "/ws")).status in (400, 404, 405, 426)


async def test_text_and_binary_messages_are_both_json(guarded: Process) -> None:
    async with ws(guarded) as connection:
        for message in (VERSION.decode(), VERSION):
            await connection.websocket.send_message(message)
            assert (await connection.receive())["id"] == 1


async def test_many_messages_right_behind_the_handshake_are_answered(guarded: Process) -> None:
    """Of more than ten, none was: the endpoint waited for itself to take them."""
    text = b'{"jsonrpc":"2.0","id":1,"method":"version"}'
    message = bytes((0x81, 0x80 | len(text))) + bytes(4) + text
    found = b""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:
            await stream.send_all(upgrade_text(guarded) + message * 30)
            while found.count(b'"result"') < 30:
                found += await stream.receive_some()


async def test_garbage_on_a_websocket_is_answered_and_the_connection_goes_on(guarded: Process) -> None:
    async with ws(guarded) as connection:
        for message in ("nonsense", b"\xff\xfe", ""):
            await connection.websocket.send_message(message)
            assert (await connection.receive())["error"]["code"] == -32700
        assert (await connection.call("status"))["state"] == "started"


async def test_a_client_that_vanishes_leaves_the_others_alone(guarded: Process) -> None:
    async with ws(guarded) as survivor:
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:
                await stream.send_all(upgrade_text(guarded))
                assert b" 101 " in await stream.receive_some()
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
        assert (await survivor.call("status"))["state"] == "started"


# --------------------------------------------------------------------------------------------------------------------
# A stop


async def test_a_stop_closes_websockets_with_1001_whether_they_read_or_not() -> None:
    settings = {
        "node.auto_start": False,
        "node.bootstrap_nodes": ["/ip4/127.0.0.1/tcp/1/p2p/" + "0" * 15000],  # events of 15 KB without end
        "node.max_retries": 10**9,
        "node.retry_delay": 0,
        "api.header_timeout": 600_000,  # so that what half a request gets is the stop's
        "log.level": "warning",
    }
    async with (
        daemon(settings) as running,
        ws(running) as reader,
        ws(running) as stuck,
        await trio.open_tcp_stream("127.0.0.1", running.port) as half,
    ):
        await half.send_all(b"POST /rpc HTTP/1.1\r\nhost: localhost\r\n")  # and nothing more
        await stuck.call("subscribe")
        async with ipc(running) as connection:
            head = (await connection.call("start"))["head"]
            while (await connection.call("status"))["head"] < head + 1000:  # more than its socket holds
                pass
        began = trio.current_time()
        await running.stop()
        assert trio.current_time() - began < STOP_TIMEOUT
        with pytest.raises(ConnectionClosed) as raised:
            await reader.websocket.get_message()
        assert (raised.value.reason.code, raised.value.reason.reason) == (1001, "the daemon is stopping")
        assert await half.receive_some() == b""
