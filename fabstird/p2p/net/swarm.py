"""The swarm: every connection of the node, from the sockets that it listens on to the last goodbye.

There is no resource manager, auto-connector or pruner here: `Limits` says what is let in, and the connection manager
decides who is dialled or dropped (docs/adr/0001-own-network.md).
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import trio

from fabstird.p2p.fence import Fence
from fabstird.p2p.net.inbound import Inbound
from fabstird.p2p.net.links import Links
from fabstird.p2p.net.outbound import Outbound
from fabstird.p2p.net.quic import Quic
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.sockets import Doors, Listener, ListenError, Port, UdpPort
from fabstird.p2p.wire.addresses import QUIC, Address

CHOICES = 8  # ports that are chosen until TCP and QUIC have the same


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: thousands of connections that end at once would have it look at all that is left
    again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


NO_PORTS: Mapping[str, Sequence[int]] = {}


class Swarm:
    """The sockets of one node, and what comes and goes through them. `serving` runs it, `outbound` dials, `inbound`
    takes newcomers, and ``links`` has the connections that are up. QUIC shows ``key``."""

    def __init__(self, links: Links, key: NodeKey, doors: Doors) -> None:
        self.links = links
        self.inbound = Inbound(links, doors)
        self.quic = Quic(key, self.inbound)
        self.outbound = Outbound(links, self.quic)
        self._doors = doors
        self._bound: list[Port] = []

    @property
    def bound(self) -> list[Port]:
        """The sockets that it listens on."""
        return list(self._bound)

    @asynccontextmanager
    async def serving(
        self, addresses: list[Address], ports: Mapping[str, Sequence[int]] = NO_PORTS
    ) -> AsyncIterator[None]:
        """Listen, and keep connections until the context is left. Then every link has ended and every socket is closed.

        Args:
            addresses: Where to listen: on all of them or on none.
            ports: By address with port 0, the ports to try first.

        Raises:
            ListenError: An address cannot be listened on.
        """
        self._bound = await self._bind(addresses, ports)
        listeners = self.outbound.listeners = [one for one in self._bound if isinstance(one, Listener)]
        links = self.links
        try:
            async with trio.open_nursery() as nursery:
                links.nursery = nursery
                links.turn.begin()
                accepting = trio.CancelScope()
                for port in self._bound:
                    if isinstance(port, UdpPort):
                        await self.quic.listen(port, nursery)
                nursery.start_soon(links.beat.run)
                nursery.start_soon(self._accept, listeners, nursery, accepting)
                try:
                    yield
                finally:
                    links.closing = True
                    self.outbound.stop()
                    accepting.cancel()
                    with _uncollected():
                        with trio.CancelScope(shield=True):
                            await links.close()
                        nursery.cancel_scope.cancel()
        finally:
            links.nursery = None
            links.turn.end()
            self.quic.close()
            for port in self._bound:
                port.close()
            self._bound, self.outbound.listeners = [], ()

    async def _bind(self, addresses: list[Address], ports: Mapping[str, Sequence[int]]) -> list[Port]:
        for _ in range(CHOICES - 1):
            bound = await self._bind_once(addresses, ports)
            if not _apart(bound, ports):
                return bound
            for one in bound:
                one.close()
        return await self._bind_once(addresses, ports)

    async def _bind_once(self, addresses: list[Address], ports: Mapping[str, Sequence[int]]) -> list[Port]:
        bound: list[Port] = []
        preferred = {text: list(some) for text, some in ports.items()}
        try:
            for address in addresses:
                if address.transport == "wss" and self._doors.certificate is None:
                    raise ListenError(str(address), "[tls] certificate and key are needed for that")
                of_last_run = preferred.get(str(address), [])
                # TCP and UDP on one port: one rule in a firewall, and one number to tell
                beside = [one.bound.port for one in bound if one.address.host == address.host]
                bound.append(await sockets.listen(address, of_last_run.pop(0) if of_last_run else 0, beside))
        except BaseException:
            for one in bound:
                one.close()
            raise
        return bound

    async def _accept(self, listeners: Sequence[Listener], owner: trio.Nursery, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    handlers: Any = _Handlers(self.links.fence, owner)
                    serve = partial(trio.serve_listeners, handler_nursery=handlers)
                    nursery.start_soon(serve, partial(self.inbound.serve, listener), [listener.sockets])


class _Handlers:
    """Where `trio.serve_listeners` starts its handlers: without the task around each that closes the stream, which
    `Inbound.serve` does at less cost."""

    def __init__(self, fence: Fence, owner: trio.Nursery) -> None:
        self._fence = fence
        self._owner = owner

    def start_soon(
        self, _: object, stream: trio.SocketStream, handler: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        self._fence.spawn(self._owner, "connection", handler, stream)


def _apart(bound: list[Port], ports: Mapping[str, Sequence[int]]) -> bool:
    """Whether QUIC has another port than TCP at the same host, although both could be chosen now."""
    of_tcp = [(one.address.host, one.bound.port) for one in bound if one.transport != QUIC]
    hosts = {host for host, _ in of_tcp}
    return any(
        one.address.host in hosts and (one.address.host, one.bound.port) not in of_tcp
        for one in bound
        if one.transport == QUIC and not one.address.port and str(one.address) not in ports
    )
