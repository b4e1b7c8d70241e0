"""HTTP and WebSocket, byte by byte: who may speak, in what order that is decided, and what a stop does to it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from fabstird.rpc.methods.table import METHODS
from tests.functional.http_guard import LIMIT, ORIGIN, VERSION, WRONG, subsets, upgraded
from tests.harness import (
    ANSWER,
    Process,
    exchange,
    fetch,
    ipc,
    post,
    process,
    request_text,
    until,
)

STOP_CALL = b'{"jsonrpc": "2.0", "id": 1, "method": "stop"}'


async def state(running: Process) -> Any:
    async with ipc(running) as connection:
        return (await connection.call("status"))["state"]


WORDS = {
    "host": "this Host is not in [api] allowed_hosts",
    "origin": "this Origin is not in [api] allowed_origins",
    "token": "the token is not valid: this daemon never issued it, or it was revoked",
    "type": "the content type must be application/json",
    "size": f'{{"message":"a body of more than {LIMIT} bytes","code":"TOO_LARGE","retryable":false,"limit":{LIMIT},'
    f'"current":{LIMIT + 1},"configKey":"api.max_request_bytes"}}',
}


@pytest.mark.parametrize("wrong", subsets(*WRONG), ids=lambda wrong: "+".join(wrong) or "nothing")
async def test_the_first_thing_that_is_wrong_decides(guarded: Process, wrong: tuple[str, ...]) -> None:
    headers: dict[str, str | None] = {"origin": ORIGIN}
    for name in wrong:
        headers |= WRONG[name][1]
    body = STOP_CALL.ljust(LIMIT + 1) if "size" in wrong else STOP_CALL
    reply = await fetch(guarded, "POST", "/rpc", body, **headers)
    if not wrong:
        assert (reply.status, reply.json["result"]["state"]) == (200, "stopped")
        await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "start"})
        return
    assert reply.status == WRONG[wrong[0]][0]
    assert reply.body.decode().strip() == WORDS[wrong[0]]
    # A page of an allowed origin can see why it was refused
    assert ("access-control-allow-origin" in reply.headers) == (wrong[0] not in ("host", "origin"))
    assert await state(guarded) == "started"  # nothing was executed


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
async def test_hosts(guarded: Process, host: str | None, status: int) -> None:
    assert (await fetch(guarded, "GET", "/healthz", host=host)).status == status
    assert (await fetch(guarded, "POST", "/rpc", VERSION, host=host)).status == status


async def test_two_hosts_are_none(guarded: Process) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    assert (await exchange(guarded.port, request)).status in (400, 403)


async def test_an_absolute_target_does_not_stand_for_the_host(guarded: Process) -> None:
    request = b"GET http://localhost/healthz HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    assert (await exchange(guarded.port, request)).status == 403


@pytest.mark.parametrize(
    "origin", ["null", "", "https://app.example.org.evil.example", "http://app.example.org", ORIGIN + ":444"]
)
async def test_origins_are_compared_as_a_whole(guarded: Process, origin: str) -> None:
    assert (await fetch(guarded, "POST", "/rpc", VERSION, origin=origin)).status == 403
    assert (await fetch(guarded, "GET", "/healthz", origin=origin)).status == 403


async def test_an_allowed_page_may_read_the_answer(guarded: Process) -> None:
    reply = await fetch(guarded, "POST", "/rpc", VERSION, origin=ORIGIN)
    assert (reply.status, reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (
        200,
        ORIGIN,
        "origin",
    )


async def test_a_preflight_needs_no_token_and_opens_nothing_to_others(guarded: Process) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    reply = await fetch(guarded, "OPTIONS", "/rpc", authorization=None, origin=ORIGIN, **asks)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "authorization" in reply.headers["access-control-allow-headers"]
    assert (
        await fetch(guarded, "OPTIONS", "/rpc", authorization=None, origin="https://evil.example", **asks)
    ).status == 403
    assert (await fetch(guarded, "OPTIONS", "/rpc", authorization=None, **asks)).status == 401


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
async def test_nothing_but_health_without_the_token(guarded: Process, path: str, authorization: str | None) -> None:
    token = guarded.token
    given = authorization and authorization.format(token=token, head=token[:-1], upper=token.swapcase())
    method, body = ("POST", STOP_CALL) if path == "/rpc" else ("GET", None)
    reply = await fetch(guarded, method, path, body, authorization=given)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


async def test_nothing_was_executed_without_the_token(guarded: Process) -> None:
    assert await state(guarded) == "started"


async def test_the_scheme_is_read_as_http_says(guarded: Process) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert (await fetch(guarded, "POST", "/rpc", VERSION, authorization=f"{scheme} {guarded.token}")).status == 200


async def test_two_tokens_are_none(guarded: Process) -> None:
    right = f"authorization: Bearer {guarded.token}\r\n"
    request = f"GET /metrics HTTP/1.1\r\nhost: localhost\r\n{right}{right}connection: close\r\n\r\n".encode()
    assert (await exchange(guarded.port, request)).status == 401


async def test_a_token_in_the_query_is_for_websockets_only(guarded: Process) -> None:
    for path in ("/rpc", "/metrics", "/openrpc.json"):
        method, body = ("POST", VERSION) if path == "/rpc" else ("GET", None)
        assert (await fetch(guarded, method, f"{path}?token={guarded.token}", body, authorization=None)).status == 401


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
async def test_content_types(guarded: Process, content_type: str | None, status: int) -> None:
    assert (await fetch(guarded, "POST", "/rpc", VERSION, content_type=content_type)).status == status


# --------------------------------------------------------------------------------------------------------------------
# Sizes


async def test_a_declared_body_over_the_limit_is_refused_unread(guarded: Process) -> None:
    """The answer is there before a byte of the body is sent."""
    reply = await fetch(guarded, "POST", "/rpc", b"", content_length=str(LIMIT + 1))
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert (await fetch(guarded, "POST", "/rpc", b"", content_length=str(10**18))).status == 413


async def test_a_chunked_body_over_the_limit_is_refused(guarded: Process) -> None:
    def chunked(body: bytes) -> bytes:
        headers = {
            "host": "localhost",
            "authorization": f"Bearer {guarded.token}",
            "content-type": "application/json",
            "transfer-encoding": "chunked",
            "connection": "close",
        }
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:]) if part)
        return request_text("POST", "/rpc", headers, chunks + b"0\r\n\r\n")

    assert (await exchange(guarded.port, chunked(VERSION.ljust(LIMIT)))).status == 200
    assert (await exchange(guarded.port, chunked(VERSION.ljust(LIMIT + 1)))).status == 413
    assert (await exchange(guarded.port, chunked(STOP_CALL.ljust(100 * LIMIT)))).status == 413
    assert await state(guarded) == "started"


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
async def test_what_is_no_http_is_answered_400_and_closed(guarded: Process, request_bytes: bytes) -> None:
    assert (await exchange(guarded.port, request_bytes)).status in (400, 403, 431)
    assert (await fetch(guarded, "GET", "/healthz")).status == 200


async def test_there_is_no_way_to_http_2(guarded: Process) -> None:
    """An offer to upgrade is not taken, and who begins with it is refused; either connection ends with its client."""
    offer = {"connection": "close, Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    reply = await fetch(guarded, "GET", "/metrics", authorization=None, **offer)
    assert reply.status == 401
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            await stream.send_eof()
            received = b"".join([data async for data in stream])
    assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))


# --------------------------------------------------------------------------------------------------------------------
# What there is


async def test_health_needs_no_token(guarded: Process) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        reply = await fetch(guarded, "GET", path, authorization=None)
        assert (reply.status, reply.json["status"]) == (200, status)
        assert (await fetch(guarded, "GET", path, authorization="Bearer nonsense")).status == 200


async def test_a_stopped_node_is_healthy_and_not_ready(guarded: Process) -> None:
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "stop"})
    assert (await fetch(guarded, "GET", "/healthz")).status == 200
    reply = await fetch(guarded, "GET", "/readyz")
    assert (reply.status, reply.headers["content-type"]) == (503, "application/json")
    reason = {"status": "not ready", "code": "NODE_STOPPED", "reason": "the node is stopped"}
    assert reason.items() <= reply.json.items()
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "start"})
    assert (await fetch(guarded, "GET", "/readyz")).status == 200


async def test_a_failed_node_says_why_it_is_not_ready(guarded: Process) -> None:
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "stop"})
    failing = {"listenAddresses": ["/ip4/192.0.2.77/tcp/0"]}
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "start", "params": [failing]})
    reply = await fetch(guarded, "GET", "/readyz", authorization=None)
    assert (reply.status, reply.json["code"]) == (503, "NODE_FAILED")
    assert "/ip4/192.0.2.77/tcp/0" in reply.json["error"]
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "start"})


async def test_prometheus_reads_the_metrics_and_they_are_those_of_the_api(guarded: Process) -> None:
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "status"})
    await post(guarded, {"jsonrpc": "2.0", "id": 1, "method": "no.such.method"})
    reply = await fetch(guarded, "GET", "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    samples = {s.name: s.value for family in families.values() for s in family.samples if not s.labels}
    async with ipc(guarded) as connection:
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


async def test_the_openrpc_document_has_the_same_bytes_everywhere(guarded: Process) -> None:
    reply = await fetch(guarded, "GET", "/openrpc.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    command = [sys.executable, "-m", "fabstird", "openrpc"]
    printed = await trio.run_process(command, capture_stdout=True)
    assert reply.body == printed.stdout
    async with ipc(guarded) as connection:
        assert await connection.call("rpc.discover") == reply.json


async def test_paths_and_methods_that_do_not_exist(guarded: Process) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/no/such/path", 404),
        ("POST", "/ws", 405),
        ("GET", "/rpc", 405),
        ("PUT", "/rpc", 405),
        ("POST", "/metrics", 405),
        ("POST", "/healthz", 405),
    ):
        reply = await fetch(guarded, method, path, b"{}" if method == "POST" else None)
        assert (method, path, reply.status) == (method, path, status)
        assert b"<" not in reply.body  # one plain line, not a page


async def test_one_connection_carries_many_requests(guarded: Process) -> None:
    headers = {"host": "localhost", "authorization": f"Bearer {guarded.token}", "content-type": "application/json"}
    request = request_text("POST", "/rpc", headers | {"content-length": str(len(VERSION))}, VERSION)
    last = request_text("GET", "/healthz", {"host": "localhost", "connection": "close"})
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:
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


async def test_a_connection_ends_with_its_client(guarded: Process) -> None:
    """Whether it has sent a request, half of one, several, nothing at all, or a WebSocket's upgrade."""
    before = sockets(guarded)
    request = request_text("POST", "/rpc", {"host": "localhost", "content-length": "100"})
    for text in (
        b"",
        request[:20],
        request,
        request + b"{}",
        request_text("GET", "/healthz", {"host": "localhost"}) * 3,
    ):
        for half_closed in (True, False):
            async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:
                await stream.send_all(text)
                if half_closed:
                    await stream.send_eof()
                    with trio.fail_after(ANSWER):
                        async for _ in stream:
                            pass
    poll = b'{"jsonrpc": "2.0", "id": 1, "method": "events", "params": {"after": 0, "types": [], "timeout": 60000}}'
    right = {"host": "localhost", "authorization": f"Bearer {guarded.token}", "content-type": "application/json"}
    for _ in range(20):
        async with await trio.open_tcp_stream("127.0.0.1", guarded.port) as stream:  # gone before its answer
            await stream.send_all(request_text("POST", "/rpc", {**right, "content-length": str(len(poll))}, poll))
        assert await upgraded(guarded) == 101
        assert (await fetch(guarded, "POST", "/rpc", VERSION, connection="keep-alive, close")).status == 200
    await until(lambda: sockets(guarded) <= before)


async def test_a_shutdown_over_http_is_answered() -> None:
    with process({"node.auto_start": False}) as running:
        await running.ready()
        reply = await post(running, {"jsonrpc": "2.0", "id": 1, "method": "shutdown"})
        assert (reply.status, reply.json["result"]) == (200, {})
        assert await running.exited() == 0
