"""Callers that are no peers: they connect and go, or stop half-way and stay."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable

import trio

from tests.faults.chance import seed
from tests.faults.holding import released, resident, settled
from tests.interop.daemon import Daemon, fabstird
from tests.support.minipeer import Connection, ConnectionLost, MiniPeer, Stage, mini_peer, mini_peers, parse_address
from tests.support.wire import MULTISTREAM, lines

DROPS = 1000
WARM_UP = 300
SIDE_BY_SIDE = 16
MEMORY = 2 * 1024 * 1024  # bytes by which the process may have grown after that many more
HANDSHAKE = 4.0  # seconds
EACH = 20  # half handshakes of a kind
UPGRADE = b"GET / HTTP/1.1\r\nHost: fabstird\r\nUpgrade: websocket\r\nConnection: Upg"


def endpoint(daemon: Daemon, transport: str) -> tuple[str, int]:
    host, port, _ = parse_address(daemon.address(transport).replace("/ws/", "/"))
    return host, port


async def connect_and_drop(daemon: Daemon, chance: random.Random, count: int) -> None:
    """`count` connections from many addresses to both ports: some bytes, or none, and then an end of either kind."""
    waiting = trio.CapacityLimiter(SIDE_BY_SIDE)

    async def one(transport: str, source: str, data: bytes, reset: bool) -> None:
        async with waiting:
            stream = await trio.open_tcp_stream(*endpoint(daemon, transport), local_address=source)
            async with stream:
                if data:
                    await stream.send_all(data)
                if reset:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    said: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: chance.randbytes(chance.randint(1, 300)),
        lambda: lines(MULTISTREAM),
        lambda: lines(MULTISTREAM, "/noise") + chance.randbytes(20),
        lambda: UPGRADE,
    ]
    async with trio.open_nursery() as nursery:
        for number in range(count):
            transport, source = chance.choice(("tcp", "ws")), f"127.0.1.{number % 200 + 1}"
            nursery.start_soon(one, transport, source, chance.choice(said)(), chance.random() < 0.3)


async def test_a_thousand_that_connect_and_drop_leave_nothing_behind() -> None:
    chance = random.Random(seed())
    settings = {"connections.handshake_timeout": 60000}  # so that no end is the deadline's
    async with mini_peer() as friend, fabstird(settings=settings) as daemon:
        link = await friend.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=friend.peer_id)
        before = await settled(daemon)
        await connect_and_drop(daemon, chance, WARM_UP)
        await released(daemon, before)
        memory = resident(daemon)
        await connect_and_drop(daemon, chance, DROPS)
        await released(daemon, before)
        grown = resident(daemon) - memory
        assert grown < MEMORY, f"{grown} bytes more after {DROPS} that connected and dropped"
        assert not link.closed.is_set(), link.end_reason
        assert await link.ping() < 5
        assert daemon.warnings() == []
        metrics = await daemon.call("metrics")
        assert metrics["handshakesFailed"] + metrics["refusedConnections"] > (WARM_UP + DROPS) / 2, metrics
        assert metrics["inboundConnections"] == 1


async def hold_raw(daemon: Daemon, data: bytes, source: str, closed: list[trio.Event], nursery: trio.Nursery) -> None:
    """A connection to the ws port that says `data` and then nothing."""
    stream = await trio.open_tcp_stream(*endpoint(daemon, "ws"), local_address=source)
    if data:
        await stream.send_all(data)
    ended = trio.Event()
    closed.append(ended)

    async def watch() -> None:
        async with stream:
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass  # reset, which is an end too
        ended.set()

    nursery.start_soon(watch)


async def test_half_handshakes_held_open_keep_nobody_out_and_end_at_the_deadline() -> None:
    stages = [stage for stage in Stage if stage < Stage.UP]
    settings = {"connections.handshake_timeout": int(HANDSHAKE * 1000)}
    async with mini_peers(5) as friends, mini_peer() as attacker, fabstird(settings=settings) as daemon:
        before = await settled(daemon)
        async with trio.open_nursery() as nursery:
            closed: list[trio.Event] = []
            opened = trio.current_time()

            async def hold(stage: Stage) -> None:
                for _ in range(EACH):
                    held_open = await attacker.dial(daemon.address("tcp"), hold=stage, source=f"127.0.2.{stage + 1}")
                    closed.append(held_open.closed)

            async with trio.open_nursery() as opening:
                for stage in stages:
                    opening.start_soon(hold, stage)
                for number, data in enumerate((b"", UPGRADE)):
                    for _ in range(EACH):
                        opening.start_soon(hold_raw, daemon, data, f"127.0.3.{number + 1}", closed, nursery)
            took = trio.current_time() - opened
            assert len(closed) == EACH * (len(stages) + 2) >= 100
            assert not any(event.is_set() for event in closed), f"one was dropped within {took:.2f} s"

            links = []
            for friend in friends:
                links.append(await friend.dial(daemon.address("tcp")))
                await daemon.wait_event("peer:identify", peerId=friend.peer_id)
            took = trio.current_time() - opened
            assert not any(event.is_set() for event in closed), f"they were to be held all the time: {took:.2f} s"

            with trio.move_on_after(HANDSHAKE + 3):
                for event in closed:
                    await event.wait()
            left = sum(not event.is_set() for event in closed)
            assert left == 0, f"{left} of {len(closed)} are still open {trio.current_time() - opened:.2f} s later"
            for link in links:
                assert not link.closed.is_set(), link.end_reason
                assert await link.ping() < 5
        assert (await daemon.call("metrics"))["handshakesFailed"] == len(closed)
        for link in links:
            await link.aclose()
        await daemon.wait_event("peer:disconnect", count=len(links))
        await released(daemon, before)
        assert daemon.warnings() == []


async def test_one_address_cannot_take_more_than_its_share() -> None:
    share, source = 8, "127.0.4.1"
    async with mini_peers(2) as [friend, attacker], fabstird(settings={"connections.max_per_ip": share}) as daemon:
        address = daemon.address("tcp")
        held_open = [await attacker.dial(address, hold=Stage.GREETED, source=source) for _ in range(share)]
        for _ in range(4):
            refused = await attacker.dial(address, hold=Stage.TCP, source=source)
            with trio.fail_after(5):
                await refused.closed.wait()
        assert not any(connection.closed.is_set() for connection in held_open)
        link = await friend.dial(address, source="127.0.4.2")
        assert await link.ping() < 5
        assert (await daemon.call("metrics"))["refusedConnections"] == 4
        for connection in held_open:
            connection.drop()
        with trio.fail_after(10):
            link = await accepted(attacker, address, source)
        assert await link.ping() < 5
        assert daemon.warnings() == []


async def accepted(peer: MiniPeer, address: str, source: str) -> Connection:
    """A connection from an address that had used up its share: there is room once the daemon has seen the ends."""
    while True:
        try:
            return await peer.dial(address, source=source)
        except ConnectionLost:
            pass  # refused still
