"""Connections that this node opens to others. One task owns each, from the dial to its last byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from functools import partial

import trio

from fabstird.p2p.net import circuit
from fabstird.p2p.net.dial_errors import DialError, DialLimit, failure, only_cancelled
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.links import Links
from fabstird.p2p.net.quic import Quic
from fabstird.p2p.net.race import NoneConnected, in_order, race
from fabstird.p2p.net.resolve import resolve
from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.transport.sockets import Listener
from fabstird.p2p.wire.addresses import QUIC, Address, expand
from fabstird.p2p.wire.ips import reach, to_ip

PUNCH = 5.0  # seconds for two dials to meet

Connect = Callable[[trio.Nursery], Awaitable[Pipe]]  # opens the raw connection; its reader may run in the nursery


class Outbound:
    """Dials peers, and adds the connections to ``links``."""

    def __init__(self, links: Links, quic: Quic) -> None:
        self.listeners: Sequence[Listener] = ()  # from whose ports may be dialled
        self.punching = False
        # Peers that stay connected. Behind a NAT they are dialled from a listening port, so that the address which they
        # observe is one that others can dial. Other peers are not: the NAT would let their dial in before ours is there
        self.lasting: Callable[[], Container[str]] = tuple
        self._links = links
        self._quic = quic
        self._dialling: set[trio.CancelScope] = set()  # `nursery.start` keeps a dial in its caller's scope, not in ours

    def stop(self) -> None:
        """Cancel the dials under way."""
        for scope in self._dialling:
            scope.cancel()

    async def dial(self, address: Address, *, lasting: bool = False) -> Link:
        """Open a connection to the peer that an address names, and return once it is up. A DNS name is resolved first,
        and its addresses are raced. The caller sets the deadline; cancelled at any moment, this leaves nothing behind.

        Args:
            address: Where to dial; it must name a peer.
            lasting: Dial as if the peer were one of `lasting`.

        Raises:
            DialError: The dial failed; the message says why.
            ResolveError: The name has no address.
        """
        if address.relay or address.kind in ("ip4", "ip6"):
            return await self._dial(address, lasting=lasting)
        try:
            return await race(in_order(await resolve(address)), partial(self._dial, lasting=lasting))
        except NoneConnected as error:
            last = error.last
            raise last if isinstance(last, DialLimit) else DialError(str(error), last.kind) from error

    async def punch(self, address: Address, *, initiator: bool) -> Link:
        """As `dial`, for a peer that dials us at the same moment. ``initiator`` says whether we count as the dialler.
        Over QUIC only the dialler dials; the other side's call ends with `DialError` unless it is cancelled."""
        return await self._dial(address, partial(self._punched, address, initiator=initiator))

    async def _dial(self, address: Address, connect: Connect | None = None, *, lasting: bool = False) -> Link:
        """As `dial`, for one endpoint: an ip4 or ip6 address, or one through a relay. ``connect`` replaces the usual
        way to open the connection."""
        if address.peer_id is None:
            raise DialError(f"{address} names no peer")
        if address.peer_id == self._links.peer_id:
            raise DialError("that is this node's own peer id")
        if (nursery := self._links.for_new) is None:
            raise DialError("the node is not running", "canceled")
        if (refusal := self._links.refusal(address.host, address.peer_id)) is not None:
            raise DialError(refusal, "forbidden")
        # Counted here, so that dials which begin together are counted; `_own` gives the place back
        if not self._links.places.dial(self._links.limits.max):
            raise DialLimit("connections.max", self._links.limits.max, self._links.places.taken)
        if connect is None:
            connect = partial(self._connect, address, lasting=lasting or address.peer_id in self.lasting())
        scope = trio.CancelScope()
        self._dialling.add(scope)
        try:
            with scope:
                link: Link = await self._links.fence.start(nursery, "connection", self._own, address, connect)
                return link
        finally:
            self._dialling.discard(scope)
        raise DialError("the node is stopping", "canceled")

    async def _own(self, address: Address, connect: Connect, *, task_status: trio.TaskStatus[Link]) -> None:
        """Own an outbound connection. `nursery.start` ties this task to the dial until the link is up."""
        link: Link | None = None
        began = trio.current_time()
        try:
            with self._links.memory.connection(address.host, relayed=address.relay is not None) as memory:
                async with trio.open_nursery() as nursery:
                    pipe = await connect(nursery)
                    try:
                        link = await self._links.upgrade(pipe, address, memory)
                        link.handshake = trio.current_time() - began
                        await self._links.live(link, nursery, task_status)
                    finally:
                        await pipe.close()
                        nursery.cancel_scope.cancel()
        except Exception as error:
            if link is None:
                raise failure(error) from error
            raise
        except BaseExceptionGroup as group:  # it failed while it was being cancelled: cancelled counts
            raise only_cancelled(group) from None
        finally:
            self._links.places.leave()
            if link is not None:
                link.gone.set()  # last, so that whoever waits for it finds its place free

    async def _connect(self, address: Address, nursery: trio.Nursery, *, lasting: bool) -> Pipe:
        """Open the raw connection. Through a relay it is a stream of the link to that relay, which is dialled first
        where there is none."""
        if not address.relay and address.transport == QUIC:
            assert self._links.nursery is not None
            return await self._quic.dial(address, self._links.nursery)
        if not address.relay:
            port = self._port_for(address) if lasting and self._is_translated(address) else None
            return await sockets.dial(address, nursery, self._links.traffic, port)
        relay = self._links.direct(address.relay) or await self.dial(address.at_relay, lasting=self.punching)
        return await circuit.connect(relay, address)

    async def _punched(self, address: Address, nursery: trio.Nursery, *, initiator: bool) -> Pipe:
        if address.transport == QUIC:
            return await self._quic.punch(address, nursery, initiator=initiator)
        port = self._port_for(address)
        if port is None:
            raise DialError(f"this node listens on no TCP port from which {address.bare} can be reached")
        with trio.fail_after(PUNCH):
            return await sockets.punch(address, self._links.traffic, port, initiator=initiator)

    def _port_for(self, address: Address) -> Listener | None:
        """The listener from whose port this public address can be dialled."""
        return next((one for one in self.listeners if one.reaches(address)), None)

    def _is_translated(self, address: Address) -> bool:
        """Whether a NAT stands between this node and the address, judging by our interfaces: the address is public, and
        theirs are not."""
        ip = to_ip(address.host)
        if ip is None or reach(ip) != "global" or (port := self._port_for(address)) is None:
            return False
        own = (to_ip(one.host) for one in expand(port.bound))
        return all(one is None or reach(one) != "global" for one in own)
