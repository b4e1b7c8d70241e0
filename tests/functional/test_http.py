"""HTTP and WebSocket, byte by byte: who may speak, in what order that is decided, and what a stop does to it."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio_websocket import ConnectionClosed

from fabstird.rpc.methods import METHODS
from tests.functional.running import (
    ANSWER,
    STOP,
    Process,
    daemon,
    exchange,
    fetch,
    ipc,
    post,
    process,
    request_text,
    ws,
)
from tests.support.waiting import until

LIMIT = 2000
ORIGIN = "https://app.example.org"
VERSION = b'{"jsonrpc": "2.0", "id": 1, "method": "version"}'
STOP_CALL = b'{"jsonrpc": "2.0", "id": 1, "method": "stop"}'


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    """A daemon that logs all it can, shared by the tests of this module: each leaves its node started."""
    settings = {
        "api.allowed_hosts": ["localhost", "127.0.0.1", "::1", "fabstird.example"],
        "api.allowed_origins": [ORIGIN],
        "api.max_request_bytes": LIMIT,
        "log.level": "debug",
    }
    with process(settings) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)
        assert running.token not in running.text()


async def state(running: Process) -> Any:
    async with ipc(running) as connection:
        return (await connection.call("status"))["state"]


# --------------------------------------------------------------------------------------------------------------------
# The guard


def subsets(*names: str) -> list[tuple[str, ...]]:
    return [some for size in range(len(names) + 1) for some in combinations(names, size)]


WRONG: dict[str, tuple[int, dict[str, str | None]]] = {  # in CONTRACT's order: Host, Origin, token, content type, size
    "host": (403, {"host": "evil.example"}),
    "origin": (403, {"origin": "https://evil.example"}),
    "token": (401, {"authorization": "Bearer nonsense"}),
    "type": (415, {"content_type": "text/plain"}),
    "size": (413, {}),
}
WORDS = {
    "host": "this Host is not in [api] allowed_hosts",
    "origin": "this Origin is not in [api] allowed_origins",
    "token": "needs Authorization: Bearer <api.token>",
    "type": "the content type must be application/json",
    "size": f'{{"message":"a body of more than {LIMIT} bytes","code":"TOO_LARGE","retryable":false,"limit":{LIMIT},'
    f'"current":{LIMIT + 1},"configKey":"api.max_request_bytes"}}',
}


@pytest.mark.parametrize("wrong", subsets(*WRONG), ids=lambda wrong: "+".join(wrong) or "nothing")
async def test_the_first_thing_that_is_wrong_decides(shared: Process, wrong: tuple[str, ...]) -> None:
    headers: dict[str, str | None] = {"origin": ORIGIN}
    for name in wrong:
        headers |= WRONG[name][1]
    body = STOP_CALL.ljust(LIMIT + 1) if "size" in wrong else STOP_CALL
    reply = await fetch(shared, "POST", "/rpc", body, **headers)
    if not wrong:
        assert (reply.status, reply.json["result"]["state"]) == (200, "stopped")
        await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "start"})
        return
    assert reply.status == WRONG[wrong[0]][0]
    assert reply.body.decode().strip() == WORDS[wrong[0]]
    assert "access-control-allow-origin" not in reply.headers
    assert await state(shared) == "started"  # nothing was executed


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("localhost:4780", 200),
        ("LOCALHOST", 200),
        ("[::1]:4780", 200),
        ("[::1]", 200),
        ("fabstird.example", 200),
        ("fabstird.example:80", 200),
        (None, 400),  # HTTP/1.1 without a Host is not HTTP/1.1
        ("", 403),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:127.0.0.1", 403),
        ("127.0.0.1@evil.example", 403),
        ("192.0.2.1", 403),
        ("[::1].evil.example", 403),
        ("[::1", 403),
    ],
)
async def test_hosts(shared: Process, host: str | None, status: int) -> None:
    assert (await fetch(shared, "GET", "/healthz", host=host)).status == status
    assert (await fetch(shared, "POST", "/rpc", VERSION, host=host)).status == status


async def test_two_hosts_are_none(shared: Process) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    assert (await exchange(shared.port, request)).status in (400, 403)


async def test_an_absolute_target_does_not_stand_for_the_host(shared: Process) -> None:
    request = b"GET http://localhost/healthz HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    assert (await exchange(shared.port, request)).status == 403


@pytest.mark.parametrize(
    "origin", ["null", "", "https://app.example.org.evil.example", "http://app.example.org", ORIGIN + "/"]
)
async def test_origins_are_compared_as_a_whole(shared: Process, origin: str) -> None:
    assert (await fetch(shared, "POST", "/rpc", VERSION, origin=origin)).status == 403
    assert (await fetch(shared, "GET", "/healthz", origin=origin)).status == 403


async def test_an_allowed_page_may_read_the_answer(shared: Process) -> None:
    reply = await fetch(shared, "POST", "/rpc", VERSION, origin=ORIGIN)
    assert (reply.status, reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (
        200,
        ORIGIN,
        "origin",
    )


async def test_a_preflight_needs_no_token_and_opens_nothing_to_others(shared: Process) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    reply = await fetch(shared, "OPTIONS", "/rpc", authorization=None, origin=ORIGIN, **asks)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "authorization" in reply.headers["access-control-allow-headers"]
    assert (
        await fetch(shared, "OPTIONS", "/rpc", authorization=None, origin="https://evil.example", **asks)
    ).status == 403
    assert (await fetch(shared, "OPTIONS", "/rpc", authorization=None, **asks)).status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "{token}",
        "Bearer",
        "Bearer ",
        "Bearer {token}x",
        "Bearer {head}",
        "Basic {token}",
        "Bearer ä",
        "Bearer {token} {token}",
        "Bearer {upper}",
    ],
)
@pytest.mark.parametrize(
    "path", ["/rpc", "/metrics", "/openrpc.json", "/ws", "/", "/no/such/path", "/healthz/", "/healthz/x"]
)
async def test_nothing_but_health_without_the_token(shared: Process, path: str, authorization: str | None) -> None:
    token = shared.token
    given = authorization and authorization.format(token=token, head=token[:-1], upper=token.swapcase())
    method, body = ("POST", STOP_CALL) if path == "/rpc" else ("GET", None)
    reply = await fetch(shared, method, path, body, authorization=given)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


async def test_nothing_was_executed_without_the_token(shared: Process) -> None:
    assert await state(shared) == "started"


async def test_the_scheme_is_read_as_http_says(shared: Process) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert (await fetch(shared, "POST", "/rpc", VERSION, authorization=f"{scheme} {shared.token}")).status == 200


async def test_two_tokens_are_none(shared: Process) -> None:
    right = f"authorization: Bearer {shared.token}\r\n"
    request = f"GET /metrics HTTP/1.1\r\nhost: localhost\r\n{right}{right}connection: close\r\n\r\n".encode()
    assert (await exchange(shared.port, request)).status == 401


async def test_a_token_in_the_query_is_for_websockets_only(shared: Process) -> None:
    for path in ("/rpc", "/metrics", "/openrpc.json"):
        method, body = ("POST", VERSION) if path == "/rpc" else ("GET", None)
        assert (await fetch(shared, method, f"{path}?token={shared.token}", body, authorization=None)).status == 401


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
        ("text/plain, application/json", 415),
    ],
)
async def test_content_types(shared: Process, content_type: str | None, status: int) -> None:
    assert (await fetch(shared, "POST", "/rpc", VERSION, content_type=content_type)).status == status


# --------------------------------------------------------------------------------------------------------------------
# Sizes


async def test_a_declared_body_over_the_limit_is_refused_unread(shared: Process) -> None:
    """The answer is there before a byte of the body is sent."""
    reply = await fetch(shared, "POST", "/rpc", b"", content_length=str(LIMIT + 1))
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert (await fetch(shared, "POST", "/rpc", b"", content_length=str(10**18))).status == 413


async def test_a_chunked_body_over_the_limit_is_refused(shared: Process) -> None:
    def chunked(body: bytes) -> bytes:
        headers = {
            "host": "localhost",
            "authorization": f"Bearer {shared.token}",
            "content-type": "application/json",
            "transfer-encoding": "chunked",
            "connection": "close",
        }
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:]) if part)
        return request_text("POST", "/rpc", headers, chunks + b"0\r\n\r\n")

    assert (await exchange(shared.port, chunked(VERSION.ljust(LIMIT)))).status == 200
    assert (await exchange(shared.port, chunked(VERSION.ljust(LIMIT + 1)))).status == 413
    assert (await exchange(shared.port, chunked(STOP_CALL.ljust(100 * LIMIT)))).status == 413
    assert await state(shared) == "started"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",  # TLS
        b"POST /rpc HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        b"POST /rpc HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: local host\r\nx" + b"y" * 100_000,
    ],
)
async def test_what_is_no_http_is_answered_400_and_closed(shared: Process, request_bytes: bytes) -> None:
    assert (await exchange(shared.port, request_bytes)).status in (400, 403, 431)
    assert (await fetch(shared, "GET", "/healthz")).status == 200


async def test_there_is_no_way_to_http_2(shared: Process) -> None:
    """An offer to upgrade is not taken, and who begins with it is refused; either connection ends with its client."""
    offer = {"connection": "close, Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    reply = await fetch(shared, "GET", "/metrics", authorization=None, **offer)
    assert reply.status == 401
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            await stream.send_eof()
            received = b"".join([data async for data in stream])
    assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))


# --------------------------------------------------------------------------------------------------------------------
# What there is


async def test_health_needs_no_token(shared: Process) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        reply = await fetch(shared, "GET", path, authorization=None)
        assert (reply.status, reply.json["status"]) == (200, status)
        assert (await fetch(shared, "GET", path, authorization="Bearer nonsense")).status == 200


async def test_a_stopped_node_is_healthy_and_not_ready(shared: Process) -> None:
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "stop"})
    assert (await fetch(shared, "GET", "/healthz")).status == 200
    reply = await fetch(shared, "GET", "/readyz")
    assert (reply.status, reply.headers["content-type"]) == (503, "application/json")
    reason = {"status": "not ready", "code": "NODE_STOPPED", "reason": "the node is stopped"}
    assert reason.items() <= reply.json.items()
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "start"})
    assert (await fetch(shared, "GET", "/readyz")).status == 200


async def test_a_failed_node_says_why_it_is_not_ready(shared: Process) -> None:
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "stop"})
    failing = {"listenAddresses": ["/ip4/192.0.2.77/tcp/0"]}
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "start", "params": [failing]})
    reply = await fetch(shared, "GET", "/readyz", authorization=None)
    assert (reply.status, reply.json["code"]) == (503, "NODE_FAILED")
    assert "/ip4/192.0.2.77/tcp/0" in reply.json["error"]
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "start"})


async def test_prometheus_reads_the_metrics_and_they_are_those_of_the_api(shared: Process) -> None:
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "status"})
    await post(shared, {"jsonrpc": "2.0", "id": 1, "method": "no.such.method"})
    reply = await fetch(shared, "GET", "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    samples = {s.name: s.value for family in families.values() for s in family.samples if not s.labels}
    async with ipc(shared) as connection:
        metrics = await connection.call("metrics")
    assert samples["fabstird_node_started"] == 1
    assert samples["fabstird_connections"] == metrics["connections"] == 0
    assert sum(s.value for s in families["libp2p_swarm_dial_errors"].samples) == metrics["failedConnections"]
    assert samples["fabstird_events_published_total"] == metrics["eventsPublished"]
    assert {s.labels["dir"] for s in families["libp2p_swarm_connections_opened"].samples} == {"inbound", "outbound"}
    calls = {(s.labels["method"], s.labels["outcome"]) for s in families["fabstird_rpc_calls"].samples}
    assert {("status", "ok"), ("unknown", "METHOD_NOT_FOUND")} <= calls
    assert all(method in {one.name for one in METHODS} | {"unknown"} for method, _ in calls)
    assert samples["process_open_fds"] > 0


async def test_the_openrpc_document_has_the_same_bytes_everywhere(shared: Process) -> None:
    reply = await fetch(shared, "GET", "/openrpc.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    command = [sys.executable, "-m", "fabstird", "openrpc"]
    printed = await trio.run_process(command, capture_stdout=True)
    assert reply.body == printed.stdout
    async with ipc(shared) as connection:
        assert await connection.call("rpc.discover") == reply.json


async def test_paths_and_methods_that_do_not_exist(shared: Process) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/no/such/path", 404),
        ("POST", "/ws", 405),
        ("GET", "/rpc", 405),
        ("PUT", "/rpc", 405),
        ("POST", "/metrics", 405),
        ("POST", "/healthz", 405),
    ):
        reply = await fetch(shared, method, path, b"{}" if method == "POST" else None)
        assert (method, path, reply.status) == (method, path, status)
        assert b"<" not in reply.body  # one plain line, not a page


async def test_one_connection_carries_many_requests(shared: Process) -> None:
    headers = {"host": "localhost", "authorization": f"Bearer {shared.token}", "content-type": "application/json"}
    request = request_text("POST", "/rpc", headers | {"content-length": str(len(VERSION))}, VERSION)
    last = request_text("GET", "/healthz", {"host": "localhost", "connection": "close"})
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
            await stream.send_all(request + request + last)
            received = b"".join([data async for data in stream])
    assert received.count(b"HTTP/1.1 200") == 3


def sockets(running: Process) -> int:
    """How many sockets the process has (Linux)."""
    found = 0
    for descriptor in Path(f"/proc/{running.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found += os.readlink(descriptor).startswith("socket:")
    return found


async def test_a_connection_ends_with_its_client(shared: Process) -> None:
    """Whether it has sent a request, half of one, several, nothing at all, or a WebSocket's upgrade."""
    before = sockets(shared)
    request = request_text("POST", "/rpc", {"host": "localhost", "content-length": "100"})
    for text in (
        b"",
        request[:20],
        request,
        request + b"{}",
        request_text("GET", "/healthz", {"host": "localhost"}) * 3,
    ):
        for half_closed in (True, False):
            async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
                await stream.send_all(text)
                if half_closed:
                    await stream.send_eof()
                    with trio.fail_after(ANSWER):
                        async for _ in stream:
                            pass
    poll = b'{"jsonrpc": "2.0", "id": 1, "method": "events", "params": {"after": 0, "types": [], "timeout": 60000}}'
    right = {"host": "localhost", "authorization": f"Bearer {shared.token}", "content-type": "application/json"}
    for _ in range(20):
        async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:  # gone before its answer
            await stream.send_all(request_text("POST", "/rpc", {**right, "content-length": str(len(poll))}, poll))
        assert await upgraded(shared) == 101
        assert (await fetch(shared, "POST", "/rpc", VERSION, connection="keep-alive, close")).status == 200
    await until(lambda: sockets(shared) <= before)


# --------------------------------------------------------------------------------------------------------------------
# WebSockets


def upgrade(running: Process, path: str = "/ws", **headers: str | None) -> bytes:
    right: dict[str, str | None] = {
        "host": f"127.0.0.1:{running.port}",
        "authorization": f"Bearer {running.token}",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(b"0" * 16).decode(),
    }
    right |= {name.replace("_", "-"): value for name, value in headers.items()}
    return request_text("GET", path, {name: value for name, value in right.items() if value is not None})


async def upgraded(running: Process, path: str = "/ws", **headers: str | None) -> int:
    """The status of the answer to an upgrade; 101 where it succeeds."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(upgrade(running, path, **headers))
            received = b""
            while b"\r\n" not in received:
                data = await stream.receive_some()
                assert data, received
                received += data
    return int(received.split(b" ")[1])


@pytest.mark.parametrize("wrong", subsets("host", "origin", "token"), ids=lambda wrong: "+".join(wrong) or "nothing")
async def test_upgrades_are_refused_in_the_same_order(shared: Process, wrong: tuple[str, ...]) -> None:
    headers: dict[str, str | None] = {"origin": ORIGIN}
    for name in wrong:
        headers |= WRONG[name][1]
    assert await upgraded(shared, **headers) == (WRONG[wrong[0]][0] if wrong else 101)


async def test_a_websocket_that_cannot_set_headers_brings_its_token_in_the_query(shared: Process) -> None:
    token = shared.token
    assert await upgraded(shared, f"/ws?token={token}", authorization=None) == 101
    assert await upgraded(shared, f"/ws?x=1&token={token}", authorization=None) == 101
    for query in (
        "",
        "?token=",
        "?token=nonsense",
        f"?token={token}&token={token}",
        f"?Token={token}",
        f"?token={token}%00",
    ):
        assert await upgraded(shared, f"/ws{query}", authorization=None) == 401
    assert await upgraded(shared, f"/ws?token={token}", authorization="Bearer nonsense") == 401


async def test_other_paths_are_no_websockets(shared: Process) -> None:
    for path in ("/rpc", "/", "/healthz"):
        assert await upgraded(shared, path) in (400, 404, 405)
    assert (await fetch(shared, "GET", "/ws")).status in (400, 404, 405, 426)


async def test_text_and_binary_messages_are_both_json(shared: Process) -> None:
    async with ws(shared) as connection:
        for message in (VERSION.decode(), VERSION):
            await connection.websocket.send_message(message)
            assert (await connection.receive())["id"] == 1


async def test_garbage_on_a_websocket_is_answered_and_the_connection_goes_on(shared: Process) -> None:
    async with ws(shared) as connection:
        for message in ("nonsense", b"\xff\xfe", ""):
            await connection.websocket.send_message(message)
            assert (await connection.receive())["error"]["code"] == -32700
        assert (await connection.call("status"))["state"] == "started"


async def test_a_client_that_vanishes_leaves_the_others_alone(shared: Process) -> None:
    async with ws(shared) as survivor:
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
                await stream.send_all(upgrade(shared))
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
        assert trio.current_time() - began < STOP
        with pytest.raises(ConnectionClosed) as raised:
            await reader.websocket.get_message()
        assert (raised.value.reason.code, raised.value.reason.reason) == (1001, "the daemon is stopping")
        assert await half.receive_some() == b""


async def test_a_shutdown_over_http_is_answered() -> None:
    with process({"node.auto_start": False}) as running:
        await running.ready()
        reply = await post(running, {"jsonrpc": "2.0", "id": 1, "method": "shutdown"})
        assert (reply.status, reply.json["result"]) == (200, {})
        assert await running.exited() == 0
