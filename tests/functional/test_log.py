"""The log of a whole session, at its most talkative, with peers and callers who would like to be seen in it."""

from __future__ import annotations

import base64
import json
import unicodedata

import pytest

from tests.harness import START_TIMEOUT, Process, daemon, fetch, ipc, post, until, ws
from tests.support.minipeer import mini_peer

HOSTILE = '\x1b[2J\x1b]0;owned\x07\r\n{"level":"critical","event":"forged"}\n\x9b31m\u202e\u2028\x00'
PAYLOAD = "a-payload-that-nobody-but-the-peer-may-see"
WRONG = "a-token-that-is-wrong-but-secret"


async def session(running: Process) -> str:
    """A hostile peer, calls over every transport, right and wrong tokens, payloads; the token that was made."""
    await until(lambda: "p2p:started" in running.text(), within=START_TIMEOUT)
    async with ipc(running) as connection, mini_peer(agent=HOSTILE) as peer:
        await connection.call("log.level", ["libp2p", "debug"])
        await peer.dial((await connection.call("status"))["listenAddresses"][0])

        identified = []

        async def look() -> None:
            identified[:] = [one for one in await connection.call("peers") if one.get("agentVersion")]

        while not identified:
            await look()
        params = {"peerId": peer.peer_id, "protocol": "/test/1", "data": base64.b64encode(PAYLOAD.encode()).decode()}
        await connection.answer("request", params)
        await connection.answer("peer.ban", {"peerId": peer.peer_id, "reason": HOSTILE})
        await connection.answer("peer.unban", {"peerId": peer.peer_id})
        await connection.answer("connect", {"address": f"/ip4/127.0.0.1/tcp/1/p2p/{HOSTILE}"})
        await connection.answer(HOSTILE, {})
        made = await connection.call("token.create", {"name": "reader", "access": "read"})
    async with ws(running) as other:
        await other.call("status")
        await other.send_text(b'{"jsonrpc": \x1b "broken')
        await other.receive()
    await fetch(running, "GET", f"/metrics?token={running.token}")
    await fetch(running, "GET", "/metrics", authorization=f"Bearer {WRONG}")
    await post(running, {"jsonrpc": "2.0", "id": HOSTILE, "method": "stop"})
    await until(lambda: "p2p:stopped" in running.text())
    return str(made["token"])


@pytest.mark.parametrize("form", ["json", "console"])
async def test_nobody_steers_the_log_and_nothing_secret_is_in_it(form: str) -> None:
    async with daemon({"log.level": "debug", "log.format": form, "api.http": "127.0.0.1:0"}) as running:
        made = await session(running)
        key = (running.data_dir / "identity.key").read_text(encoding="latin-1").strip()
        text = running.text()
        text = text[: text.rfind("\n") + 1]  # of a line that is being written there may be half
        secrets = [running.token, made, WRONG, PAYLOAD, base64.b64encode(PAYLOAD.encode()).decode(), key]
        assert [secret for secret in secrets if secret in text] == []
    wild = {char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert wild == set(), wild
    lines = text.splitlines()
    for word in ("peer:identify", "request refused", "token.create", "p2p:stopped"):
        assert word in text, "the log tells of all that was tried"
    if form == "json":
        entries = [json.loads(line) for line in lines]
        assert all({"time", "level", "event", "logger"} <= entry.keys() for entry in entries)
        assert not [entry for entry in entries if entry["event"] == "forged"]
    else:
        assert not [line for line in lines if line.startswith('{"level":"critical"')]
