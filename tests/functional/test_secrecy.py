"""What is said reaches whom it is for, and stands nowhere else: not in the log, however talkative, in no event that
others are told, in no audit, in no dump."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.functional.local_streams import Local
from tests.harness import ANSWER, Connection, Process, daemon, ipc, post, ws
from tests.support.minipeer import Stream, mini_peer

SAID = b"a-payload-that-nobody-but-its-reader-may-see"
WRONG = "a-token-that-is-wrong-but-secret"
ON = {"node.enable_dht": True, "api.bridge": True, "log.level": "debug", "api.http": "127.0.0.1:0"}
TALK = "/talk/1.0.0"
STREAM = "/stream/1.0.0"


def spellings(secret: bytes) -> set[bytes]:
    """The secret as it is, and as it looks in base64, wherever it begins there, and in hexadecimal."""
    found = {secret, secret.hex().encode()}
    for ahead in range(3):
        whole = base64.b64encode(bytes(ahead) + secret)
        found.add(whole[4:-4])
    return found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def told(connection: Connection, method: str) -> Any:
    """What the next notification of this method says."""
    while True:
        message = await connection.receive()
        if message.get("method") == method:
            return message["params"]


async def local(running: Process) -> Local:
    return Local(await trio.open_unix_socket(running.api["ipc"]))


async def looked_through(running: Process) -> dict[str, bytes]:
    """All that others than who sends and who reads may see."""
    async with ipc(running) as connection:
        events = await connection.call("events", {"after": 0, "limit": 1000})
        audit = await connection.call("audit", {"limit": 1000})
        dump = await connection.call("debug.dump")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(dump["content"]))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert len(files) >= 10
    return {
        **files,
        "events": json.dumps(events).encode(),
        "audit": json.dumps(audit).encode(),
        "log": running.text().encode(),
    }


async def test_what_is_said_stands_nowhere_but_where_it_is_read() -> None:
    async with (
        daemon(ON) as one,
        daemon(ON) as other,
        ipc(one) as here,
        ipc(other) as there,
        ipc(other) as watcher,
        ws(other) as bridge,
    ):
        await one.started()
        await other.started()
        await watcher.call("subscribe")
        ours, theirs = [(await connection.call("status"))["peerId"] for connection in (here, there)]
        address = (await there.call("status"))["listenAddresses"][0]
        await here.call("connect", [address])
        await bridge.call("getStatus")

        await messages(here, there, theirs)
        await streams(one, other, there, theirs)
        async with narrow(other, there, "status") as nosy:
            message = {"peerId": theirs, "message": {"type": "x", "payload": SAID.decode()}}
            assert (await here.call("sendMessage", message))["delivered"] == 1
            with trio.fail_after(ANSWER):
                assert SAID in (await bridge.receive_text() or b"")
            assert (await nosy.call("status"))["peerId"] == theirs, "and nothing came before that"
        await here.answer("sendMessage", {"peerId": ours, "message": {"type": "x", "payload": SAID.decode()}})
        await here.call("fabstir.announce", {"capabilities": ["talk"], "metadata": {"motto": SAID.decode()}})
        await here.answer("dht.put_value", {"key": "k", "value": b64(SAID)})
        await there.answer("fabstir.discover", {"capability": "talk", "timeout": 5000})
        made = await here.call("token.create", {"name": "reader", "access": "read"})
        await post(one, {"jsonrpc": "2.0", "id": 1, "method": "status"}, authorization=f"Bearer {WRONG}")
        await liar(here)

        secrets = [SAID, made["token"].encode(), WRONG.encode(), one.token.encode(), other.token.encode()]
        hidden = {spelling for secret in secrets for spelling in spellings(secret)}
        for running in (one, other):
            for name, content in (await looked_through(running)).items():
                lines = [line for line in content.splitlines() if any(one in line for one in hidden)]
                assert not lines, (name, lines)
        heard, head = watcher.notifications, (await watcher.call("status"))["head"]
        while not any(one["params"].get("seq") == head for one in heard):
            heard.append(await watcher.receive())
        assert not any(one in json.dumps(heard).encode() for one in spellings(SAID)), heard


@asynccontextmanager
async def narrow(running: Process, admin: Connection, *methods: str) -> AsyncIterator[Connection]:
    """A WebSocket of a token that is for these methods alone."""
    wish = {"name": "-".join(methods), "access": "read", "methods": list(methods)}
    async with ws(running, (await admin.call("token.create", wish))["token"]) as connection:
        yield connection


async def test_a_token_for_one_method_is_shown_nothing_of_others() -> None:
    """The answer to `subscribe` holds those to `status` and `peers`."""
    async with daemon(ON) as running, ipc(running) as admin, mini_peer() as peer:
        await running.started()
        await admin.call("connect", [await peer.listen()])
        for methods, lacks in (
            (("subscribe",), "status"),
            (("subscribe", "peers"), "status"),
            (("subscribe", "status"), "peers"),
        ):
            async with narrow(running, admin, *methods) as connection:
                for params in ({}, {"after": 0}, {"types": ["peer:connect"]}):
                    error = await connection.error("subscribe", params)
                    assert (error["code"], error["data"]["method"]) == (-32008, lacks)
        async with narrow(running, admin, "subscribe", "status", "peers") as connection:
            snapshot = await connection.call("subscribe")
            assert [one["peerId"] for one in snapshot["peers"]] == [peer.peer_id]


async def messages(here: Connection, there: Connection, theirs: str) -> None:
    """A request and its answer, one that is answered wrongly, and one that nobody answers."""
    await there.call("protocol.handle", {"protocol": TALK, "framing": "uvarint", "deadline": 4000})
    call = {"peerId": theirs, "protocol": TALK, "data": b64(SAID), "timeout": 30000}
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await here.answer("request", call))

    for answered in (True, False):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            request = await told(there, "protocol.request")
            assert base64.b64decode(request["data"]) == SAID
            if answered:
                for wrong in ({"requestId": SAID.decode()}, {"data": "*" + SAID.decode()}, {"more": SAID.decode()}):
                    answer = {"requestId": request["requestId"], "data": b64(SAID)}
                    assert "error" in await there.answer("protocol.respond", answer | wrong)
                await there.call("protocol.respond", {"requestId": request["requestId"], "data": b64(SAID)})
    assert base64.b64decode(answers[0]["result"]["data"]) == SAID
    assert "error" in answers[1]
    assert "error" in await here.answer("request", call | {"data": "*" + SAID.decode()})


async def streams(one: Process, other: Process, there: Connection, theirs: str) -> None:
    """Both ways, ended well and cut."""
    await there.call("protocol.handle", {"protocol": STREAM, "mode": "stream"})
    for cut in (False, True):
        async with (await local(one)).stream as opened, (await local(other)).stream as accepted:
            opening, taking = Local(opened), Local(accepted)
            await opening.call("stream.open", {"peerId": theirs, "protocol": STREAM}, behind=SAID)
            incoming = await told(there, "stream.incoming")
            await taking.call("stream.accept", {"streamId": incoming["streamId"]})
            assert await taking.exactly(len(SAID)) == SAID
            await taking.send(SAID)
            assert await opening.exactly(len(SAID)) == SAID
            if cut:
                await there.call("stream.reset", {"streamId": incoming["streamId"]})
            else:
                await opening.end()
                await taking.end()


async def liar(here: Connection) -> None:
    """Its answers are against the protocol, and have the payload in them."""

    async def lie(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"\xff\xff\xff\xff\xff\xff" + SAID)

    async with mini_peer() as peer:
        peer.handle(TALK, lie)
        await here.call("connect", [await peer.listen()])
        call = {"peerId": peer.peer_id, "protocol": TALK, "data": b64(SAID), "framing": "uvarint"}
        assert "error" in await here.answer("request", call)
