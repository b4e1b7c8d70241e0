"""Strangers that come through a relay, and what they may have a daemon keep."""

from __future__ import annotations

import os

import trio

from tests.functional.test_relay_service import HOP, SERVE, TCP
from tests.harness import fabstird
from tests.support.holding import held
from tests.support.minipeer import Connection, MiniPeer, Stage, mini_peer
from tests.support.wire import base58_decode, field, varint

LETTING_GO = "fabstird.p2p.nat.direct.Direct._let_go"
TIMES = 12


async def through(peer: MiniPeer, relay: str, target: str) -> Connection:
    """A connection to the peer with the id ``target``, by way of the relay at this address."""
    stream = await (await peer.dial(relay)).open_stream(HOP)
    question = b"\x08\x01" + field(2, field(1, base58_decode(target)))
    await stream.send_all(varint(len(question)) + question)
    await stream.receive_exactly(await stream.reader.varint())
    conn = peer.over(stream, target)
    with trio.fail_after(60):
        await conn.reached(Stage.UP)
    return conn


async def test_who_becomes_direct_again_and_again_is_let_go_by_one_task() -> None:
    """Each direct connection that came beside a relayed one left a task behind, until the relayed one ended."""
    settings = {**SERVE, "relay.circuit_duration": 0, "relay.circuit_bytes": 0}
    async with fabstird(settings=settings, listen_addresses=TCP) as relay:
        nodes = {"relay.nodes": [relay.address("tcp")]}
        async with fabstird(settings=nodes, listen_addresses=TCP) as hidden, mini_peer() as peer:
            await hidden.circuit(relay)
            relayed = await through(peer, relay.address("tcp"), hidden.peer_id)
            await hidden.wait_event("peer:connect", peerId=peer.peer_id)
            used = await relayed.send_bytes("/ipfs/ping/1.0.0", os.urandom(32))  # a stream keeps it up
            await used.receive_exactly(32)
            for count in range(1, TIMES + 1):
                direct = await peer.dial(hidden.address("tcp"))
                await hidden.wait_event("peer:path", count=count, peerId=peer.peer_id)
                direct.drop()
            assert (await held(hidden)).tasks[LETTING_GO] == 1
            assert not relayed.closed.is_set()
