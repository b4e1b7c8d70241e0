"""Nodes of the DHT that lie, send garbage, send too much, or nothing at all: an error that says so or a counter that
moves, never a stuck call, never a crash."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from fabstir_client.api.errors import DeadlineExceeded, PeerNotFound
from tests.faults.chance import seed
from tests.harness import Daemon, asked_until, fabstird
from tests.support.minipeer import Connection, Gone, MiniPeer, Stream, StreamReset, mini_peer
from tests.support.ports import refusing_port
from tests.support.wire import field, varint

KAD = "/ipfs/kad/1.0.0"
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
PUT_VALUE, GET_VALUE, ADD_PROVIDER, GET_PROVIDERS, FIND_NODE, PING = range(6)


def message(kind: int, key: bytes = b"", rest: bytes = b"") -> bytes:
    body = varint(1 << 3) + varint(kind) + (field(2, key) if key else b"") + rest
    return varint(len(body)) + body


def record(key: bytes, value: bytes) -> bytes:
    return field(3, field(1, key) + field(2, value))


@asynccontextmanager
async def beside(peer: MiniPeer) -> AsyncIterator[Daemon]:
    """A daemon that has the peer in its routing table, and answers it."""
    address = await peer.listen()
    async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
        await daemon.call("connect", address=address)
        await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"])
        yield daemon


async def reset(conn: Connection, data: bytes) -> bool:
    """Whether the daemon resets a stream that says this, or sooner, and does not answer."""
    try:
        await (await conn.send_bytes(KAD, data)).receive_some()
    except StreamReset:
        return True
    return False


async def test_a_node_that_never_answers_holds_nobody_up() -> None:
    async def silent(stream: Stream) -> None:
        await trio.sleep_forever()

    async with mini_peer() as peer:
        peer.handle(KAD, silent)
        async with beside(peer) as daemon:
            for method, params in (
                ("dht.find_peer", {"peerId": STRANGER}),
                ("dht.find_providers", {"key": "x"}),
                ("dht.get_value", {"key": "x"}),
                ("dht.provide", {"key": "x"}),
                ("dht.put_value", {"key": "x", "value": ""}),
            ):
                with pytest.raises(DeadlineExceeded):
                    await daemon.call(method, **params, timeout=200)
            found = await daemon.call("fabstir.discover", model="x", timeout=400)
            assert (found["nodes"], found["complete"]) == ([], False)
            # With time enough it is given up, and suspect: one failure costs nobody a place
            whole = await daemon.call("dht.get_value", key="x", timeout=60000)
            assert (whole["found"], whole["complete"]) == (True, True), "what it put itself, it holds itself"
            status = await daemon.call("dht.status")
            assert status["peers"] == 1
            assert status["failed"] >= 1
            assert await daemon.peer(peer.peer_id), "its connection is another matter"


async def test_a_deadline_that_cuts_a_search_does_not_lose_what_it_has_found() -> None:
    """Seen: one peer that never answered, and ``provide`` told nobody at all."""
    async with mini_peer() as mute, mini_peer() as peer:
        mute.handle(KAD, _hold)
        peer.handle(KAD, _honest)
        async with beside(mute) as daemon:
            await daemon.call("connect", address=await peer.listen())
            await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] == 2)
            sent = 0
            for _ in range(5):  # a machine that is busy with other things may be late, and not five times
                with suppress(DeadlineExceeded):
                    sent = (await daemon.call("dht.provide", key="x", timeout=2400))["sent"]
                if sent:
                    break
            assert sent == 1


async def test_a_full_connection_manager_costs_nobody_a_place_in_the_table() -> None:
    """Seen: a dial that a limit of the daemon's own forbade took the peer out of the table."""
    async with mini_peer() as gone, mini_peer() as here:
        gone.handle(KAD, _honest)
        here.handle(KAD, _honest)
        settings = {"dht.mode": "server", "connections.low_water": 1, "connections.high_water": 1}
        async with fabstird(settings=settings, enable_dht=True) as daemon:
            for peer in (gone, here):
                await daemon.call("connect", address=await peer.listen())
                await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] >= 1)
                if peer is gone:
                    await daemon.call("disconnect", peerId=gone.peer_id)
            # It looks itself up for the newcomer's sake, and asks those whom it knows
            await asked_until(
                lambda: daemon.call("dht.status"), lambda status: status["asked"] >= 2 and status["peers"] == 2
            )
            await trio.sleep(2)
            assert (await daemon.call("dht.status"))["peers"] == 2


async def test_garbage_for_an_answer_is_counted() -> None:
    chance = random.Random(seed())

    async def babble(stream: Stream) -> None:
        await stream.receive_some()
        data = chance.randbytes(chance.randrange(1, 200))
        await stream.send_all(varint(len(data)) + b"\xff" + data[1:])

    async with mini_peer() as peer:
        peer.handle(KAD, babble)
        async with beside(peer) as daemon:
            for _ in range(20):
                found = await daemon.call("dht.get_value", key="x")
                assert (found["found"], found["complete"]) == (False, True)
            assert (await daemon.call("dht.status"))["malformed"] >= 1


async def test_an_answer_without_an_end_is_not_read() -> None:
    async def boast(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(varint(1 << 30) + bytes(5000))

    async with mini_peer() as peer:
        peer.handle(KAD, boast)
        async with beside(peer) as daemon:
            found = await daemon.call("dht.find_providers", key="x")
            assert (found["providers"], found["complete"]) == ([], True)
            assert (await daemon.call("dht.status"))["failed"] >= 1


async def test_a_liar_who_makes_up_ever_closer_nodes_comes_to_an_end() -> None:
    chance = random.Random(seed())
    asked = 0
    with refusing_port() as port:
        nowhere = b"\x04\x7f\x00\x00\x01\x06" + port.to_bytes(2, "big")

        async def lie(stream: Stream) -> None:
            nonlocal asked
            asked += 1
            await stream.receive_some()
            made_up = b"".join(
                field(8, field(1, b"\x12\x20" + chance.randbytes(32)) + field(2, nowhere)) for _ in range(64)
            )
            await stream.send_all(message(FIND_NODE, b"", made_up))

        async with mini_peer() as peer:
            peer.handle(KAD, lie)
            async with beside(peer) as daemon:
                with pytest.raises(PeerNotFound, match="peers of the DHT were asked"):
                    await daemon.call("dht.find_peer", peerId=STRANGER, timeout=60000)
                assert asked >= 1
                status = await daemon.call("dht.status")
                assert status["asked"] <= 400, "120 a lookup at most, and there were few"


async def test_records_against_the_rules_are_refused_and_counted() -> None:
    async with mini_peer() as peer, mini_peer() as other:
        peer.handle(KAD, _hold)
        async with beside(peer) as daemon:
            conn = peer.connections[0]
            stranger = field(9, field(1, b"\x12\x20" + bytes(32)))
            wrong = (
                message(ADD_PROVIDER, b"k", stranger),
                message(ADD_PROVIDER, b"k"),
                message(ADD_PROVIDER, bytes(81), stranger),
                message(PUT_VALUE, b"k"),
                message(PUT_VALUE, b"k", record(b"other", b"v")),
                message(PUT_VALUE, b"k", record(b"k", bytes(20000))),
                message(PUT_VALUE, b"/ipns/k", record(b"/ipns/k", b"v")),
                message(GET_VALUE),
                message(FIND_NODE),
            )
            for data in wrong:
                assert await reset(conn, data), data[:40]
            status = await daemon.call("dht.status")
            assert (status["refused"], status["values"], status["providedKeys"]) == (len(wrong), 0, 0)
            # One that keeps to them is answered after all that
            stream = await conn.send_bytes(KAD, message(PUT_VALUE, b"k", record(b"k", b"v")))
            [size] = await stream.receive_exactly(1)
            assert record(b"k", b"v") in await stream.receive_exactly(size)
            assert (await daemon.call("dht.get_value", key="k"))["value"] == base64.b64encode(b"v").decode()
        assert other.connections == []


async def test_garbage_on_the_protocol_is_counted_and_nothing_else() -> None:
    chance = random.Random(seed())
    async with mini_peer() as peer:
        peer.handle(KAD, _hold)
        async with beside(peer) as daemon:
            conn = peer.connections[0]
            for _ in range(200):
                data = chance.randbytes(chance.randrange(1, 300))
                framed = varint(len(data)) + data if chance.random() < 0.8 else data
                stream = await conn.send_bytes(KAD, framed)
                await stream.close()
            assert await reset(conn, varint(1 << 30))
            await _still_answers(conn)
            assert (await daemon.call("dht.status"))["malformed"] >= 1
            assert await daemon.peer(peer.peer_id)


async def test_a_node_may_use_every_place_until_another_needs_one() -> None:
    """Seen: a node that announced five records at once was refused, since streams that had ended there were still
    counted here; and eight ids that held eight streams each shut everybody else out."""
    async with mini_peer() as peer, mini_peer() as other:
        peer.handle(KAD, _hold)
        other.handle(KAD, _hold)
        async with beside(peer) as daemon:
            await daemon.call("connect", address=await other.listen())
            conn = peer.connections[0]
            held = [await _asked(conn) for _ in range(128)]
            metrics = await daemon.call("metrics")
            assert metrics["bounds"]["dhtStreams"] == {"current": 128, "limit": 128}
            await _still_answers(other.connections[0])
            with trio.fail_after(60):
                while True:  # who has been silent longest gives way even to the same node
                    with suppress(Gone):
                        await _still_answers(conn)
                        break
            assert any([await _is_cut(stream) for stream in held])
            assert (await daemon.call("metrics"))["bounds"]["dhtStreams"]["current"] <= 128


async def _hold(stream: Stream) -> None:
    """Says nothing, for as long as the daemon waits."""
    await trio.sleep_forever()


async def _honest(stream: Stream) -> None:
    """Answers whatever is asked with the question's kind, and names nobody."""
    [size] = await stream.receive_exactly(1)
    question = await stream.receive_exactly(size)
    if question[:2] != bytes([8, ADD_PROVIDER]):
        await stream.send_all(message(question[1]))


async def _asked(conn: Connection) -> Stream:
    """A stream on which the daemon has answered, and which stays open."""
    stream = await conn.send_bytes(KAD, message(PING))
    assert await stream.receive_exactly(len(message(PING))) == message(PING)
    return stream


async def _is_cut(stream: Stream) -> bool:
    with trio.move_on_after(0.05):
        try:
            await stream.receive_some()
        except Gone:
            return True
    return False


async def _still_answers(conn: Connection) -> None:
    await (await _asked(conn)).close()
