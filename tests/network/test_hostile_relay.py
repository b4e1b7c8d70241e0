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
from tests.faults.holding import released, settled
from tests.faults.test_random_bytes import ANY, NO_TEXT
from tests.interop.daemon import Daemon, fabstird
from tests.support.minipeer import Connection, MiniPeer, mini_peers
from tests.support.waiting import until
from tests.support.wire import varint
from tests.support.yamux import StreamReset

STOP = "/libp2p/circuit/relay/0.2.0/stop"
NOWHERE = "/ip4/127.0.0.1/tcp/1"  # where the relay cannot be reached: it comes by itself
PATIENCE = 10.0
SOMEBODY = ID.from_base58(Identity.from_seed(bytes(32)).peer_id).to_bytes()


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Daemon, Connection, MiniPeer]]:
    """A daemon, the link of its relay, which refuses reservations, and a stranger."""
    async with mini_peers(2) as [relay, stranger]:
        node = f"{NOWHERE}/p2p/{relay.peer_id}"
        settings = {"relay.nodes": [node], "connections.max_per_ip": 200}
        async with fabstird(settings=settings, keepalive_interval=0, max_retries=0) as daemon:
            link = await relay.dial(daemon.address("tcp"))
            await until(lambda: "no reservation at the relay" in daemon.warnings(), within=30)
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
        except StreamReset:
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
        assert (await daemon.call("metrics"))["handshakesFailed"] == failed + 5
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
