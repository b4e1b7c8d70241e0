"""What a relay, or who says that he is one, can do to a daemon that has asked it for a reservation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId, Status, StopMessage

from fabstird.identity import Identity
from tests.faults.chance import each
from tests.faults.test_random_bytes import ANY, NO_TEXT
from tests.harness import Daemon, asked_until, fabstird, until
from tests.support.holding import released, settled
from tests.support.minipeer import Connection, Gone, MiniPeer, Stage, mini_peers
from tests.support.wire import varint

STOP = "/libp2p/circuit/relay/0.2.0/stop"
NOWHERE = "/ip4/127.0.0.1/tcp/1"  # where the relay cannot be reached: it comes by itself
PATIENCE = 60.0
SOMEBODY = ID.from_base58(Identity.from_seed(bytes(32)).peer_id).to_bytes()


@asynccontextmanager
async def asking(max_per_ip: int = 200) -> AsyncIterator[tuple[Daemon, Connection, MiniPeer]]:
    """A daemon, the link of its relay, which refuses reservations, and a stranger."""
    async with mini_peers(2) as [relay, stranger]:
        node = f"{NOWHERE}/p2p/{relay.peer_id}"
        settings = {"relay.nodes": [node], "connections.max_per_ip": max_per_ip}
        async with fabstird(settings=settings, keepalive_interval=0, max_retries=0) as daemon:
            link = await relay.dial(daemon.address("tcp"))
            await until(lambda: "no reservation at the relay" in daemon.warnings())
            yield daemon, link, stranger


def framed(message: StopMessage) -> bytes:
    data = message.SerializeToString()
    return varint(len(data)) + data


async def answered(link: Connection, data: bytes) -> StopMessage | None:
    """What the daemon says to these bytes on its stop protocol; None where it cuts the stream."""
    with trio.fail_after(PATIENCE):
        stream = await link.open_stream(STOP)
        try:
            await stream.send_all(data)
            await stream.close()
            said = await stream.receive_all()
        except Gone:
            return None
    message = StopMessage()
    message.ParseFromString(said[1 : 1 + said[0]] if said else b"")
    return message if said else None


async def test_random_bytes_of_a_relay_are_survived() -> None:
    async with asking() as (daemon, link, _):
        before = await settled(daemon)

        async def once(data: bytes) -> None:
            await answered(link, data)

        await each(ANY, once, examples=150, known=[NO_TEXT])
        await released(daemon, before)
        assert await link.ping() < PATIENCE


async def test_garbage_behind_a_good_beginning_is_a_failed_handshake() -> None:
    somebody = StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=SOMEBODY))
    async with asking() as (daemon, link, _):
        failed = (await daemon.call("metrics"))["handshakesFailed"]
        before = await settled(daemon)
        for number in range(1, 6):
            said = await answered(link, framed(somebody) + b"no multistream-select" * number)
            assert said is None or said.status == Status.OK
        await released(daemon, before)
        told = await asked_until(lambda: daemon.call("metrics"), lambda found: found["handshakesFailed"] >= failed + 5)
        assert told["handshakesFailed"] == failed + 5
        assert daemon.found("peer:connect", after=0) == daemon.found("peer:connect", peerId=link.peer.peer_id)


@pytest.mark.parametrize("peer_id", [b"", b"\0", b"x" * 200, b"\x12\x20" + bytes(31)], ids=repr)
async def test_a_peer_that_cannot_be_is_refused(peer_id: bytes) -> None:
    async with asking() as (_, link, _):
        said = await answered(link, framed(StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=peer_id))))
        assert said is None or said.status in (Status.MALFORMED_MESSAGE, Status.OK)
        assert await link.ping() < PATIENCE


async def test_who_was_not_asked_may_bring_nobody() -> None:
    somebody = StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=SOMEBODY))
    async with asking() as (daemon, _, stranger):
        link = await stranger.dial(daemon.address("tcp"))
        said = await answered(link, framed(somebody))
        assert said is not None
        assert said.status == Status.PERMISSION_DENIED


async def test_those_whom_a_relay_brings_do_not_count_for_its_address() -> None:
    """The relay has the one place that there is for an IP address."""
    async with asking(max_per_ip=1) as (daemon, link, _), mini_peers(2) as strangers:
        for stranger in strangers:
            stream = await link.open_stream(STOP)
            somebody = PeerId(id=ID.from_base58(stranger.peer_id).to_bytes())
            await stream.send_all(framed(StopMessage(type=StopMessage.CONNECT, peer=somebody)))
            await stream.receive_exactly(await stream.reader.varint())
            brought = stranger.over(stream, daemon.peer_id)
            with trio.fail_after(PATIENCE):
                await brought.reached(Stage.UP)
        wanted = {link.peer.peer_id, *(stranger.peer_id for stranger in strangers)}
        await asked_until(lambda: daemon.call("peers"), lambda here: {peer["peerId"] for peer in here} == wanted)
