"""HTTP, WebSocket and IPC as the RFCs have them, byte by byte; and the method that waits."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio

from tests.functional.bounds import until_bound
from tests.harness import ANSWER, Process, daemon, exchange, fetch, ipc, process, request_text, until, upgrade_text

ORIGIN = "http://localhost:3000"
LIMIT = 20_000
SETTINGS = {
    "node.auto_start": False,
    "api.allowed_origins": [ORIGIN],
    "api.max_request_bytes": LIMIT,
    "api.max_request_values": 100,
    "api.header_timeout": 1000,
    "api.max_http_connections": 8,
    "api.ping_interval": 400,
}
STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status"}'


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    with process(SETTINGS) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)


def call(number: int, method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def posted(running: Process, body: bytes, path: str = "/rpc", **headers: str) -> bytes:
    right = {
        "host": f"127.0.0.1:{running.port}",
        "authorization": f"Bearer {running.token}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    return request_text("POST", path, right | headers, body)


# --------------------------------------------------------------------------------------------------------------------
# HTTP


async def test_targets_in_absolute_form(shared: Process) -> None:
    """As a client sends them that believes to speak to a proxy."""
    own = f"127.0.0.1:{shared.port}"
    for target, status in (
        (f"http://{own}/rpc", 200),
        (f"HTTP://{own}/rpc?x=1", 200),
        (f"http://{own}", 404),
        ("http://evil.example/rpc", 403),
        ("http://[::1/rpc", 400),
        ("ftp://x/rpc", 400),
        ("rpc", 400),
    ):
        reply = await exchange(shared.port, posted(shared, STATUS, target, connection="close"))
        assert reply.status == status, target


async def test_an_empty_line_before_a_request_is_skipped(shared: Process) -> None:
    """Some clients send one behind the body of the request before."""
    whole = b"\r\n" + posted(shared, STATUS) + b"\r\n" + posted(shared, STATUS, connection="close")
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
            await stream.send_all(whole)
            received = b"".join([data async for data in stream])
    assert received.count(b"HTTP/1.1 200 ") == 2


async def test_what_is_no_request_is_refused_once_and_in_words(shared: Process) -> None:
    own = {"host": "localhost"}
    for text, status, words in (
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header"),
        (request_text("GET", "/healthz", {**own, "content-length": "-5"}), 400, "bad Content-Length"),
        (request_text("GET", "/healthz", {**own, "transfer-encoding": "gzip, chunked"}), 501, "Transfer-Encoding"),
        (b"\x16\x03\x01\x00\xa5" + bytes(100) + b"\r\n\r\n", 400, "illegal request line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1 only"),
    ):
        with trio.fail_after(ANSWER):
            async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
                await stream.send_all(text)
                received = b"".join([data async for data in stream])
        assert received.startswith(b"HTTP/1.1 %d " % status), text
        assert received.count(b"HTTP/1.1 ") - received.count(b"HTTP/1.1 only") == 1
        assert words in received.partition(b"\r\n\r\n")[2].decode()


async def test_who_half_closes_gets_the_answer_that_it_waits_for(shared: Process) -> None:
    """Also where it takes longer than a look whether the client is still there."""
    for timeout in (100, 2500):
        body = call(1, "events", after=0, types=[], timeout=timeout)
        with trio.fail_after(ANSWER):
            async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
                await stream.send_all(posted(shared, body))
                await stream.send_eof()
                received = b"".join([data async for data in stream])
        assert received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(b"HTTP/1.1 200 ")
        assert b'"events":[]' in received


async def test_a_connection_has_no_end_after_a_thousand_requests(shared: Process) -> None:
    request, answered = request_text("GET", "/healthz", {"host": "localhost"}), b""
    with trio.fail_after(ANSWER * 3):
        async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
            for number in range(1, 12):
                await stream.send_all(request * 100)
                while answered.count(b'{"status":"ok"}') < number * 100:
                    data = await stream.receive_some()
                    assert data, f"closed after {answered.count(b'HTTP/1.1 200')} requests"
                    answered += data
    assert b"connection: close" not in answered.lower()


async def test_a_page_sees_408_and_503_too(shared: Process) -> None:
    """Refused before their request was read, or as a whole."""
    half = f"GET /healthz HTTP/1.1\r\nhost: localhost:{shared.port}\r\norigin: {ORIGIN}\r\nx-half: "
    late = await exchange(shared.port, half.encode())
    assert (late.status, late.headers.get("access-control-allow-origin")) == (408, ORIGIN)
    foreign = await exchange(shared.port, half.replace(ORIGIN, "http://evil.example").encode())
    assert (foreign.status, foreign.headers.get("access-control-allow-origin")) == (408, None)
    async with trio.open_nursery() as nursery:
        for _ in range(SETTINGS["api.max_http_connections"]):  # type: ignore[call-overload]
            stream = await trio.open_tcp_stream("127.0.0.1", shared.port)
            await stream.send_all(request_text("GET", "/healthz", {"host": "localhost"}))
            await stream.receive_some()
            nursery.start_soon(hold, stream)
        full = await fetch(shared, "GET", "/healthz", origin=ORIGIN)
        assert (full.status, full.headers.get("access-control-allow-origin")) == (503, ORIGIN)
        assert full.json["configKey"] == "api.max_http_connections"
        nursery.cancel_scope.cancel()
    async with ipc(shared) as watching:  # until there is room again: the next test needs it
        await until_bound(watching, "httpConnections", 0)


async def hold(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


# --------------------------------------------------------------------------------------------------------------------
# WebSocket


@dataclass
class Ended:
    """What came before the close frame, and what that says."""

    head: bytes
    before: bytes
    code: int = 0
    reason: str = ""


async def websocket(running: Process, *frames: bytes, path: str = "/ws", pings: int = 0, **headers: str) -> Ended:
    """Send these frames and read until a close frame, or so many pings, have come."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(upgrade_text(running, path, **headers) + b"".join(frames))
            received = b""
            with contextlib.suppress(trio.BrokenResourceError):  # closed with something of ours unread
                async for data in stream:
                    received += data
                    head, _, rest = received.partition(b"\r\n\r\n")
                    if pings and rest.count(b"\x89\x00") >= pings:
                        return Ended(head, rest)
    before, _, close = rest.replace(b"\x89\x00", b"").partition(b"\x88")
    assert close, received
    return Ended(head, before, int.from_bytes(close[1:3], "big"), close[3:].decode())


def frame(kind: int, data: bytes = b"", *, flags: int = 0x80, mask: bool = True, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    masked = 0x80 * mask
    if size < 126:
        head = bytes((flags | kind, masked | size))
    elif size < 1 << 16:  # a length that is longer than it need be is wrong, too
        head = bytes((flags | kind, masked | 126)) + struct.pack("!H", size)
    else:
        head = bytes((flags | kind, masked | 127)) + struct.pack("!Q", size)
    return head + b"\0\0\0\0" * mask + data


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(1, b"{}", mask=False)], 1002),
        ([frame(3, b"{}")], 1002),
        ([frame(1, b"{}", flags=0xC0)], 1002),
        ([frame(0, b"{}")], 1002),
        ([frame(1, b"{", flags=0), frame(1, b"}")], 1002),
        ([frame(9, b"?", flags=0)], 1002),
        ([frame(9, b"?" * 126)], 1002),
        ([frame(8, b"x")], 1002),
        ([frame(8, struct.pack("!H", 1005))], 1002),
        ([frame(1, b"\xff\xfe")], 1007),
        ([frame(8, struct.pack("!H", 1000) + b"\xff")], 1007),
        ([frame(1, b"{", size=2**40)], 1009),  # by its head alone
        ([frame(1, b"x" * LIMIT + b"x")], 1009),
        ([frame(2, b"x" * LIMIT, flags=0), frame(9), frame(0, b"x")], 1009),
        ([frame(1, "€".encode() * (LIMIT // 2))], 1009),  # bytes count, not characters
        ([frame(8, struct.pack("!H", 1000))], 1000),
        ([frame(8)], 0),  # answered by one that is empty too
    ],
)
async def test_a_close_frame_says_what_is_wrong(shared: Process, frames: list[bytes], code: int) -> None:
    ended = await websocket(shared, *frames)
    assert ended.code == code
    if code == 1009:
        assert ended.reason == f"[api] max_request_bytes allows {LIMIT} bytes"


async def test_a_silent_websocket_is_pinged(shared: Process) -> None:
    assert (await websocket(shared, pings=2)).head.startswith(b"HTTP/1.1 101")


async def test_a_subprotocol_that_is_offered_is_chosen(shared: Process) -> None:
    """Browsers close the connection else."""
    for offer, chosen in (
        ("jsonrpc", "jsonrpc"),
        ("one, two", "one"),
        ("one\r\nsec-websocket-protocol: two", "one"),  # in two headers
        ("\xff, a b, two", "two"),  # what is no token is no name
        (f"fabstir.token.{shared.token}, jsonrpc", "jsonrpc"),
    ):
        ended = await websocket(shared, frame(8, struct.pack("!H", 1000)), sec_websocket_protocol=offer)
        assert f"sec-websocket-protocol: {chosen}".encode() in ended.head.lower()


async def test_a_handshake_that_is_none_ends_its_connection(shared: Process) -> None:
    """It needs no token: a connection that it held for ever would be one of `max_http_connections` less."""
    upgrade = upgrade_text(shared)
    key = next(line for line in upgrade.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    for text in (
        upgrade.replace(key + b"\r\n", b""),
        upgrade.replace(key, b"sec-websocket-key: x"),
        upgrade.replace(key, key + b"\r\n" + key),
        upgrade.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with trio.fail_after(ANSWER):
            async with await trio.open_tcp_stream("127.0.0.1", shared.port) as stream:
                await stream.send_all(text)
                received = b"".join([data async for data in stream])
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"WebSocket" in received.partition(b"\r\n\r\n")[2]


async def test_another_version_is_told_which_one_it_is(shared: Process) -> None:
    reply = await fetch(
        shared, "GET", "/ws", connection="Upgrade, close", upgrade="websocket", sec_websocket_version="8"
    )
    assert (reply.status, reply.headers["sec-websocket-version"]) == (426, "13")


# --------------------------------------------------------------------------------------------------------------------
# IPC


async def lines(running: Process, text: bytes, count: int) -> list[dict[str, object]]:
    with trio.fail_after(ANSWER):
        async with ipc(running) as connection:
            await connection.stream.send_all(text)
            return [json.loads(await connection.receive_text() or b"null") for _ in range(count)]


LONG = "x" * LIMIT


@pytest.mark.parametrize(
    ("line", "identity"),
    [
        (call(5, "status", x=LONG), 5),
        (b'{"id": "a", "jsonrpc": "2.0", "params": ["' + LONG.encode() + b'"], "method": "status"}', "a"),
        (b'{"jsonrpc": "2.0", "params": ["' + LONG.encode() * 9 + b'"], "method": "status", "id": 6 }', 6),
        (b'{"params": {"id": 9, "x": "' + LONG.encode() * 9 + b'"}}', None),
        (LONG.encode() * 9, None),
    ],
)
async def test_a_line_too_long_is_refused_and_the_connection_goes_on(
    shared: Process, line: bytes, identity: object
) -> None:
    first, second = await lines(shared, line + b"\n" + STATUS + b"\n", 2)
    assert (first["error"]["code"], first["id"]) == (-32003, identity)  # type: ignore[index]
    assert "result" in second


async def test_a_line_without_an_end_is_refused_and_closed(shared: Process) -> None:
    """Also one that goes on and on."""
    for text in (call(7, "status", x=LONG), call(7, "status", x=LONG * 40)):
        with trio.fail_after(ANSWER):
            async with ipc(shared) as connection:
                try:
                    await connection.stream.send_all(text)
                except trio.BrokenResourceError:
                    pass  # it is not read to its end
                answer = json.loads(await connection.receive_text() or b"null")
                assert (answer["error"]["code"], answer["id"]) == (-32003, 7)
                assert await connection.receive_text() is None


async def test_the_id_of_what_has_too_many_values(shared: Process) -> None:
    wide = json.dumps({"jsonrpc": "2.0", "method": "status", "params": [0] * 200, "id": "w"}).encode()
    [answer] = await lines(shared, wide + b"\n", 1)
    assert (answer["error"]["code"], answer["id"]) == (-32003, "w")  # type: ignore[index]
    reply = await exchange(shared.port, posted(shared, wide, connection="close"))
    assert reply.json["id"] == "w"


# --------------------------------------------------------------------------------------------------------------------
# Waiting


async def test_wait(shared: Process) -> None:
    async with ipc(shared) as connection, ipc(shared) as other:
        at_once = await connection.call("wait", {"timeout": 5000})
        assert (at_once["status"]["state"], at_once["peers"]) == ("stopped", [])
        assert await connection.call("wait", ["stopped", 0, None, None, 5000])
        error = await connection.error("wait", {"state": "started", "timeout": 50})
        assert (error["code"], error["data"]["code"]) == (-32002, "TIMEOUT")
        for wrong in ({}, {"timeout": 0}, {"timeout": 9, "state": "x"}, {"timeout": 9, "peers": -1}):
            assert (await connection.error("wait", wrong))["code"] == -32602, wrong
        assert (await connection.error("wait", {"timeout": 9000, "peerId": "x"}))["code"] == -32602
        async with daemon({"node.auto_start": False}) as another, ipc(another) as peer, trio.open_nursery() as nursery:
            peer_id = (await peer.call("status"))["peerId"]
            found: dict[str, object] = {}

            async def waiting() -> None:
                wanted = {"state": "started", "peers": 1, "peerId": peer_id, "protocol": "/ipfs/ping/1.0.0"}
                found.update(await connection.call("wait", {**wanted, "timeout": 30000}))

            nursery.start_soon(waiting)
            status = await other.call("start")
            assert not found
            await peer.call("start", {"config": {"bootstrapNodes": status["listenAddresses"]}})
            await until(lambda: found, within=ANSWER)
            assert [one["peerId"] for one in found["peers"]] == [peer_id]  # type: ignore[attr-defined]
            assert (await other.call("wait", {"protocol": "/ipfs/ping/1.0.0", "timeout": 5000}))["peers"]
            gone = await other.error("wait", {"protocol": "/no/such", "peerId": peer_id, "timeout": 100})
            assert gone["code"] == -32002
        assert (await other.call("stop"))["state"] == "stopped"
