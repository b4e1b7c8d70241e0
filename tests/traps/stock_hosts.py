"""Stock hosts and what can be counted on them, for the demonstrations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import libp2p
from libp2p.abc import INotifee
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


@asynccontextmanager
async def stock_host(listen: Sequence[str] = LOOPBACK, **options: Any) -> AsyncIterator[Any]:
    """`libp2p.new_host(**options)` inside its `run()`, as the library's own examples do it."""
    addresses = [Multiaddr(address) for address in listen]
    host = libp2p.new_host(listen_addrs=addresses, **options)
    async with host.run(addresses):
        yield host


def address(host: Any) -> str:
    """The first address that the host says it has."""
    return str(host.get_addrs()[0])


def peer_info(*addresses: str) -> PeerInfo:
    """What `host.connect` takes; every address ends in the same /p2p/."""
    *_, peer_id = addresses[0].split("/p2p/")
    return PeerInfo(ID.from_base58(peer_id), [Multiaddr(each.split("/p2p/")[0]) for each in addresses])


class Observer(INotifee):
    """Which connections were announced as connected and as disconnected."""

    def __init__(self) -> None:
        self.connected_ones: list[Any] = []
        self.disconnected_ones: list[Any] = []

    async def connected(self, network: Any, conn: Any) -> None:
        self.connected_ones.append(conn)

    async def disconnected(self, network: Any, conn: Any) -> None:
        self.disconnected_ones.append(conn)

    async def opened_stream(self, network: Any, stream: Any) -> None: ...

    async def closed_stream(self, network: Any, stream: Any) -> None: ...

    async def listen(self, network: Any, multiaddr: Any) -> None: ...

    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...
