"""Traps 13 and 16 on stock py-libp2p 0.8.1: what it does that nobody asked for."""

import logging
import os
import sys
import time

import trio

from tests.harness import until
from tests.support.minipeer import mini_peer, mini_peers

from .stock import Verdict, main


async def auto_connector() -> Verdict:
    """Trap 13. A host whose peer store has heard of a peer; nobody dials."""
    import libp2p
    from multiaddr import Multiaddr

    from .stock_hosts import LOOPBACK, peer_info

    async with mini_peer() as peer:
        heard_of = peer_info(await peer.listen())
        host = libp2p.new_host(listen_addrs=[Multiaddr(each) for each in LOOPBACK])
        host.get_peerstore().add_addrs(heard_of.peer_id, heard_of.addrs, 3600)
        async with host.run([Multiaddr(each) for each in LOOPBACK]):
            with trio.move_on_after(60):
                conn = await peer.accepted()
                await conn.reached(max(type(conn.stage)))
            await until(lambda: host.get_network().connections)
            return {"dialled": [each.peer_id == str(host.get_id()) for each in peer.connections]}


async def pruner() -> Verdict:
    """Trap 13. Five peers on a host whose high watermark is two, each with a stream that it keeps open."""
    from libp2p.custom_types import TProtocol
    from libp2p.network.config import ConnectionConfig

    from .stock_hosts import address, stock_host

    config = ConnectionConfig(max_connections=10, high_watermark=2, low_watermark=1, min_connections=0, grace_period=0)
    async with stock_host(connection_config=config) as host, mini_peers(5) as peers:
        network = host.get_network()

        async def keep(stream: object) -> None:
            await trio.sleep_forever()

        host.set_stream_handler(TProtocol("/demo/1"), keep)
        for peer in peers:
            conn = await peer.dial(address(host))
            await conn.open_stream("/demo/1")
        await until(lambda: all(conn.get_streams() for conn in network.get_connections()))
        await network.connection_pruner.maybe_prune_connections()
        return {"high_watermark": config.high_watermark, "connections": len(network.get_connections())}


async def import_and_connect() -> Verdict:
    """Trap 16. What the import costs, and what the first connection does to a root logger that nobody configured."""

    def resident() -> float:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    memory, began, modules = resident(), time.perf_counter(), len(sys.modules)
    import libp2p  # noqa: F401

    seconds, megabytes, modules = time.perf_counter() - began, resident() - memory, len(sys.modules) - modules
    from .stock_hosts import address, stock_host

    after_import = len(logging.getLogger().handlers)
    async with stock_host() as host, mini_peer() as peer:
        await peer.dial(address(host))
        await until(lambda: host.get_network().connections)
    return {
        "seconds": round(seconds, 2),
        "megabytes": round(megabytes),
        "modules": modules,
        "root_handlers_after_import": after_import,
        "root_handlers_after_a_connection": [type(each).__name__ for each in logging.getLogger().handlers],
    }


if __name__ == "__main__":
    main(globals())
