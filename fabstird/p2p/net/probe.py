"""Connections that only test whether a peer can be reached at an address.

They use a peer id of their own, which is forgotten with the process: a peer that is already connected might prefer
another connection of ours, and open its streams on it. Probes are not among the swarm's links and cause no events, and
streams that the peer opens are reset.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence

import trio

from fabstird.p2p.budget import Scope
from fabstird.p2p.fence import Fence
from fabstird.p2p.muxer import yamux
from fabstird.p2p.muxer.frame import NEGOTIATION_FAILED
from fabstird.p2p.muxer.muxed import CapableConn
from fabstird.p2p.muxer.pulse import Beat, Liveness
from fabstird.p2p.net.admission import Limits
from fabstird.p2p.net.dial_errors import DialError, failure, only_cancelled
from fabstird.p2p.net.link import Link, Serve, cut
from fabstird.p2p.net.links import Links
from fabstird.p2p.net.quic import Quic
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.security.handshakes import Handshakes
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.security.secured import Secured, WrongPeer
from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.wire.addresses import QUIC, Address

Talk = Callable[[Link], Awaitable[None]]


class Prober:
    """Probes for one run of the node. It shares the links' memory for unread bytes, byte counts and bans."""

    def __init__(self, links: Links, security: Sequence[str]) -> None:
        self.fence: Fence = links.fence
        self.serve: Serve = _refuse
        self.stream_errors = 0
        self._links = links
        self._handshakes = Handshakes(NodeKey(secrets.token_bytes(32)), security)
        self.traffic = links.traffic
        self.turn = links.turn
        self._quic = Quic(self._handshakes.key, self)
        self._beat = Beat(Liveness)  # not run: no probe lasts as long as a pulse

    async def probe(self, address: Address, talk: Talk | None = None) -> None:
        """Connect to the peer that an ip4 or ip6 address names, from a port that this node does not listen on, and
        close again. The caller sets the deadline; cancelled at any moment, this leaves nothing behind.

        Args:
            address: Where to connect.
            talk: Called with the connection before it is closed.

        Raises:
            DialError: There is no connection. Errors of ``talk`` are raised too.
        """
        if (refusal := self._links.refusal(address.host, address.peer_id)) is not None:
            raise DialError(refusal, "forbidden")
        connected = False
        errors: list[Exception] = []  # raised below, outside the nursery: no exception group leaves this function
        try:
            with self._links.memory.connection(address.host) as memory:
                async with trio.open_nursery() as nursery:
                    try:
                        pipe = await self._dial(address, nursery)
                        try:
                            link = await self._upgrade(pipe, address, memory)
                            connected = True
                            nursery.start_soon(link.run, nursery)
                            try:
                                if talk is not None:
                                    await talk(link)
                            finally:
                                with trio.move_on_after(link.goodbye, shield=True):
                                    await link.part()
                        finally:
                            await pipe.close()
                    except Exception as error:  # noqa: BLE001 - raised below
                        errors.append(error)
                    nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - from the task that reads a WebSocket
            errors.append(error)
        except BaseExceptionGroup as group:
            raise only_cancelled(group) from None
        if errors and not connected:
            raise failure(errors[0]) from errors[0]
        if errors:
            raise errors[0]

    async def _dial(self, address: Address, nursery: trio.Nursery) -> Pipe:
        if address.transport == QUIC:
            return await self._quic.dial_apart(address, nursery)
        return await sockets.dial(address, nursery, self._links.traffic)

    async def _upgrade(self, pipe: Pipe, address: Address, memory: Scope) -> Link:
        if isinstance(pipe, CapableConn):
            await pipe.upgrade(address.peer_id, self._beat, memory)
        secured: Secured = (
            pipe if isinstance(pipe, CapableConn) else await self._handshakes.secure(pipe, address.peer_id)
        )
        if secured.peer_id != address.peer_id:
            raise WrongPeer(f"{secured.peer_id} answers there")
        if isinstance(secured, CapableConn):
            return Link(pipe, secured, secured, self, address)
        return Link(pipe, secured, await yamux.upgrade(secured, self._beat, memory, self._links.turn), self, address)

    # ----------------------------------------------------------------------------------------------------------------
    # What QUIC needs (`quic.Door`); no newcomers come to a socket that only dials

    @property
    def limits(self) -> Limits:
        return self._links.limits

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        return False

    def accept(self, connection: CapableConn) -> None:
        raise AssertionError("nobody is let in")

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        return self._links.refusal(host, peer_id)


async def _refuse(stream: Stream) -> None:
    """Refuse every stream of the peer."""
    await cut(stream, NEGOTIATION_FAILED)
