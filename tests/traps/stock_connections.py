"""Traps 1, 4, 5, 6 and 17 on stock py-libp2p 0.8.1: connections that come, are dialled, and go."""

from contextlib import suppress

import trio
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.rcmgr import new_resource_manager
from libp2p.rcmgr.manager import ResourceLimits
from multiaddr import Multiaddr

from tests.harness import until
from tests.support.counting import tasks
from tests.support.minipeer import ConnectionLost, Stage, mini_peer, mini_peers
from tests.support.ports import black_hole, refusing_port

from .stock import Verdict, main
from .stock_hosts import Observer, address, peer_info, stock_host


def small(most: int, **more: float) -> ConnectionConfig:
    """A connection manager for `most` connections that wants none by itself."""
    return ConnectionConfig(
        max_connections=most,
        high_watermark=most,
        low_watermark=0,
        min_connections=0,
        **more,  # type: ignore[arg-type]
    )


async def inbound_tokens() -> Verdict:
    """Trap 1. Eight peers come and go, one after the other, on a host that takes eight; then one more comes."""
    limit = 8
    async with stock_host(connection_config=small(limit)) as host, mini_peers(limit + 1) as peers:
        network = host.get_network()
        before = tasks()
        for peer in peers[:limit]:
            conn = await peer.dial(address(host))
            await conn.aclose()
        await until(lambda: not network.connections and not host._identify_tasks)
        leaked = tasks() - before
        try:
            await peers[limit].dial(address(host))
            refused = ""
        except ConnectionLost as error:
            refused = str(error)
        return {
            "limit": limit,
            "connected": len(network.connections),
            "tokens_left": network._inbound_limiter.available_tokens,
            "tasks_leaked": leaked,
            "refused": refused,
        }


async def cancelled_dials() -> Verdict:
    """Trap 4. Four slots, and four dials cancelled in the security upgrade; then a healthy peer is dialled."""
    limit = 4
    resources = new_resource_manager(limits=ResourceLimits(max_connections=limit))
    async with stock_host(resource_manager=resources) as host, mini_peer() as silent, mini_peer() as healthy:
        target = await silent.listen(hold=Stage.SECURITY)
        for _ in range(limit):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.connect, peer_info(target))
                await (await silent.accepted()).reached(Stage.SECURITY)
                nursery.cancel_scope.cancel()
        network = host.get_network()
        slots = resources._current_connections
        try:
            good = await healthy.listen()
            await network._dial_addr_single_attempt(Multiaddr(good), ID.from_base58(healthy.peer_id))
            denied = ""
        except SwarmException as error:
            denied = str(error)
        return {"limit": limit, "slots_taken": slots, "connections": len(network.get_connections()), "denied": denied}


async def dial_timeout() -> Verdict:
    """Trap 5. Dial timeout 0.3 s: a silent TCP peer, a silent WebSocket server and a black hole, for 3 x 0.3 s."""
    timeout = 0.3
    config = ConnectionConfig(dial_timeout=timeout, outbound_upgrade_timeout=timeout)
    listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0/ws"]
    unfinished = ["tcp", "ws", "black hole"]
    with black_hole() as hole:
        async with stock_host(listen, connection_config=config) as host, mini_peers(3) as [tcp, ws, lost]:

            async def connect(name: str, target: str) -> None:
                with suppress(SwarmException):
                    await host.connect(peer_info(target))
                unfinished.remove(name)

            targets = {
                "tcp": await tcp.listen(hold=Stage.TCP),
                "ws": (await ws.listen(hold=Stage.TCP)).replace("/p2p/", "/ws/p2p/"),
                "black hole": f"/ip4/127.0.0.1/tcp/{hole}/p2p/{lost.peer_id}",
            }
            with trio.move_on_after(3 * timeout):
                async with trio.open_nursery() as nursery:
                    for name, target in targets.items():
                        nursery.start_soon(connect, name, target)
    return {"dial_timeout": timeout, "unfinished": unfinished}


async def addresses_of_a_peer() -> Verdict:
    """Trap 6. A peer with a dead address and then a good one; the good one alone; and a peer in good health."""
    errors = []
    with refusing_port() as port:
        async with stock_host() as host, mini_peers(2) as [peer, healthy]:
            good = await peer.listen()
            dead = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer.peer_id}"
            for addresses in ([dead, good], [good]):
                try:
                    await host.connect(peer_info(*addresses))
                except SwarmException as error:
                    errors.append(str(error))
            target = await healthy.listen()
            began = trio.current_time()
            await host.connect(peer_info(target))
            took = trio.current_time() - began
            return {"errors": errors, "accepted": len(peer.connections), "healthy_took": took}


async def burst() -> Verdict:
    """Trap 17. Eight dials at once on a host that takes two connections."""
    limit, count = 2, 8
    observer = Observer()
    async with stock_host(connection_config=small(limit)) as host, mini_peers(count) as peers:
        host.get_network().register_notifee(observer)

        async def connect(target: str) -> None:
            with suppress(SwarmException):
                await host.connect(peer_info(target))

        targets = [await peer.listen() for peer in peers]
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(connect, target)
        strangers = [conn for conn in observer.disconnected_ones if conn not in observer.connected_ones]
        return {
            "limit": limit,
            "connected": len(observer.connected_ones),
            "disconnected": len(observer.disconnected_ones),
            "never_connected": len(strangers),
        }


if __name__ == "__main__":
    main(globals())
