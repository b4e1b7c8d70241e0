"""From a relay to a direct connection (libp2p specification, relay/DCUtR). Connection reversal first: whoever came to
us through our relay is dialled back, where it has told an address that can be reached. Else hole punching, where it
speaks it: see `punching`.

A peer's word steers these dials, so they are held to what `dial_policy` lets a stranger behind a relay name: public
addresses, no names, few tries a place; and when holes are punched does not tell it how soon a port has refused. New
streams take the direct connection at once; those that are open go on where they are, and the relayed connection closes
when none is left on it.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import trio

from fabstir_client.api.types import PeerPath
from fabstird.events import EventLog
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host, Link, PeerInfo
from fabstird.p2p.nat.dcutr import DCUTR
from fabstird.p2p.nat.punching import Punching, Stays
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.dial_policy import usable
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.wire.addresses import AddressError, parse

log = get_logger("p2p.direct")

AT_ONCE = 4  # peers that are dialled back
REVERSAL = 2.0  # seconds for dialling back a peer with which holes can be punched instead
WAITING = 64  # that wait for it; one more is let be
ADDRESSES = 8  # of one peer
SETTLE = 3.0  # seconds for which a relayed connection stays beside the direct one at least
LOOK = 1.0  # seconds between two looks whether streams are left on it


class Direct:
    """Of one run of the node. Without ``punching`` no peer is dialled back either, and paths are only told."""

    def __init__(
        self,
        host: Host,
        connections: Connections,
        events: EventLog,
        counters: Counters,
        history: History,
        punching: Punching | None,
    ) -> None:
        self._host = host
        self._connections = connections
        self._events = events
        self._counters = counters
        self._history = history
        self._punching = punching
        self._tried: set[Link] = set()  # relayed ones; a peer that goes on telling addresses is dialled back once
        self._punched: set[Link] = set()  # and those on which holes were punched, or are to be
        self._waiting: deque[tuple[Link, list[str], bool]] = deque()
        self._replaced: deque[Link] = deque()
        self._going: set[Link] = set()  # relayed ones that are in it, or that a task lets go
        self._under_way = 0
        self._changed = trio.Event()
        host.observe(self)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            spawn = partial(self._host.fence.spawn, nursery, "relay")
            while True:
                while self._replaced:
                    spawn(self._let_go, self._replaced.popleft())
                while self._waiting and self._under_way < AT_ONCE:
                    self._under_way += 1
                    spawn(self._attempt, *self._waiting.popleft())
                await self._changed.wait()
                self._changed = trio.Event()

    def bounds(self) -> dict[str, tuple[int, int]]:
        punches = self._punching.bounds() if self._punching is not None else {}
        return {"dialledBack": (self._under_way, AT_ONCE), **punches}

    # ----------------------------------------------------------------------------------------------------------------
    # What the host tells

    def connected(self, link: Link) -> None:
        """A direct connection to a peer that was reached through a relay: whoever of the two has dialled it. Where both
        have, the first counts."""
        relayed = [] if link.relayed else [one for one in self._host.links(link.peer_id) if one.relayed]
        if not relayed or self._host.direct_link(link.peer_id) is not link:
            return
        took = int((trio.current_time() - relayed[0].opened) * 1000)
        self._counters.paths["direct"] += 1
        how = self._how(link)
        detail = f"by {how}, {took} ms after the connection at {relayed[0].address}"
        self._history.note(link.peer_id, "direct", address=link.address, detail=detail)
        if self._punching is not None:
            self._punching.met(link)
        path = PeerPath(peer_id=link.peer_id, source=relayed[0].address, to=link.address, took=took)
        self._events.publish(path)
        for one in relayed:
            # Who was dialled lets it go: once, however often a peer comes and goes beside it
            if one.direction == "inbound" and one not in self._going:
                self._going.add(one)
                self._replaced.append(one)
        self._changed.set()

    def _how(self, link: Link) -> str:
        if link.punched or (self._punching is not None and self._punching.is_under_way(link.peer_id)):
            return "hole punching"
        return "its own dial" if link.direction == "inbound" else "dialling it"

    def disconnected(self, link: Link) -> None:
        if self._punching is not None:
            self._punching.disconnected(link)
        self._tried.discard(link)
        self._punched.discard(link)
        self._going.discard(link)

    def identified(self, link: Link, info: PeerInfo) -> None:
        if self._punching is None or not link.relayed or link.direction != "inbound" or link.is_closed:
            return
        if self._host.direct_link(link.peer_id) is not None or len(self._waiting) >= WAITING:
            return
        addresses = []
        if is_new := link not in self._tried:
            self._tried.add(link)
            addresses = [f"{address}/p2p/{link.peer_id}" for address in info.addresses if _is_direct(address)]
            addresses = usable(addresses, self._connections.source(link))[:ADDRESSES]
        punch = DCUTR in info.protocols and link not in self._punched
        if punch:  # go-libp2p offers it once it knows where it is seen
            self._punched.add(link)
        if addresses or punch:
            self._waiting.append((link, addresses, punch))
            self._changed.set()
        elif is_new:
            self._history.note(link.peer_id, "stays_relayed", detail="it tells no address that can be dialled")

    # ----------------------------------------------------------------------------------------------------------------

    async def _attempt(self, link: Link, addresses: list[str], punch: bool) -> None:
        try:
            if addresses and self._is_relayed(link):
                due = trio.current_time() + REVERSAL if punch else float("inf")
                with trio.move_on_at(due):
                    await self._dial_back(link, addresses, quietly=punch)
                if self._is_relayed(link) and punch:
                    await trio.sleep_until(due)  # else the peer sees how soon a port has refused
            if punch and self._punching is not None and self._is_relayed(link):
                await self._punching.punch(link)
        except (NoneConnected, Stays) as error:
            self._counters.paths["failed"] += 1
            self._history.note(link.peer_id, "stays_relayed", detail=str(error))
            log.debug("peer stays relayed", peer=link.peer_id, error=str(error))
        finally:
            self._under_way -= 1
            self._changed.set()

    async def _dial_back(self, link: Link, addresses: list[str], *, quietly: bool) -> None:
        try:
            await self._connections.dial(link.peer_id, addresses, self._connections.source(link))
        except NoneConnected:
            if not quietly:
                raise

    def _is_relayed(self, link: Link) -> bool:
        return not link.is_closed and self._host.direct_link(link.peer_id) is None

    async def _let_go(self, link: Link) -> None:
        """Close a relayed connection that is no longer needed, unless the direct one goes first."""
        await trio.sleep(SETTLE)
        while not link.is_closed and (link.streams or self._host.direct_link(link.peer_id) is None):
            with trio.move_on_after(LOOK):
                await link.ending.wait()
        link.end("duplicate")


def _is_direct(address: str) -> bool:
    try:
        return parse(address).relay is None
    except AddressError:
        return False
