"""Tokens: what they grant over HTTP and WebSocket, the audit that names them, the command line that makes them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.functional.asking import STRANGER
from tests.harness import Json, Process, daemon, environment, fetch, ipc, post, process, ws

WITHIN = 120  # seconds; a bound, never a wait


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    with process() as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


@pytest.fixture
def shared(running: Process) -> Iterator[Process]:
    """A daemon that the tests of this module share: each finds its node started, and no token but its own."""
    yield running
    trio.run(forget_tokens, running)


async def forget_tokens(running: Process) -> None:
    async with ipc(running) as connection:
        for one in await connection.call("token.list"):
            await connection.call("token.revoke", [one["name"]])


async def token(running: Process, name: str, access: str, **more: Any) -> str:
    """A new token of this name."""
    async with ipc(running) as connection:
        made = await connection.call("token.create", {"name": name, "access": access, **more})
    return str(made["token"])


async def revoke(running: Process, name: str) -> None:
    async with ipc(running) as connection:
        assert await connection.call("token.revoke", [name]) == {"name": name, "revoked": True}


def bearer(given: str) -> dict[str, str]:
    return {"authorization": f"Bearer {given}"}


def message(method: str, params: Any = None) -> Json:
    return {"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params})}


async def allowed(running: Process, given: str) -> set[str]:
    asked = {"read": "version", "write": "start", "admin": "token.list"}
    found = set()
    for level, method in asked.items():
        reply = await post(running, message(method), **bearer(given))
        assert reply.status == 200
        if "result" in reply.json:
            found.add(level)
        else:
            assert reply.json["error"]["code"] == -32008
            assert reply.json["error"]["data"]["needed"] == level
    return found


async def test_a_token_grants_its_level_over_http_and_websocket(shared: Process) -> None:
    for level, expected in (
        ("read", {"read"}),
        ("write", {"read", "write"}),
        ("admin", {"read", "write", "admin"}),
    ):
        given = await token(shared, f"for-{level}", level)
        assert await allowed(shared, given) == expected
        async with ws(shared, given) as connection:
            answers = {name: await connection.answer(name) for name in ("version", "start", "token.list")}
            assert sum("result" in answer for answer in answers.values()) == len(expected)
    assert await allowed(shared, shared.token) == {"read", "write", "admin"}


async def test_a_call_that_is_refused_says_how_to_get_it(shared: Process) -> None:
    given = await token(shared, "dashboard", "read")
    reply = await post(shared, message("stop"), **bearer(given))
    assert reply.status == 200
    error = reply.json["error"]
    assert error["code"] == -32008
    assert error["message"] == (
        'stop needs write access; the token "dashboard" grants read: '
        "fabstir token create NAME --access write creates one that does"
    )
    async with ipc(shared) as connection:
        assert (await connection.call("status"))["state"] == "started"
        (entry,) = (await connection.call("audit", {"limit": 1}))["entries"]
    assert {
        "method": "stop",
        "outcome": "FORBIDDEN",
        "transport": "http",
        "token": "dashboard",
    }.items() <= entry.items()
    assert entry["remote"].startswith("127.0.0.1:")


async def test_every_element_of_a_batch_and_every_notification_is_checked(shared: Process) -> None:
    given = await token(shared, "reader", "read")
    calls = [{**message(method), "id": number} for number, method in enumerate(["version", "stop", "version"])]
    reply = await post(shared, calls, **bearer(given))
    assert ["result" in answer for answer in reply.json] == [True, False, True]
    silent = await post(shared, {"jsonrpc": "2.0", "method": "stop"}, **bearer(given))
    assert silent.status == 204
    async with ipc(shared) as connection:
        assert (await connection.call("status"))["state"] == "started"


async def test_a_token_for_some_methods_opens_nothing_else(shared: Process) -> None:
    given = await token(shared, "scrape", "read", methods=["metrics", "version"])
    assert "result" in (await post(shared, message("version"), **bearer(given))).json
    refused = (await post(shared, message("status"), **bearer(given))).json["error"]
    assert refused["data"]["methods"] == ["metrics", "version"]
    assert (await fetch(shared, "GET", "/metrics", **bearer(given))).status == 200
    other = await fetch(shared, "GET", "/openrpc.json", **bearer(given))
    assert (other.status, b"rpc.discover" in other.body) == (403, True)
    async with ws(shared, given) as connection:
        assert (await connection.error("subscribe"))["code"] == -32008


async def test_nobody_hands_out_more_than_they_have(shared: Process) -> None:
    given = await token(shared, "maker", "admin", methods=["token.create", "version"])
    for more in ({}, {"methods": ["status"]}, {"methods": ["version", "shutdown"]}):
        wish = {"name": "more", "access": "admin", **more}
        assert (await post(shared, message("token.create", wish), **bearer(given))).json["error"]["code"] == -32008
    narrow = {"name": "narrow", "access": "read", "methods": ["version"]}
    made = (await post(shared, message("token.create", narrow), **bearer(given))).json["result"]["token"]
    assert "result" in (await post(shared, message("version"), **bearer(made))).json

    scoped = await token(shared, "scoped", "admin", protocols=["/acme/*"], peers=[STRANGER])
    for more in ({}, {"protocols": ["/acme/1"]}, {"protocols": ["/*"], "peers": [STRANGER]}):
        wish = {"name": "more", "access": "read", **more}
        refused = (await post(shared, message("token.create", wish), **bearer(scoped))).json["error"]
        assert refused["data"]["protocols"] == ["/acme/*"], refused
    within = {"name": "within", "access": "read", "protocols": ["/acme/a*"], "peers": [STRANGER]}
    assert "result" in (await post(shared, message("token.create", within), **bearer(scoped))).json


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"name": "x", "access": "root"}, "access"),
        ({"name": "x x", "access": "read"}, "name: must be 1 to 64"),
        ({"name": "x", "access": "read", "methods": []}, "methods: must name at least one"),
        ({"name": "x", "access": "read", "methods": ["nope"]}, 'methods: there is no method "nope"'),
        ({"name": "x", "access": "read", "methods": ["stop"]}, "methods: stop needs write access"),
        ({"name": "x", "access": "read", "protocols": []}, "protocols: must name at least one"),
        ({"name": "x", "access": "read", "protocols": ["acme/*"]}, 'protocols: must begin with "/"'),
        ({"name": "x", "access": "read", "protocols": [f"/{n}" for n in range(65)]}, "protocols: at most 64"),
        ({"name": "x", "access": "read", "peers": []}, "peers: must name at least one"),
        ({"name": "x", "access": "read", "peers": ["/ip4/127.0.0.1"]}, 'peers: "/ip4/127.0.0.1" is not a peer id'),
        ({"name": "x", "access": "read", "peers": ["12D3Koo"]}, 'peers: "12D3Koo" is not a peer id'),
        ({"name": "x", "access": "read", "expiresIn": 0}, "expiresIn: must be a positive number"),
        ({"name": "x", "access": "read", "expiresIn": 2**53}, "expiresIn: holds a number beyond"),
    ],
)
async def test_wishes_for_a_token_that_make_no_sense(shared: Process, wish: Json, words: str) -> None:
    async with ipc(shared) as connection:
        error = await connection.error("token.create", wish)
        assert (error["code"], words in error["message"]) == (-32602, True), error
        assert await connection.call("token.list") == []


async def test_a_revoked_token_is_good_for_nothing_at_once(shared: Process) -> None:
    """On connections that are open, and for a call that is waiting."""
    given = await token(shared, "gone", "write")
    async with ws(shared, given) as connection:
        await connection.call("subscribe")
        head = (await connection.call("status"))["head"]
        replies = []

        async def wait() -> None:
            waiting = message("events", {"after": head, "timeout": 60000})
            replies.append(await post(shared, waiting, **bearer(given)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until_under_way(shared)
            await revoke(shared, "gone")
            with trio.fail_after(WITHIN):
                assert await connection.receive_text() is None
        closed = connection.websocket.closed
        assert (closed.code, closed.reason) == (1008, 'the token "gone" was revoked')
        assert [(reply.status, reply.body) for reply in replies] == [(401, b'the token "gone" was revoked\n')]
    assert (await post(shared, message("version"), **bearer(given))).status == 401
    assert given not in shared.text()


async def until_under_way(running: Process) -> None:
    """Wait until a call waits for its answer."""
    calls = 0
    async with ipc(running) as connection:
        with trio.fail_after(WITHIN):
            while calls == 0:
                calls = (await connection.call("metrics"))["bounds"]["calls"]["current"]
                await trio.sleep(0.01)


async def test_an_expired_token_says_so(shared: Process) -> None:
    given = await token(shared, "brief", "read", expiresIn=5000)
    async with ws(shared, given) as connection:
        assert "result" in await connection.answer("version")
        with trio.fail_after(WITHIN):
            assert await connection.receive_text() is None
        assert connection.websocket.closed.code == 1008
        assert 'the token "brief" expired' in connection.websocket.closed.reason
    reply = await post(shared, message("version"), **bearer(given))
    assert (reply.status, b'the token "brief" expired' in reply.body) == (401, True)
    async with ipc(shared) as connection:
        (told,) = await connection.call("token.list")
    assert told["expired"] is True


async def test_tokens_outlive_a_daemon_that_is_killed(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    with process(data_dir=data_dir) as first:
        await first.ready()
        given = await token(first, "ci", "read")
        gone = await token(first, "gone", "read")
        await revoke(first, "gone")
        first.kill()
    file = data_dir / "tokens.json"
    assert (file.stat().st_mode & 0o777, given in file.read_text()) == (0o600, False)
    async with daemon(data_dir=data_dir) as second:
        assert "result" in (await post(second, message("version"), **bearer(given))).json
        assert (await post(second, message("version"), **bearer(gone))).status == 401


async def test_a_damaged_file_of_tokens_stops_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    data_dir.mkdir()
    (data_dir / "tokens.json").write_text('{"version": 1, "tok')
    async with daemon(data_dir=data_dir) as running:
        line = await running.line("tokens are damaged; only api.token is valid, so create the others again")
        assert await trio.Path(line["set_aside"]).read_text() == '{"version": 1, "tok'
        assert (await post(running, message("version"))).status == 200
        given = await token(running, "ci", "read")
        assert "result" in (await post(running, message("version"), **bearer(given))).json


# --------------------------------------------------------------------------------------------------------------------
# The audit


async def test_the_audit_tells_who_changed_what(shared: Process) -> None:
    before = len(shared.lines())
    given = await token(shared, "ci", "write", expiresIn=60000)
    async with ipc(shared) as connection:
        since = (await connection.call("audit", {"limit": 1}))["head"]
        await connection.error("connect", ["/ip4/127.0.0.1/tcp/1"])
        await connection.call("token.revoke", ["nobody"])
        await post(shared, {**message("start"), "id": "a-1"}, **bearer(given))
        async with ws(shared, given) as websocket:
            await websocket.error("shutdown")
            await websocket.call("version")  # changes nothing
        told = await connection.call("audit", {"after": since})
    assert (told["head"], told["missed"]) == (since + 4, 0)
    shown = ("method", "outcome", "transport", "uid", "pid", "token", "params")
    assert [tuple(entry.get(key) for key in shown) for entry in told["entries"]] == [
        ("connect", "INVALID_PARAMS", "ipc", os.getuid(), os.getpid(), None, {"address": "/ip4/127.0.0.1/tcp/1"}),
        ("token.revoke", "unchanged", "ipc", os.getuid(), os.getpid(), None, {"name": "nobody"}),
        ("start", "ok", "http", None, None, "ci", {}),
        ("shutdown", "FORBIDDEN", "ws", None, None, "ci", {}),
    ]
    assert told["entries"][2]["id"] == '"a-1"'
    line = await shared.line("call", after=before, method="start", token="ci")
    assert (line["outcome"], line["request_id"], line["transport"]) == ("ok", '"a-1"', "http")
    made = await shared.line("call", after=before, method="token.create")
    assert made["params"] == {"name": "ci", "access": "write", "expiresIn": 60000}
    assert given not in shared.text()


async def test_a_change_that_its_caller_did_not_wait_for_is_in_the_audit(shared: Process) -> None:
    async with ipc(shared) as connection:
        since = (await connection.call("audit", {"limit": 1}))["head"]
        listener = socket.create_server(("127.0.0.1", 0))  # takes connections and never speaks
        with listener:
            async with ipc(shared) as other:
                address = f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}/p2p/{STRANGER}"
                await other.send(message("connect", [address]))
                taken = await trio.to_thread.run_sync(listener.accept)
        with taken[0]:
            entries: list[Json] = []
            with trio.fail_after(WITHIN):
                while not entries:
                    entries = (await connection.call("audit", {"after": since}))["entries"]
                    await trio.sleep(0.01)
    assert [(entry["method"], entry["outcome"]) for entry in entries] == [("connect", "CANCELLED")]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"limit": 0}, "limit: must be 1 to 1000, not 0"),
        ({"limit": 1001}, "limit: must be 1 to 1000, not 1001"),
        ({"after": -1}, "after: must be 0 to"),
        ({"after": 10**9}, "the newest entry"),
    ],
)
async def test_what_the_audit_cannot_give(shared: Process, params: Json, words: str) -> None:
    async with ipc(shared) as connection:
        assert words in (await connection.error("audit", params))["message"]


# --------------------------------------------------------------------------------------------------------------------
# The command line


def fabstir(running: Process, *words: str, status: int = 0, **environ: str) -> str:
    """Its output; of a failure, what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "fabstir_client", *words],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
        env={**environment(), "FABSTIR_API": f"ipc:{running.api['ipc']}", **environ},
    )
    assert ended.returncode == status, (ended.stdout, ended.stderr)
    return ended.stderr if status else ended.stdout


def test_the_command_line_makes_lists_and_revokes(shared: Process) -> None:
    made = fabstir(
        shared, "token", "create", "ci", "--access", "read", "--methods", "status,metrics", "--expires", "30d"
    ).removesuffix("\n")
    assert made.startswith("fabstir_")
    assert "\n" not in made
    over_http = {"FABSTIR_API": f"http://127.0.0.1:{shared.port}", "FABSTIR_TOKEN": made}
    assert fabstir(shared, "status", **over_http).startswith("state")
    assert "peers is not among the methods" in fabstir(shared, "peers", status=1, **over_http)
    head, row = fabstir(shared, "token", "list").splitlines()
    assert head.split() == ["NAME", "ACCESS", "METHODS", "CREATED", "EXPIRES", "LAST", "USED"]
    assert row.split()[:3] == ["ci", "read", "metrics,status"]
    assert made not in row
    fabstir(shared, "token", "create", "acme", "--access", "write", "--protocol", "/acme/*", "--peer", STRANGER)
    head, _, row = fabstir(shared, "token", "list").splitlines()
    assert head.split()[:5] == ["NAME", "ACCESS", "METHODS", "PROTOCOLS", "PEERS"]
    assert row.split()[:5] == ["acme", "write", "all", "/acme/*", STRANGER]
    assert fabstir(shared, "token", "list", "--names") == "ci\nacme\n"
    assert fabstir(shared, "token", "revoke", "acme") == "acme is revoked\n"
    (told,) = json.loads(fabstir(shared, "--json", "token", "list"))
    assert told["expires"] - told["created"] == 30 * 86_400_000
    assert fabstir(shared, "token", "revoke", "ci") == "ci is revoked\n"
    assert fabstir(shared, "token", "revoke", "ci", status=1) == "fabstir: there is no token ci\n"
    assert fabstir(shared, "token", "list") == "no tokens except the one in api.token\n"
    assert fabstir(shared, "token", "list", "--names") == ""
    assert "refused the token" in fabstir(shared, "status", status=1, **over_http)
    brief = fabstir(shared, "token", "create", "brief", "--access", "read", "--expires", "1s").splitlines()[0]
    over_http["FABSTIR_TOKEN"] = brief
    words = fabstir(shared, "wait", "peers=100", "--timeout", "60", status=1, **over_http)
    assert 'the token "brief" expired' in words
    fabstir(shared, "token", "revoke", "brief")
    lines = fabstir(shared, "audit", "--limit", "3").splitlines()
    assert lines[0].split() == ["SEQ", "TIME", "WHO", "METHOD", "OUTCOME", "TOOK", "PARAMETERS"]
    told = [" ".join(line.split()) for line in lines[1:]]
    expected = ("token.revoke unchanged", "token.create ok", "token.revoke ok")
    assert [words in line for words, line in zip(expected, told, strict=True)] == [True] * 3, told


@pytest.mark.parametrize("time", ["30", "d", "0d", "1y", "1,5h", "-1d", ""])
def test_times_that_are_none(shared: Process, time: str) -> None:
    words = ("token", "create", "x", "--access", "read", f"--expires={time}")
    assert "is not a duration such as" in fabstir(shared, *words, status=2)
