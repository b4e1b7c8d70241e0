"""What a hostile page, proxy or program sends to the HTTP endpoint, byte by byte.

`tests/functional/test_http.py` has what the guard decides in every combination; here is what would get around it:
requests that two parsers read differently. `test_http_exhaustion.py` has those that cost the daemon something.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import re
from collections.abc import Iterator

import pytest
import trio

from fabstird.api import guard
from tests.harness import ANSWER, Process, exchange, fetch, ipc, process

LIMIT = 4096
ORIGIN = "https://app.example.org"
STOP = b'{"jsonrpc": "2.0", "id": 1, "method": "stop"}'
VERSION = b'{"jsonrpc": "2.0", "id": 1, "method": "version"}'
JSON = "content-type: application/json\r\n"


@pytest.fixture(scope="module")
def attacked() -> Iterator[Process]:
    settings = {"api.max_request_bytes": LIMIT, "api.allowed_origins": [ORIGIN], "log.level": "debug"}
    with process(settings) as running:
        trio.run(running.started)
        yield running
        trio.run(untouched, running)
        trio.run(running.stop)
        assert running.token not in running.text()


async def untouched(running: Process) -> None:
    """Nothing that changes anything was carried out, and the daemon serves."""
    async with ipc(running) as connection:
        assert (await connection.call("status"))["state"] == "started"
    assert (await fetch(running, "GET", "/healthz")).status == 200


def head(running: Process, lines: str, *, first: str = "POST /rpc HTTP/1.1", token: bool = True) -> bytes:
    """A request's head; `lines` end in CR LF each."""
    authorization = f"authorization: Bearer {running.token}\r\n" if token else ""
    return f"{first}\r\n{authorization}{lines}\r\n".encode("latin-1")


async def received(running: Process, data: bytes, *, until: bytes | None = None) -> bytes:
    """All that comes until the daemon closes, or until this has come."""
    found = bytearray()
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                async for some in stream:
                    found += some
                    if until is not None and until in found:
                        break
    return bytes(found)


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


# --------------------------------------------------------------------------------------------------------------------
# Host, Origin, token: every form, over a raw socket

HOSTS = {
    "missing": ("", 400),
    "empty": ("host:\r\n", 403),
    "twice": ("host: localhost\r\nhost: localhost\r\n", 400),
    "twice, one of them evil": ("host: localhost\r\nhost: evil.example\r\n", 400),
    "a rebinding name": ("host: rebind.evil.example\r\n", 403),
    "a name that begins right": ("host: localhost.evil.example\r\n", 403),
    "an address": ("host: 127.0.0.1\r\n", 200),
    "an address and a port": ("host: 127.0.0.1:4780\r\n", 200),
    "another address": ("host: 192.0.2.7\r\n", 403),
    "an address in other digits": ("host: 2130706433\r\n", 403),
    "a short address": ("host: 127.1\r\n", 403),
    "IPv6": ("host: [::1]:4780\r\n", 200),
    "IPv6 of IPv4": ("host: [::ffff:127.0.0.1]\r\n", 403),
    "upper case": ("HOST: LOCALHOST\r\n", 200),
    "a trailing dot": ("host: localhost.\r\n", 200),
    "a port that is none": ("host: localhost:http\r\n", 403),
    "a user": ("host: localhost@evil.example\r\n", 403),
    "a list": ("host: localhost, evil.example\r\n", 403),
    "forwarded": ("host: evil.example\r\nx-forwarded-host: localhost\r\n", 403),
    "folded": ("host: evil.example\r\n localhost\r\n", 403),
}


@pytest.mark.parametrize(("lines", "status"), HOSTS.values(), ids=HOSTS)
async def test_host(attacked: Process, lines: str, status: int) -> None:
    expected = {400, 403} if status == 400 else {status}
    data = head(attacked, f"{lines}{JSON}connection: close\r\ncontent-length: {len(VERSION)}\r\n") + VERSION
    assert statuses(await received(attacked, data))[0] in expected
    upgrade = websocket_lines()
    data = head(attacked, f"{lines}{upgrade}", first="GET /ws HTTP/1.1")
    answer = await received(attacked, data, until=b"\r\n\r\n")
    assert statuses(answer)[0] in ({101} if status == 200 else expected)


def websocket_lines(*, key: bool = True) -> str:
    lines = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    return lines + (f"sec-websocket-key: {base64.b64encode(b'0' * 16).decode()}\r\n" if key else "")


ORIGINS = {
    "missing": ("", True),
    "null": ("origin: null\r\n", False),
    "evil": ("origin: https://evil.example\r\n", False),
    "evil, sent twice": (f"origin: {ORIGIN}\r\norigin: https://evil.example\r\n", False),
    "the daemon's own": ("origin: http://localhost:4780\r\n", False),
    "allowed": (f"origin: {ORIGIN}\r\n", True),
    "allowed, in upper case": (f"origin: {ORIGIN.upper()}\r\n", True),
    "allowed, with its usual port": (f"origin: {ORIGIN}:443\r\n", True),
    "allowed, with another port": (f"origin: {ORIGIN}:444\r\n", False),
    "an extension": ("origin: chrome-extension://abcdefghijklmnop\r\n", False),
    "a file": ("origin: file://\r\n", False),
}


@pytest.mark.parametrize(("lines", "allowed"), ORIGINS.values(), ids=ORIGINS)
async def test_origin(attacked: Process, lines: str, allowed: bool) -> None:
    right = f"host: localhost\r\n{lines}"
    data = head(attacked, f"{right}{JSON}connection: close\r\ncontent-length: {len(VERSION)}\r\n") + VERSION
    assert statuses(await received(attacked, data)) == [200 if allowed else 403]
    upgraded = await received(
        attacked, head(attacked, right + websocket_lines(), first="GET /ws HTTP/1.1"), until=b"\r\n\r\n"
    )
    assert statuses(upgraded) == [101 if allowed else 403]
    assert (b"access-control-allow-origin" in upgraded.lower()) <= allowed


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("token", [True, False], ids=["token", "no token"])
async def test_a_simple_request_of_a_page_does_nothing(attacked: Process, kind: str, token: bool) -> None:
    """What a page can send without asking first: these content types, its Origin, and no header of its own."""
    for origin in ("origin: https://evil.example\r\n", "origin: null\r\n", ""):
        lines = (
            f"host: localhost\r\n{origin}content-type: {kind}\r\nconnection: close\r\ncontent-length: {len(STOP)}\r\n"
        )
        [status] = statuses(await received(attacked, head(attacked, lines, token=token) + STOP))
        assert status == (403 if origin else 415 if token else 401)
    await untouched(attacked)


async def test_a_preflight_is_answered_for_allowed_pages_only(attacked: Process) -> None:
    asks = "access-control-request-method: POST\r\naccess-control-request-headers: authorization, content-type\r\n"
    for origin, status in ((ORIGIN, 204), ("https://evil.example", 403), ("null", 403)):
        lines = f"host: localhost\r\norigin: {origin}\r\n{asks}connection: close\r\n"
        answer = await received(attacked, head(attacked, lines, first="OPTIONS /rpc HTTP/1.1", token=False))
        assert statuses(answer) == [status]
        assert (b"access-control-allow" in answer.lower()) is (status == 204)
        assert b"access-control-allow-credentials" not in answer.lower()
        assert b"access-control-allow-origin: *" not in answer.lower()


@pytest.mark.parametrize("path", ["/rpc", "/ws", "/metrics", "/openrpc.json"])
async def test_tokens(attacked: Process, path: str) -> None:
    """Missing, wrong, twice, in the query: nothing but the one right header lets in (and the query, on /ws alone)."""
    right = f"authorization: Bearer {attacked.token}\r\n"
    upgrade = websocket_lines() if path == "/ws" else ""
    rest = f"host: localhost\r\n{upgrade or 'connection: close' + chr(13) + chr(10)}"
    for query, lines in (
        ("", ""),
        ("", "authorization: Bearer wrong\r\n"),
        ("", f"authorization: bearer\r\nx-token: {attacked.token}\r\n"),
        ("", right + right),
        ("", f"{right}authorization: Bearer wrong\r\n"),
        ("", f"authorization: Basic {attacked.token}\r\n"),
        ("", f"cookie: token={attacked.token}\r\n"),
        ("?token=wrong", ""),
        (f"?token={attacked.token}&token=wrong", ""),
        (f"?token={attacked.token}", "authorization: Bearer wrong\r\n"),
        *([] if path == "/ws" else [(f"?token={attacked.token}", "")]),
    ):
        method = "POST" if path == "/rpc" else "GET"
        first = f"{method} {path}{query} HTTP/1.1"
        answer = await received(attacked, head(attacked, rest + lines, first=first, token=False), until=b"\r\n\r\n")
        assert statuses(answer) == [401], (query, lines)
        assert attacked.token.encode() not in answer


async def answer(stream: trio.SocketStream, data: bytes) -> bytes:
    """One response, without its date; and the end, where the connection is closed behind it."""
    found = b""
    await stream.send_all(data)
    while b"\r\n\r\n" not in found:
        found += await stream.receive_some()
    length = re.search(rb"content-length: (\d+)", found)
    whole = found.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
    while len(found) < whole:
        found += await stream.receive_some()
    assert len(found) == whole
    return re.sub(rb"date: [^\r]+", b"date", found)


async def test_what_is_answered_past_h11_is_answered_alike(attacked: Process) -> None:
    """A plain request goes the short way; one with a header that is there twice goes through h11."""
    right = f"host: localhost\r\nauthorization: Bearer {attacked.token}\r\n{JSON}"
    bodies = [VERSION, b'{"jsonrpc": "2.0", "method": "version"}', b"[%s,%s]" % (VERSION, VERSION), b"[1]", b"{", b""]
    bodies += [b'{"jsonrpc": "2.0", "id": 1, "method": "wait", "params": {}}', b'{"id": 1}', b"[]"]
    bodies += [b'[{"jsonrpc": "2.0", "method": "version"}]', b"[%s]" % b",".join([VERSION] * 65)]
    cases = [(right, body) for body in bodies]
    cases += [
        (right.replace("host: localhost\r\n", lines), VERSION) for lines, status in HOSTS.values() if status != 400
    ]
    cases += [(right + lines, VERSION) for lines, _ in ORIGINS.values()]
    cases += [(right.replace("Bearer ", before), VERSION) for before in ("bearer  ", "Basic ", "Bearer x", "")]
    cases += [
        (right.replace("application/json", kind), VERSION) for kind in ("text/plain", "application/json; charset=x")
    ]
    cases += [(f"{right}content-encoding: gzip\r\n", VERSION), (right, b" " * (LIMIT + 1)), (right, b" " * LIMIT)]
    for lines, body in cases:
        plain = head(attacked, f"{lines}content-length: {len(body)}\r\n", token=False) + body
        unusual = head(attacked, f"{lines}content-length: {len(body)}\r\nx-a: 1\r\nx-a: 1\r\n", token=False) + body
        with trio.fail_after(ANSWER):
            answers = []
            for data in (plain, unusual):
                async with await trio.open_tcp_stream("127.0.0.1", attacked.port) as stream:
                    answers.append(await answer(stream, data))
                    if b"connection: close" not in answers[-1]:  # it goes on, either way after the other
                        answers.append(await answer(stream, unusual))
                        answers.append(await answer(stream, plain))
        assert len(set(answers)) == 1, (lines, body, answers)


def test_secrets_are_compared_in_constant_time() -> None:
    """By reading: a timing test would prove nothing on a shared machine."""
    from fabstird.rpc import tokens

    source = inspect.getsource(guard) + inspect.getsource(tokens)
    assert re.search(r"hmac\.compare_digest|secrets\.compare_digest|sha256\(", source)


# --------------------------------------------------------------------------------------------------------------------
# Other versions of HTTP


async def test_http_1_0_is_held_to_the_same_rules(attacked: Process) -> None:
    answer = await received(attacked, head(attacked, "host: evil.example\r\n", first="GET /metrics HTTP/1.0"))
    assert statuses(answer) == [403]
    answer = await received(attacked, head(attacked, "", first="GET /metrics HTTP/1.0"))
    assert statuses(answer) == [403]  # there a Host may be missing
    answer = await received(attacked, head(attacked, "host: localhost\r\n", first="GET /metrics HTTP/1.0", token=False))
    assert statuses(answer) == [401]
    answer = await received(attacked, head(attacked, "host: localhost\r\n", first="GET /healthz HTTP/1.0", token=False))
    assert statuses(answer) == [200]


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", "HTTP/3", "HTTP/1.10", "http/1.1", ""])
async def test_other_versions_are_refused(attacked: Process, version: str) -> None:
    answer = await received(
        attacked, head(attacked, "host: localhost\r\n", first=f"GET /metrics {version}".strip()), until=b"\r\n\r\n"
    )
    assert statuses(answer)[:1] in ([400], [505])


async def test_clear_text_http_2_is_not_spoken(attacked: Process) -> None:
    """Neither by prior knowledge, frames and all, nor as an upgrade (trap 7)."""
    settings = b"\0\0\0\4\0\0\0\0\0"
    answer = await received(attacked, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings, until=b"\r\n\r\n")
    assert statuses(answer)[0] in (400, 505)
    lines = (
        "host: localhost\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n"
        "http2-settings: AAMAAABkAAQAAP__\r\n"
    )
    answer = await received(attacked, head(attacked, lines, first="GET /metrics HTTP/1.1"))
    assert statuses(answer) == [200]
    assert b"101" not in answer.split(b"\r\n")[0]


# --------------------------------------------------------------------------------------------------------------------
# Requests that a proxy in front would read differently

INNER = "POST /rpc HTTP/1.1\r\nhost: localhost\r\n"
SMUGGLED = {
    "CL.TE": "content-length: {length}\r\ntransfer-encoding: chunked\r\n",
    "TE.CL": "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    "two lengths": "content-length: 0\r\ncontent-length: {length}\r\n",
    "a list of lengths": "content-length: 0, {length}\r\n",
    "a length with a sign": "content-length: +{length}\r\n",
    "a length in hexadecimal": "content-length: 0x{length}\r\n",
    "a length and a blank before the colon": "content-length : {length}\r\n",
    "two encodings": "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    "an encoding that is none": "transfer-encoding: xchunked\r\n",
    "chunked twice": "transfer-encoding: chunked, chunked\r\n",
    "chunked behind another": "transfer-encoding: gzip, chunked\r\n",
    "a vertical tab": "transfer-encoding: \x0bchunked\r\n",
    "a bare CR": "x: y\rtransfer-encoding: chunked\r\n",
    "a NUL": "x: \0\r\ntransfer-encoding: chunked\r\n",
}


@pytest.mark.parametrize("lines", SMUGGLED.values(), ids=SMUGGLED)
async def test_a_second_request_is_not_smuggled_in(attacked: Process, lines: str) -> None:
    """What one parser takes for a body and another for a request is refused, and the connection with it."""
    inner = head(attacked, f"host: localhost\r\n{JSON}content-length: {len(STOP)}\r\n") + STOP
    body = b"0\r\n\r\n" + inner
    outer = head(attacked, f"host: localhost\r\n{JSON}{lines.format(length=len(body))}")
    answer = await received(attacked, outer + body)
    assert [status >= 400 for status in statuses(answer)] == [True], answer
    await untouched(attacked)


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhello",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5;\nhello\r\n0\r\n\r\n",
        b"zz\r\n\r\n",
        b"f" * 40 + b"\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
    ],
)
async def test_chunks_that_are_none(attacked: Process, chunks: bytes) -> None:
    lines = f"host: localhost\r\n{JSON}transfer-encoding: chunked\r\nconnection: close\r\n"
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", attacked.port) as stream:
            await stream.send_all(head(attacked, lines) + chunks)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_eof()
                answer = b"".join([some async for some in stream])
                assert all(status >= 400 for status in statuses(answer)) or b"-32700" in answer
    await untouched(attacked)


# --------------------------------------------------------------------------------------------------------------------
# Connections that cost something and send nothing


async def test_a_chunked_body_without_end_is_refused_at_the_limit(attacked: Process) -> None:
    lines = f"host: localhost\r\n{JSON}transfer-encoding: chunked\r\n"
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", attacked.port) as stream:
            await stream.send_all(head(attacked, lines))
            answer = b""
            async with trio.open_nursery() as nursery:

                async def feed() -> None:
                    with contextlib.suppress(trio.BrokenResourceError):
                        while True:
                            await stream.send_all(b"400\r\n" + b" " * 1024 + b"\r\n")

                nursery.start_soon(feed)
                with contextlib.suppress(trio.BrokenResourceError):
                    while b"\r\n\r\n" not in answer and (some := await stream.receive_some()):
                        answer += some
                nursery.cancel_scope.cancel()
    assert statuses(answer) == [413]


async def test_a_body_that_is_announced_as_too_large_is_refused_before_it_is_asked_for(attacked: Process) -> None:
    """`Expect: 100-continue`: the client is not told to go on."""
    lines = f"host: localhost\r\n{JSON}content-length: {LIMIT + 1}\r\nexpect: 100-continue\r\n"
    assert statuses(await received(attacked, head(attacked, lines), until=b"\r\n\r\n")) == [413]
    lines = f"host: evil.example\r\n{JSON}content-length: 10\r\nexpect: 100-continue\r\n"
    assert statuses(await received(attacked, head(attacked, lines), until=b"\r\n\r\n")) == [403]
    lines = f"host: localhost\r\n{JSON}content-length: {len(VERSION)}\r\nexpect: 100-continue\r\nconnection: close\r\n"
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", attacked.port) as stream:
            await stream.send_all(head(attacked, lines))
            assert statuses(await stream.receive_some()) == [100]
            await stream.send_all(VERSION)
            assert statuses(b"".join([some async for some in stream])) == [200]


async def test_a_huge_head_is_refused(attacked: Process) -> None:
    for lines in (f"x: {'y' * 1_000_000}\r\n", "x: y\r\n" * 100_000):
        answer = await received(attacked, head(attacked, f"host: localhost\r\n{lines}"))
        assert statuses(answer)[:1] in ([400], [431], [])
    answer = await received(attacked, head(attacked, "host: localhost\r\n", first=f"GET /{'x' * 1_000_000} HTTP/1.1"))
    assert statuses(answer)[:1] in ([400], [414], [431], [])
    await untouched(attacked)


async def test_no_compression_and_no_upgrade_but_websocket(attacked: Process) -> None:
    """Trap 7: an extension that is offered is not taken."""
    lines = f"host: localhost\r\n{websocket_lines()}sec-websocket-extensions: permessage-deflate\r\n"
    answer = await received(attacked, head(attacked, lines, first="GET /ws HTTP/1.1"), until=b"\r\n\r\n")
    assert statuses(answer) == [101]
    assert b"sec-websocket-extensions" not in answer.lower()
    for wrong in (websocket_lines(key=False), websocket_lines().replace("version: 13", "version: 8")):
        answer = await received(
            attacked, head(attacked, f"host: localhost\r\n{wrong}", first="GET /ws HTTP/1.1"), until=b"\r\n\r\n"
        )
        assert statuses(answer)[0] in (400, 405, 426)


async def test_one_answer_over_exchange_is_one_response(attacked: Process) -> None:
    """Pipelined requests are answered one after the other, each in full, in their order."""
    request = head(attacked, f"host: localhost\r\n{JSON}content-length: {len(VERSION)}\r\n") + VERSION
    last = head(attacked, f"host: localhost\r\n{JSON}connection: close\r\ncontent-length: {len(VERSION)}\r\n") + VERSION
    answer = await received(attacked, request * 20 + last)
    assert statuses(answer) == [200] * 21
    assert (await exchange(attacked.port, last)).json["id"] == 1
