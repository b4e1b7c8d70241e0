"""Nobody's word decides whom the node dials, whose ban holds, what is held for others, or whether it runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest

from fabstir_client.api.errors import FabstirError
from tests import harness
from tests.faults.test_dht_liars import GET_VALUE, KAD, PUT_VALUE, beside, message, record
from tests.harness import Daemon, asked_until, fabstird, until
from tests.support.minipeer import (
    PING,
    Connection,
    Gone,
    Identity,
    Stream,
    mini_peer,
    mini_peers,
    parse_address,
)
from tests.support.ports import free_port
from tests.support.wire import base58_decode, field, fields, varint

PATIENCE = 60.0  # seconds
SLOW_DISK = """
import os, sys, time
def look(event, details):
    if event == "open" and str(details[0]).endswith("dht.json"):
        open({reading!r}, "w").close()
        while not os.path.exists({read!r}):
            time.sleep(0.01)
sys.addaudithook(look)
"""
HELD = 50  # values of an honest peer
ENOUGH = 1100  # values; more than are held for others
REFUSED = 50  # values in a row, after which a peer gives up
OWN = 10  # values that a user puts


async def test_a_stop_while_the_node_starts_is_the_last_word(tmp_path: Path) -> None:
    """While a start waits for a disk: `p2p:started` came when `stop` had been answered."""
    reading, read = tmp_path / "reading", tmp_path / "read"
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK.format(reading=str(reading), read=str(read)))
    async with (
        harness.daemon(
            {"node.auto_start": False, "node.enable_dht": True},
            data_dir=tmp_path / "data",
            environ={"PYTHONPATH": str(tmp_path)},
        ) as daemon,
        harness.ipc(daemon) as starter,
        harness.ipc(daemon) as stopper,
        harness.ipc(daemon) as connection,
    ):
        await starter.send({"jsonrpc": "2.0", "id": 1, "method": "start"})
        await until(reading.exists, within=PATIENCE)
        await stopper.send({"jsonrpc": "2.0", "id": 1, "method": "stop"})
        await asked_until(lambda: connection.call("status"), lambda status: status["state"] == "stopping")
        read.touch()
        assert "result" in await stopper.response()
        assert "error" in await starter.response()
        assert (await connection.call("status"))["state"] == "stopped"
        assert (await connection.call("events", {"after": 0}))["events"] == []


@contextmanager
def trap() -> Iterator[socket.socket]:
    """Listens on every address of this machine; whoever comes is found in its backlog."""
    # At a port where nobody was before, whom others would look for there
    with socket.create_server(("0.0.0.0", free_port("0.0.0.0"))) as listener:
        listener.setblocking(False)
        yield listener


def came(listener: socket.socket) -> int:
    """How many connections it has in its backlog."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


async def test_what_a_stranger_says_of_this_machine_is_not_dialled() -> None:
    """It names peers for the DHT's search, at the unspecified address and by two names."""
    with trap() as listener:
        port = listener.getsockname()[1].to_bytes(2, "big")
        tcp = b"\x06" + port
        places = [
            b"\x04\0\0\0\0" + tcp,
            b"\x36\x09localhost" + tcp,
            b"\x36\x09LOCALHOST" + tcp,
        ]
        told = [field(1, base58_decode(Identity().peer_id)) + field(2, place) for place in places]

        async def tell(stream: Stream) -> None:
            while True:
                asked = await stream.receive_exactly(await stream.reader.varint())
                answer = asked[:2] + b"".join(field(8, peer) for peer in told)
                await stream.send_all(varint(len(answer)) + answer)

        async with mini_peer() as peer:
            peer.handle(KAD, tell)
            async with beside(peer) as daemon:
                found = await daemon.call("dht.get_value", key="x", timeout=30000)
                assert found["asked"] >= 1
        assert came(listener) == 0


async def test_a_crowd_that_keeps_itself_busy_does_not_push_out_who_was_there_first() -> None:
    """It idles, as most peers do; those of the crowd each hold a stream open."""
    room = {"connections.high_water": 16, "connections.low_water": 8, "connections.grace_period": 0}
    async with mini_peers(21) as [first, *crowd], fabstird(settings=room) as daemon:
        address = daemon.address("tcp")
        link = await first.dial(address, source="127.0.6.1")
        for number, stranger in enumerate(crowd):
            with suppress(Gone):
                busy = await stranger.dial(address, source=f"127.0.7.{number + 1}")
                await busy.open_stream(PING)
        await daemon.wait_event("peer:disconnect", reason="trimmed", timeout=PATIENCE)
        assert await link.ping() < PATIENCE
        assert first.peer_id in [peer["peerId"] for peer in await daemon.call("peers")]


async def test_a_ban_holds_for_the_mapped_spelling_of_its_address() -> None:
    async with mini_peer() as peer, fabstird() as daemon:
        port = parse_address(await peer.listen("127.9.0.1"))[1]
        await daemon.call("peer.ban", target="127.9.0.1")
        with pytest.raises(FabstirError):
            await daemon.call("connect", address=f"/ip6/::ffff:127.9.0.1/tcp/{port}/p2p/{peer.peer_id}")
        assert await daemon.call("peers") == []


def position(key: bytes) -> int:
    return int.from_bytes(sha256(key).digest(), "big")


async def put(connection: Connection, keys: list[bytes]) -> int:
    """Put values until all are put, or none is taken any more; how many were."""
    taken = refused = 0
    stream: Stream | None = None
    for key in keys:
        stream = stream or await connection.open_stream(KAD)
        try:
            await stream.send_all(message(PUT_VALUE, key, record(key, b"v")))
            await stream.receive_exactly(await stream.reader.varint())
            taken, refused = taken + 1, 0
        except Gone:
            stream, refused = None, refused + 1
            if refused == REFUSED:
                break
    return taken


async def held(connection: Connection, keys: list[bytes]) -> int:
    """How many of them the daemon has."""
    stream, found = await connection.open_stream(KAD), 0
    for key in keys:
        await stream.send_all(message(GET_VALUE, key))
        found += 3 in fields(await stream.receive_exactly(await stream.reader.varint()))
    return found


async def test_who_hashes_pushes_out_neither_others_values_nor_our_own() -> None:
    async def answer(stream: Stream) -> None:
        """Whatever is asked, nobody is named."""
        while True:
            asked = await stream.receive_exactly(await stream.reader.varint())
            await stream.send_all(message(asked[1]))

    async with mini_peers(2) as [honest, hasher]:
        honest.handle(KAD, answer)
        async with beside(honest) as daemon:
            (link,) = honest.connections
            theirs = [b"theirs %d" % number for number in range(HELD)]
            assert await put(link, theirs) == HELD
            where = position(base58_decode(daemon.peer_id))
            every = (b"near %d" % number for number in range(10**6))
            near = list(islice((key for key in every if position(key) ^ where < 1 << 250), ENOUGH))
            taken = await put(await hasher.dial(daemon.address("tcp")), near)
            assert await held(link, theirs) == HELD, f"{taken} others came"
            assert await own(daemon) == OWN, f"{taken} others came"


async def own(daemon: Daemon) -> int:
    """How many of the values that a user puts are found again."""
    for number in range(OWN):
        await daemon.call("dht.put_value", key=f"own {number}", value="dg==")
    found = [await daemon.call("dht.get_value", key=f"own {number}") for number in range(OWN)]
    return sum(one["found"] for one in found)
