"""The API: integers, ids, allow-lists, what pages see, callers at once, and what a token is told."""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.harness import ANSWER, Process, daemon, fetch, ipc, until, ws

ORIGIN = "http://localhost:3000"
PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
QUIET = {"node.auto_start": False, "api.allowed_origins": [ORIGIN]}


async def test_integers_ids_and_texts_of_callers() -> None:
    async with daemon(QUIET) as running:
        async with ipc(running) as connection:
            for number in (10**30, -(10**30), 2**53, 10**400):
                for method, params in (
                    ("peer.tag", {"peerId": "x", "tag": "t", "value": number}),
                    ("peer.ban", {"target": "192.0.2.1", "duration": number}),
                    ("events", {"after": number}),
                    ("fabstir.announce", {"capabilities": ["x"], "metadata": {"deep": [{"er": number}]}}),
                ):
                    assert (await connection.error(method, params))["code"] == -32602
            assert await connection.call("peer.bans") == []
            error = await connection.error("x" * 500_000)
            assert error["code"] == -32601
            assert len(json.dumps(error)) < 1000
        for text, identity, words in (
            (b'{"jsonrpc":"2.0","id":7,"method":"status","params":null}', 7, "params must be an object or an array"),
            (b'{"jsonrpc":"1.0","id":"a","method":"status"}', "a", 'jsonrpc must be "2.0"'),
            (b'{"jsonrpc":"2.0","id":8,"method":"status","extra":1}', 8, '"extra" is no member of a request'),
            (b'[{"jsonrpc":"2.0","id":9,"method":5}]', 9, "method must be a string"),
            (b'{"jsonrpc":"2.0","id":1.5,"method":"status"}', None, "id must be a string"),
        ):
            answer: Any = (await fetch(running, "POST", "/rpc", text)).json
            answer = answer[0] if isinstance(answer, list) else answer
            assert (answer["error"]["code"], answer["id"]) == (-32600, identity)
            assert words in answer["error"]["message"]


async def test_long_texts_are_refused_and_not_repeated() -> None:
    """What is kept, told to others or repeated in an error: only what carries a message may be long."""
    long = "x" * 200_000
    texts: list[tuple[str, dict[str, Any]]] = [
        ("peer.tag", {"peerId": PEER, "tag": "t" * 129, "value": 1}),
        ("peer.ban", {"target": "192.0.2.1", "reason": "r" * 1001}),
        ("peer.unban", {"target": long}),
        ("peer.explain", {"target": long}),
        ("token.create", {"name": "x", "access": "read", "methods": [long]}),
        ("token.create", {"name": "x", "access": long[:4000]}),
        ("token.revoke", {"name": long}),
        ("log.level", {"logger": long}),
        ("unsubscribe", {"subscription": long}),
        ("wait", {"state": long[:4000], "timeout": 1}),
        ("protocol.unhandle", {"protocol": long}),
        ("events", {"types": [long]}),
        ("start", {"config": {"bootstrapNodes": [f"/ip4/192.0.2.1/tcp/1/p2p/{long}"]}}),
        ("start", {"config": {long: 1}}),
    ]
    async with daemon(QUIET) as running, ipc(running) as connection:
        for method, params in texts:
            error = await connection.error(method, params)
            assert (error["code"], len(json.dumps(error)) < 1000) == (-32602, True), method
        assert await connection.call("peer.bans") == []


async def test_a_page_sees_why_it_is_refused() -> None:
    async with daemon({**QUIET, "api.max_request_bytes": 1000}) as running:
        refusals = [
            await fetch(running, "POST", "/rpc", b"{}", origin=ORIGIN, authorization=None),
            await fetch(running, "POST", "/rpc", b"{}", origin=ORIGIN, content_type="text/plain"),
            await fetch(running, "POST", "/rpc", b"x", origin=ORIGIN, content_length="5000"),
            await fetch(running, "POST", "/rpc", b"{}", origin=ORIGIN, content_encoding="gzip"),
        ]
        assert [one.status for one in refusals] == [401, 415, 413, 415]
        for one in refusals:
            assert one.headers["access-control-allow-origin"] == ORIGIN
        assert b"compressed" in refusals[3].body
        stranger = await fetch(running, "POST", "/rpc", b"{}", origin="http://evil.example", authorization=None)
        assert stranger.status == 403
        assert "access-control-allow-origin" not in stranger.headers
        preflight = await fetch(
            running, "OPTIONS", "/rpc", origin=ORIGIN, access_control_request_private_network="true", authorization=None
        )
        assert (preflight.status, preflight.headers["access-control-allow-private-network"]) == (204, "true")


async def test_the_address_that_a_connection_came_to_is_ours() -> None:
    for bound in ("0.0.0.0:0", "127.0.0.2:0", "[::]:0"):
        async with daemon({**QUIET, "api.http": bound}) as running:
            host = "127.0.0.2" if "127.0.0.2" in bound else "127.0.0.1"
            with trio.fail_after(ANSWER):
                for name, status in ((host, 200), ("evil.example", 403), ("127.0.0.9", 403)):
                    async with await trio.open_tcp_stream(host, running.port) as stream:
                        request = f"GET /healthz HTTP/1.1\r\nhost: {name}:{running.port}\r\nconnection: close\r\n\r\n"
                        await stream.send_all(request.encode())
                        assert (await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status), (bound, name)

            def opened(running: Process = running) -> int:
                return sum("open to the network" in str(line.get("doubt")) for line in running.lines())

            await until(lambda expected=int("127" not in bound): opened() >= expected)  # the log may come later
            assert opened() == (0 if "127" in bound else 1)


async def test_four_hundred_callers_at_once() -> None:
    async with daemon(QUIET) as running:
        answered = 0

        async def one() -> None:
            nonlocal answered
            async with ipc(running) as connection:
                await connection.call("status")
                answered += 1

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(400):
                    nursery.start_soon(one)
        assert answered == 400


async def test_a_token_is_told_what_it_may_ask_for() -> None:
    async with daemon({**QUIET, "api.bridge": True}) as running, ipc(running) as owner:

        async def token(name: str, *methods: str) -> str:
            made = await owner.call("token.create", {"name": name, "access": "read", "methods": list(methods)})
            return str(made["token"])

        async with ws(running, await token("alone", "subscribe")) as connection:
            assert (await connection.error("subscribe"))["data"]["code"] == "FORBIDDEN"
        async with ws(running, await token("all", "subscribe", "status", "peers")) as connection:
            assert "status" in await connection.call("subscribe")
        target = "192.0.2.77"
        await owner.call("peer.ban", {"target": target})
        async with ws(running, await token("none", "status")) as connection:
            for _ in range(1100):
                await connection.error("peer.bans")
        audit = await owner.call("audit", {"limit": 1000})
        assert any(one["params"].get("target") == target for one in audit["entries"])


async def test_the_configuration_in_force_is_shown() -> None:
    async with daemon(QUIET) as running, ipc(running) as connection:
        await connection.call("start", {"config": {"maxRetries": 9}})
        assert (await connection.call("config"))["node"]["max_retries"] == 9
        await connection.call("stop")
        assert (await connection.call("config"))["node"]["max_retries"] == 3
