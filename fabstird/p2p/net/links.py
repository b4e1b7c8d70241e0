"""The connections of a node that are up, and the upgrade that each goes through first, whoever dialled."""

from __future__ import annotations

import trio

from fabstird.p2p.budget import Memory, Scope
from fabstird.p2p.fence import Fence
from fabstird.p2p.muxer import yamux
from fabstird.p2p.muxer.muxed import CapableConn
from fabstird.p2p.muxer.pulse import Beat
from fabstird.p2p.net.admission import Admission, Gate, Limits, Observer
from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.net.link import Link, Serve
from fabstird.p2p.security.handshakes import Handshakes
from fabstird.p2p.security.secured import Secured, WrongPeer
from fabstird.p2p.transport.pipe import Pipe, Traffic
from fabstird.p2p.wire.addresses import Address
from fabstird.turn import Turn

CLOSING = 2.0  # seconds for all goodbyes when the swarm closes
ENDING = 1.5  # seconds for what is left to be closed then
AT_ONCE = 64  # goodbyes in a turn of the loop when the swarm closes


class Links:
    """The connections of the node whose peer id is ``peer_id``. `Inbound` and `Outbound` bring them up, each in a task
    of ``nursery``; ``serve`` handles each stream that a peer opens."""

    def __init__(
        self,
        peer_id: str,
        handshakes: Handshakes,
        limits: Limits,
        observer: Observer,
        gate: Gate | None,
        serve: Serve,
        fence: Fence,
    ) -> None:
        self.peer_id = peer_id
        self.limits = limits
        self.serve = serve
        self.fence = fence
        self.nursery: trio.Nursery | None = None  # while the swarm runs
        self.closing = False
        self.places = Admission()
        self.memory = Memory()
        self.traffic = Traffic()
        self.turn = Turn(yamux.TURN)
        self.beat = Beat(lambda: self.limits.liveness)
        self.stream_errors = 0
        self.parting = "stopped"  # the reason of links that end because the swarm does
        self._handshakes = handshakes
        self._observer = observer
        self._gate = gate
        self._by_peer: dict[str, list[Link]] = {}  # oldest first

    @property
    def for_new(self) -> trio.Nursery | None:
        """The nursery for a new connection; None while the swarm does not run, or is closing."""
        return None if self.closing else self.nursery

    def up(self, peer_id: str | None = None) -> list[Link]:
        """Links that are up, oldest first: all, or those of one peer."""
        if peer_id is None:
            return [link for links in self._by_peer.values() for link in links if not link.is_closed]
        return [link for link in self._by_peer.get(peer_id, ()) if not link.is_closed]

    def direct(self, peer_id: str) -> Link | None:
        """The oldest link to a peer that leads through no relay."""
        return next((link for link in self.up(peer_id) if not link.relayed), None)

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        """Why the gate refuses this IP address or this peer; None where it does not."""
        return self._gate.refusal(host, peer_id) if self._gate is not None else None

    async def upgrade(self, pipe: Pipe, address: Address, memory: Scope) -> Link:
        """Noise or TLS, then yamux; or QUIC, which has both. A dial must reach the peer that it was meant for; the
        address of a peer that dialled us names none.

        Raises `WrongPeer`, `DialError`, or what the handshake raises.
        """
        expected = address.peer_id if pipe.is_initiator or pipe.punched else None
        if isinstance(pipe, CapableConn):
            await pipe.upgrade(expected, self.beat, memory)
        secured: Secured = pipe if isinstance(pipe, CapableConn) else await self._handshakes.secure(pipe, expected)
        if expected not in (None, secured.peer_id):
            raise WrongPeer(f"{secured.peer_id} answers there")
        if secured.peer_id == self.peer_id:
            raise DialError("that is this node's own peer id")
        if (refusal := self.refusal(None, secured.peer_id)) is not None:
            raise DialError(refusal, "forbidden")
        pipe.trusted()
        muxer = (
            secured if isinstance(secured, CapableConn) else await yamux.upgrade(secured, self.beat, memory, self.turn)
        )
        return Link(pipe, secured, muxer, self, address)

    async def live(self, link: Link, nursery: trio.Nursery, task_status: trio.TaskStatus[Link]) -> None:
        """Run a link until it has ended. Nothing waits between its entry and ``started``, so no dial is cancelled in
        between, and `Observer.connected` and `Observer.disconnected` come in pairs."""
        self._by_peer.setdefault(link.peer_id, []).append(link)
        try:
            self._observer.connected(link)
            task_status.started(link)
            nursery.start_soon(link.run, nursery)
            await link.ending.wait()
            if not link.has_left:
                with trio.move_on_after(link.goodbye, shield=True):
                    await link.part()
        except trio.Cancelled:
            link.end(self.parting)  # only the end of the swarm cancels an owner
            raise
        finally:
            with trio.CancelScope(shield=True):
                await link.pipe.close()
            link.end("error")  # where nothing above has named a reason
            links = self._by_peer[link.peer_id]
            links.remove(link)
            if not links:
                del self._by_peer[link.peer_id]
            self._observer.disconnected(link)
        await link.last_words()

    async def close(self) -> None:
        """End every link, and wait until it is gone. Goodbyes have `CLOSING`; what has not ended then is closed as it
        is. That waits for no peer, and is cheaper than to cancel thousands of tasks."""
        with trio.move_on_after(CLOSING):
            await self._part()
        links = [link for links in self._by_peer.values() for link in links]
        for link in links:
            link.has_left = True
            link.end(self.parting)
        with trio.move_on_after(ENDING):
            await _gone(links)

    async def _part(self) -> None:
        """Relayed links go first: their goodbye needs the link to the relay."""
        for relayed in (True, False):
            links = [link for link in self.up() if link.relayed is relayed]
            left = []
            for number, link in enumerate(links, 1):
                if self._leave(link):
                    left.append(link)
                else:
                    link.end(self.parting)
                if number % AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            with trio.move_on_after(max((link.goodbye for link in left), default=0.0)):
                await _gone(left)
            for link in left:
                link.end(self.parting)
            await _gone(links)

    def _leave(self, link: Link) -> bool:
        with self.fence.around("connection"):
            return link.leave(self.parting)
        return False


async def _gone(links: list[Link]) -> None:
    """Wait until all of them are gone. One that is costs no turn of the loop."""
    for link in links:
        if not link.gone.is_set():
            await link.gone.wait()
