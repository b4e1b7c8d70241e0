"""Trap 2: one bad stream. The first two tests show the defect on stock py-libp2p 0.8.1, the others its absence in our
host."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.harness import until
from tests.support.minipeer import Connection, Gone, mini_peers
from tests.support.wire import field, varint

from .ours import PATIENCE, Record, address, our_host
from .stock import stock

GARBAGE = random.Random(2).randbytes(300)


async def test_stock_dies_of_a_handler_that_raises() -> None:
    """Trap 2, libp2p 0.8.1: network/connection/swarm_connection.py, `SwarmConn._handle_muxed_stream` lets a handler's
    exception out into the connection's nursery; the service manager takes it for the failure of the whole swarm, and
    `host.run()` ends with it."""
    assert (await stock("streams", "handler_raises"))["run_ended_with"] == ["ValueError"]


async def test_stock_dies_of_garbage_from_outside() -> None:
    """Trap 2, libp2p 0.8.1: pubsub/pubsub.py, `Pubsub.continuously_read_stream` parses what a peer sends unguarded, so
    300 bytes on /meshsub/1.1.0 from anybody end the host the same way."""
    assert (await stock("streams", "garbage_to_gossipsub"))["run_ended_with"] == ["DecodeError"]


async def _error(stream: Any) -> None:
    await stream.read(1)
    raise ValueError("a defect in a handler")


async def _group(stream: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_error, stream)


async def _too_slow(stream: Any) -> None:
    with trio.fail_after(0.01):
        await trio.sleep_forever()


async def _closed(stream: Any) -> None:
    raise trio.ClosedResourceError("some channel of the handler's own")


async def _asserts(stream: Any) -> None:
    await stream.close()
    raise AssertionError


@pytest.mark.parametrize("handler", [_error, _group, _too_slow, _closed, _asserts])
async def test_ours_outlives_a_handler_that_raises(handler: Callable[[Any], Awaitable[None]]) -> None:
    """Trap 2: the stream is reset; the connection it came on, and everybody else's, stays."""
    record = Record()
    async with our_host(record=record) as host, mini_peers(2) as [peer, bystander]:
        host.set_stream_handler("/demo/1", handler)
        conn, other = await peer.dial(address(host)), await bystander.dial(address(host))
        for _ in range(3):
            with trio.fail_after(PATIENCE):
                try:
                    stream = await conn.send_bytes("/demo/1", b"hello")
                    assert await stream.receive_all() == b""
                except Gone:
                    pass
        await until(lambda: host.swarm.links.stream_errors == 3)
        await all_is_well(record, conn, other)


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        (None, GARBAGE),
        (None, b"\x00"),
        (None, b"\xff" * 32),
        ("/ipfs/id/push/1.0.0", GARBAGE),
        ("/ipfs/id/push/1.0.0", varint(len(GARBAGE)) + GARBAGE),
        ("/ipfs/id/push/1.0.0", varint(1 << 40)),
        ("/ipfs/id/push/1.0.0", varint(120) + field(1, b"no key") + field(2, b"no address") + field(8, b"\x0a" * 98)),
        ("/ipfs/id/1.0.0", GARBAGE),
        ("/ipfs/ping/1.0.0", GARBAGE),
    ],
)
async def test_ours_outlives_garbage_from_outside(protocol: str | None, data: bytes) -> None:
    """Trap 2: bytes that mean nothing, on each protocol that the host answers and before any is agreed on."""
    record = Record()
    async with our_host(record=record) as host, mini_peers(2) as [peer, bystander]:
        conn, other = await peer.dial(address(host)), await bystander.dial(address(host))
        for ending in ("close", "reset", "none"):
            stream = await conn.send_bytes(protocol, data)
            if ending != "none":
                await getattr(stream, ending)()
        await all_is_well(record, conn, other)


async def all_is_well(record: Record, *conns: Connection) -> None:
    await until(lambda: len(record.came) == len(conns))
    for conn in conns:
        with trio.fail_after(PATIENCE):
            assert await conn.ping() > 0
            assert (await conn.identify()).agent == "fabstird-test/1"
    assert not record.went
