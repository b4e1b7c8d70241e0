"""The examples of the OpenRPC document: one session with a live daemon that calls every method.

`python -m tests.conformance.examples` renews `fabstird/rpc/examples.json` from it, with what differs from run to run
replaced: peer ids, ports, instants, durations, the epoch.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.harness import Connection, Json, Process, daemon, ipc, ws

FILE = Path(__file__).parents[2] / "fabstird" / "rpc" / "examples.json"
OWN = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
PEER = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
BOTH = {"node.enable_dht": True, "dht.mode": "server", "api.bridge": True}
SETTINGS = {**BOTH, "events.heartbeat": 50, "events.history": 2, "node.auto_start": False}
DRAWN = {
    "requestId": "861451cc706b52f3",
    "streamId": "9b1c40d7e2a85f36",
    "tunnelId": "4c2f70a9d1b3e586",
    "listen": "127.0.0.1:40022",
    "queryId": "5d0c2f6e",
    "code": "mZ4tq1w9Yl3vXhB7sK0dRc6nUaPjEoTg",
    "token": "fabstir_8fJm2kq0XyTnB1zR4vWcE7sLhUoPaGdQ5iYtN6xKbMw",
}
LONG = ("content",)  # cut here, where an example is to be read
NOT_CALLED = {"rpc.discover": "its answer is the document itself"}


@dataclass
class Session:
    """A connection to the daemon whose answers are the examples, and one to another that is its peer."""

    own: Connection
    other: Connection
    running: Process
    another: Process
    peer_id: str = ""
    address: str = ""
    told: Json = field(default_factory=dict)  # notifications to one caller, by method

    async def call(self, method: str, **params: Any) -> tuple[str, Json, Any]:
        return method, params, await self.own.call(method, params)


@asynccontextmanager
async def session() -> AsyncIterator[Session]:
    async with (
        daemon(SETTINGS) as running,
        daemon(BOTH) as another,
        ipc(running) as own,
        ipc(another) as other,
        ws(another),  # a bridge client, to which messages go
    ):
        found = Session(own, other, running, another)
        status = await other.call("start")
        found.peer_id, found.address = status["peerId"], status["listenAddresses"][0]
        yield found


async def calls(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """Every method with the parameters and the result that it has here."""
    call, peer_id, address = at.call, at.peer_id, at.address
    yield await call("start", config={"listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "dialTimeout": 5000})
    yield await call("connect", address=address, timeout=5000)
    with trio.fail_after(60):
        while not {"agentVersion", "latency"} <= (await at.own.call("peers"))[0].keys():
            pass  # until identify has finished, and a round trip is measured
    status = await at.own.call("status")
    yield await call("status")
    yield await call("wait", state="started", peers=1, peerId=peer_id, timeout=5000)
    yield await call("ping", peerId=peer_id)
    yield await call("peers")
    yield await call("addresses")
    yield await call("metrics")
    yield await call("config")
    yield await call("version")
    yield await call("events", after=status["head"] - 1, epoch=status["epoch"], limit=10, timeout=1000)
    subscribed = await call("subscribe", after=0)
    yield subscribed
    yield await call("unsubscribe", subscription=subscribed[2]["subscription"])
    async for one in messages(at):
        yield one
    async for one in streams(at):
        yield one
    async for one in tunnels(at):
        yield one
    async for one in finding(at):
        yield one
    yield await call("peer.tag", peerId=peer_id, tag="customer", value=50)
    yield await call("peer.protect", peerId=peer_id)
    yield await call("peer.unprotect", peerId=peer_id)
    yield await call("peer.untag", peerId=peer_id, tag="customer")
    yield await call("peer.keep", address=address)
    yield await call("peer.explain", target=peer_id)
    yield await call("peer.forget", target=peer_id)
    yield await call("disconnect", peerId=peer_id)
    yield await call("peer.ban", target=peer_id, duration=3600000, reason="too many requests")
    yield await call("peer.bans")
    yield await call("peer.unban", target=peer_id)
    async for one in administration(at):
        yield one
    yield await call("stop")
    yield await call("shutdown")


async def messages(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """A request each way."""
    call, other = at.call, at.other
    protocol, data = "/fabstir/job/1.0.0", base64.b64encode(b'{"JobClaim":{"job_id":7}}').decode()
    about = {"protocol": protocol, "framing": "u32be"}
    await other.call("protocol.handle", about)
    answer = base64.b64encode(b'{"JobClaimAck":{"job_id":7,"accepted":true}}').decode()
    async with trio.open_nursery() as nursery:

        async def respond() -> None:
            asked = (await other.notification("protocol.request"))["params"]
            await other.call("protocol.respond", {"requestId": asked["requestId"], "data": answer})

        nursery.start_soon(respond)
        result = await call("request", peerId=at.peer_id, data=data, **about)
    yield result
    yield await call("protocol.handle", **about, deadline=30000)
    own_id = (await at.own.call("status"))["peerId"]
    await other.send(
        {"jsonrpc": "2.0", "id": "r", "method": "request", "params": {"peerId": own_id, "data": data, **about}}
    )
    at.told["protocol.request"] = (await at.own.notification("protocol.request"))["params"]
    request_id = at.told["protocol.request"]["requestId"]
    yield await call("protocol.read", requestId=request_id)
    yield await call("protocol.respond", requestId=request_id, data=answer)
    at.told["protocol.ended"] = (await at.own.notification("protocol.ended"))["params"]
    yield await call("protocol.unhandle", protocol=protocol)


async def streams(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """One each way."""
    about = {"protocol": "/fabstir/tokens/1.0.0"}
    await at.other.call("protocol.handle", {**about, "mode": "stream"})
    async with ipc(at.running) as fresh:
        params = {"peerId": at.peer_id, "protocol": ["/fabstir/tokens/2.0.0", about["protocol"]], "timeout": 5000}
        yield "stream.open", params, await fresh.call("stream.open", params)
    await at.own.call("protocol.handle", {**about, "mode": "stream"})
    own_id = (await at.own.call("status"))["peerId"]
    async with ipc(at.another) as opening, ipc(at.running) as fresh:
        await opening.call("stream.open", {"peerId": own_id, **about})
        at.told["stream.incoming"] = (await at.own.notification("stream.incoming"))["params"]
        stream_id = at.told["stream.incoming"]["streamId"]
        yield "stream.accept", {"streamId": stream_id}, await fresh.call("stream.accept", {"streamId": stream_id})
        yield await at.call("stream.list")
        yield await at.call("stream.reset", streamId=stream_id)
        at.told["stream.closed"] = (await at.own.notification("stream.closed"))["params"]
    await at.own.call("protocol.unhandle", about)


async def tunnels(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """One of each kind."""
    ssh = "/ssh/1.0.0"
    yield await at.call("tunnel.listen", protocol=ssh, target="127.0.0.1:22", peers=[at.peer_id], keep=True)
    made = await at.call("tunnel.forward", peerId=at.peer_id, protocol=ssh, listen="127.0.0.1:0")
    yield made
    yield await at.call("tunnel.list")
    for one in (await at.own.call("tunnel.list"))[::-1]:
        closed = await at.call("tunnel.close", tunnelId=one["tunnelId"])
    yield closed


async def finding(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """In the DHT, of which the other daemon is the rest."""
    call, other = at.call, at.other
    model, value = "llama-3", base64.b64encode(b"fair").decode()
    with trio.fail_after(60):
        while not (await at.own.call("dht.status"))["peers"]:
            pass  # until it is in the routing table
    await other.call("dht.provide", {"key": "weather"})
    await other.call(
        "fabstir.announce", {"capabilities": [model], "metadata": {"reputation": 90, "pricePerToken": "2000"}}
    )
    yield await call("dht.status")
    yield await call("dht.routing")
    yield await call("dht.find_peer", peerId=at.peer_id)
    yield await call("dht.find_providers", key="weather", count=5)
    yield await call("dht.provide", key="weather")
    yield await call("dht.put_value", key="weather", value=value)
    yield await call("dht.get_value", key="weather")
    yield await call("dht.forget", key="weather")
    yield await call("fabstir.announce", capabilities=[model], metadata={"reputation": 80})
    yield await call("fabstir.discover", model=model, filters={"minReputation": 50})
    yield await call("fabstir.withdraw", capabilities=[model])
    yield await call("discover", filter={"capabilities": [model]})
    yield await call("sendMessage", peerId=at.peer_id, message={"type": "job", "payload": {"model": model}})
    yield await call("getStatus")


async def administration(at: Session) -> AsyncIterator[tuple[str, Json, Any]]:
    """Tokens, and looking inside."""
    call = at.call
    yield await call("token.create", name="dashboard", access="read", methods=["peers", "status"], expiresIn=86400000)
    yield await call("token.list")
    yield await call("token.revoke", name="dashboard")
    yield await call("audit", limit=1)
    yield await call("log.level", logger="p2p", level="debug")
    yield await call("debug.tasks")
    yield await call("debug.dump")
    yield await call("log.tail", level="warning", limit=1)
    yield await call("dials")
    yield await call("ui.code", access="write")


async def record() -> Json:
    """What the file holds."""
    async with session() as at:
        methods: Json = {}
        async with aclosing(calls(at)) as made:
            async for method, params, result in made:
                methods[method] = {"params": params, "result": result}
                if method == "subscribe":
                    heard = {kind: await at.own.notification(kind) for kind in ("lagged", "event", "heartbeat")}
        own = methods["status"]["result"]["peerId"]
        whole = {"methods": methods, "notifications": {kind: one["params"] for kind, one in heard.items()} | at.told}
        text = json.dumps(whole).replace(own, OWN).replace(at.peer_id, PEER)
        text = text.replace(methods["status"]["result"]["epoch"], "5c1f0b3e9a7d2460")
    same: Json = _settled(json.loads(text))
    return same


def _settled(value: Any, name: str = "") -> Any:
    """Ports, instants and durations as they always are."""
    if isinstance(value, dict):
        return {key: _settled(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_settled(one, name) for one in (value[:1] if name == "tasks" else value)]
    if name in DRAWN and isinstance(value, str):
        return DRAWN[name]
    if name in LONG and isinstance(value, str):
        return value[:40]
    if isinstance(value, str):
        value = re.sub(r"/\S*/(?=fabstird/|site-packages/|lib/python)", "", value)  # where this machine has its files
        return re.sub(r"/ip4/127\.0\.0\.1/tcp/[1-9]\d*", "/ip4/192.0.2.7/tcp/4001", value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value > 10**12:
        return 1767225600000 if name in ("startTime",) else 1767225660000
    if name == "duration" and value < 1000:
        return 12
    return {"uptime": 60000, "rtt": 0.4, "latency": 0.4, "uid": 1000, "pid": 4711}.get(name, value)


if __name__ == "__main__":
    FILE.write_text(json.dumps(trio.run(record), indent=1, ensure_ascii=False) + "\n")
