"""Tries known peers when the node has nobody else: no bootstrap node, no kept address and no peer. Without this, a node
that was connected yesterday would be alone today, and after every loss of its network."""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.dial_policy import KNOWN, usable
from fabstird.p2p.peers.manager import Connections

log = get_logger("p2p.known")

MOST = 8  # peers that are tried, those connected most recently first
AT_A_TIME = 4
PAUSE = 300.0  # seconds between two rounds while the network does not change


async def try_known(connections: Connections, book: Book, changed: Callable[[], trio.Event], *, at_once: bool) -> None:
    """Try known peers, until cancelled.

    Args:
        connections: The connections of this run.
        book: The known peers.
        changed: Returns the event that is set when the machine's network changes.
        at_once: Begin now. Otherwise the first round waits for a change or a pause: a user who stopped the node wanted
            to leave its peers.
    """
    due = at_once
    while True:
        event = changed()
        if due and not connections.cycles() and not connections.count():
            await _round(connections, book)
        with trio.move_on_after(PAUSE):
            await event.wait()
        due = True


async def _round(connections: Connections, book: Book) -> None:
    slots = trio.CapacityLimiter(AT_A_TIME)

    async def one(peer_id: str, addresses: list[str]) -> None:
        async with slots:
            if connections.links(peer_id):
                return
            try:
                await connections.dial(peer_id, addresses, KNOWN)
            except NoneConnected:
                return  # it is noted in the peer's history
        log.info("a peer of an earlier run is connected; there is no bootstrap node", peer=peer_id)

    async with trio.open_nursery() as nursery:
        for peer_id in book.latest(MOST):
            if addresses := usable(book.addresses(peer_id), KNOWN):
                nursery.start_soon(one, peer_id, addresses)
