"""The daemon and each other implementation, over each transport, dialled by either: what `docs/interop.md` tells."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import import_module
from pathlib import Path

import pytest
import trio

from tests.harness import Daemon, Json, asked_until, fabstird
from tests.interop.conftest import CELL, VERSIONS
from tests.interop.matrix import ASPECTS, CELLS, FEATURE_CELLS, FEATURES, KNOWN, Cell, parse, render
from tests.interop.peerdriver import Peer, transport_of
from tests.interop.peers import START

pytestmark = pytest.mark.interop

LISTEN = {
    "tcp": "/ip4/127.0.0.1/tcp/0",
    "ws": "/ip4/127.0.0.1/tcp/0/ws",
    "quic-v1": "/ip4/127.0.0.1/udp/0/quic-v1",
}
PING, ECHO = "/ipfs/ping/1.0.0", "/fabstir-interop/echo/1.0.0"
AGENT = "under-test/1.2.3"
MIB = 1024 * 1024
WIDE = {"api.max_request_bytes": 4 * MIB, "log.level": "debug"}  # room for 1 MiB in base64
DOCUMENT = Path(__file__).parents[2] / "docs" / "interop.md"


def marked(cell: Cell) -> object:
    cause = KNOWN.get(cell)
    marks = [pytest.mark.xfail(strict=True, reason=f"{cause.words} ({cause.where})")] if cause else []
    return pytest.param(cell, id="-".join(cell), marks=marks)


@pytest.mark.parametrize("cell", [marked(cell) for cell in CELLS])
async def test_cell(cell: Cell, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(cell.implementation)
    request.node.stash[CELL] = cell
    listen = [LISTEN[cell.transport]]
    async with (
        START[cell.implementation](listen=listen, agent_version=AGENT) as peer,
        fabstird(settings=WIDE, started=False, auto_start=False, listen_addresses=listen) as daemon,
    ):
        request.node.stash[VERSIONS] = (peer.implementation, peer.runtime)
        daemon.status = await daemon.call("start")
        await CHECKS[cell.aspect](daemon, peer, cell)


async def dial(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    if cell.dialler == "daemon":
        result = await daemon.call("connect", address=peer.address(cell.transport))
        assert (result["peerId"], result["direction"]) == (peer.peer_id, "outbound")
    else:
        (address,) = daemon.status["listenAddresses"]
        dialled = await peer.call("dial", address=address)
        assert (dialled["peerId"], dialled["direction"]) == (daemon.peer_id, "outbound")
    connection = await known_to_both(daemon, peer, cell.dialler, cell.transport, "/noise")
    assert transport_of(connection["address"]) == cell.transport


async def known_to_both(daemon: Daemon, peer: Peer, dialler: str, transport: str, security: str) -> Json:
    """The one connection between them, as the daemon has it: each has told of it, and both have the same of it."""
    await daemon.wait_event("peer:connect", peerId=peer.peer_id)
    await peer.wait_event("connect", peer_id=daemon.peer_id)
    entry = await daemon.peer(peer.peer_id)
    assert entry is not None
    connection: Json
    (connection,) = entry["connections"]
    (seen,) = (await peer.call("peers"))[0]["connections"]
    directions = ("outbound", "inbound") if dialler == "daemon" else ("inbound", "outbound")
    assert (connection["direction"], seen["direction"]) == directions
    assert connection["transport"] == transport
    if transport != "quic-v1":
        assert (connection["security"], connection["muxer"]) == (security, "/yamux/1.0.0")
        assert (seen["encryption"], seen["multiplexer"]) == (security, "/yamux/1.0.0")
    return connection


async def identify(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    await dial(daemon, peer, cell)
    told = await daemon.wait_event("peer:identify", peerId=peer.peer_id)
    assert told["agentVersion"] == AGENT
    assert {PING, ECHO} <= set(told["protocols"])
    assert peer.address(cell.transport) in told["addresses"]
    heard = await peer.wait_event("identify", peer_id=daemon.peer_id)
    assert heard["agentVersion"].startswith("fabstird/")
    assert PING in heard["protocols"]
    assert transport_of(heard["addresses"][0]) == cell.transport
    assert heard["observedAddr"].startswith("/ip4/127.0.0.1/")
    again = await peer.call("identify", peerId=daemon.peer_id)
    assert (again["agentVersion"], again["protocols"]) == (heard["agentVersion"], heard["protocols"])


async def ping(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    await dial(daemon, peer, cell)
    for _ in range(3):
        assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
        assert (await peer.call("ping", peerId=daemon.peer_id))["rtt"] > 0


async def echo(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    await dial(daemon, peer, cell)
    data = os.urandom(MIB)
    answer = await daemon.call(
        "request", peerId=peer.peer_id, protocol=ECHO, data=base64.b64encode(data).decode(), framing="none"
    )
    back = base64.b64decode(answer["data"])
    assert (len(back), hashlib.sha256(back).digest()) == (MIB, hashlib.sha256(data).digest())

    await daemon.call("protocol.handle", protocol=ECHO, framing="none")
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            asked = await daemon.wait_event("protocol.request", peerId=peer.peer_id)
            request = await daemon.call("protocol.read", requestId=asked["requestId"])
            assert request["size"] == MIB
            await daemon.call("protocol.respond", requestId=asked["requestId"], data=request["data"])

        nursery.start_soon(serve)
        assert (await peer.call("echo", peerId=daemon.peer_id, bytes=MIB))["bytes"] == MIB


async def close(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    await identify(daemon, peer, cell)
    if cell.dialler == "daemon":
        assert await daemon.call("disconnect", peerId=peer.peer_id) == {"peerId": peer.peer_id, "closed": 1}
        expected = "closed"
    else:
        await asked_until(lambda: quiet(daemon, peer), bool)
        assert (await peer.call("disconnect", peerId=daemon.peer_id))["closed"] == 1
        expected = "closed_by_peer"
    gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
    # go-libp2p closes TCP with RST by its own will, and its goodbye may be lost with that (README)
    assert gone["reason"] == expected or (cell.implementation, gone["reason"]) == ("go", "reset")
    await peer.wait_event("disconnect", peer_id=daemon.peer_id)
    assert await peer.call("peers") == []
    await came_and_went_once(daemon, peer)


async def quiet(daemon: Daemon, peer: Peer) -> bool:
    """Nothing is on its way between the two: js closes a TCP connection with RST while bytes lie unread (README)."""
    entry = await daemon.peer(peer.peer_id)
    (theirs,) = await peer.call("peers")
    assert entry is not None
    open_there = theirs["connections"][0]["streams"] or 0  # rust does not tell
    return "latency" in entry and entry["connections"][0]["streams"] == 0 and open_there == 0


async def kill(daemon: Daemon, peer: Peer, cell: Cell) -> None:
    await dial(daemon, peer, cell)
    peer.kill()
    gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, timeout=60)
    # a dead process's socket ends with FIN or with RST; one of UDP falls silent
    assert gone["reason"] in (("dead", "timeout") if cell.transport == "quic-v1" else ("closed_by_peer", "reset"))
    assert await daemon.peer(peer.peer_id) is None
    await came_and_went_once(daemon, peer)


async def came_and_went_once(daemon: Daemon, peer: Peer) -> None:
    log = [event["type"] for event in await daemon.whole_log() if event["data"].get("peerId") == peer.peer_id]
    assert (log.count("peer:connect"), log.count("peer:disconnect")) == (1, 1), log


CHECKS = {"dial": dial, "identify": identify, "ping": ping, "echo": echo, "close": close, "kill": kill}


def test_the_document_is_the_generators() -> None:
    text = DOCUMENT.read_text()
    results = parse(text)
    assert render(results) == text, "make interop writes docs/interop.md"
    assert set(results.works) == set(CELLS), "every cell was run"
    assert {cell for cell, works in results.works.items() if not works} == set(KNOWN)
    assert set(CHECKS) == set(ASPECTS)
    assert set(results.features) == set(FEATURE_CELLS), "every feature was run, as root with nftables"
    assert [cell for cell, works in results.features.items() if not works] == []


def test_the_tests_that_features_name_are_there() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    (run,) = [line for line in makefile.splitlines() if "addprefix tests/interop/test_" in line]
    for feature in FEATURES:
        assert feature.module.removeprefix("test_") in run.replace(",", " ").replace(")", " ").split(), "make interop"
        module = import_module(f"tests.interop.{feature.module}")
        assert [test for test in feature.tests if not callable(getattr(module, test, None))] == []
