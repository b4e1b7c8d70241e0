"""Why is that peer connected, or not? Everything that is known of it, and one sentence that answers.

Pure over what it is given: it asks nobody and waits for nothing.
"""

from __future__ import annotations

import time

from fabstir_client.types import BanRecord, Explanation, KnownAddress
from fabstird.p2p.bans import Ban
from fabstird.p2p.book import Book
from fabstird.p2p.connections import Connections, link_record
from fabstird.p2p.history import History
from fabstird.p2p.policy import Cycle


def explain(
    peer_id: str | None,
    target: str,
    state: str,
    own_id: str,
    book: Book,
    history: History,
    connections: Connections | None,
) -> Explanation:
    """``peer_id`` is None for an address that names no peer; ``state`` is the node's."""
    key = peer_id or target
    cycles = [
        cycle
        for cycle in (connections.cycles() if connections else [])
        if cycle.address == target or (peer_id is not None and cycle.peer_id == peer_id)
    ]
    links = connections.links(peer_id) if connections and peer_id else []
    ban = book.bans.of_peer(peer_id) if peer_id else None
    bootstrap = connections is not None and any(one.address in connections.node.bootstrap_nodes for one in cycles)
    kept = any(_belongs(address, peer_id, target) for address in book.kept)
    addresses = [_cycle(cycle, key, book, history, connections) for cycle in cycles]
    in_cycles = {cycle.address for cycle in cycles}
    for address in book.addresses(peer_id) if peer_id else []:
        if address not in in_cycles:
            addresses.append(KnownAddress(address=address, source="known", last_error=_error(history, key, address)))
    heard = connections.nearby(peer_id) if connections and peer_id else None
    for address in heard.addresses if heard else []:
        addresses.append(KnownAddress(address=address, source="mdns", last_error=_error(history, key, address)))
    if links:
        link = links[0]
        summary = f"connected, {link.direction_text}, since {_utc(link.opened_at)} at {link.address}"
    else:
        summary = "not connected: " + _why_not(key, state, own_id, ban, cycles, book, history, connections)
    return Explanation(
        summary=summary,
        connected=bool(links),
        connections=[link_record(link) for link in links],
        addresses=addresses,
        tags=book.tags(peer_id) if peer_id else {},
        protected=book.is_protected(peer_id) if peer_id else False,
        bootstrap=bootstrap,
        kept=kept,
        timeline=history.of(key),
        peer_id=peer_id,
        ban=BanRecord(ban.target, ban.since, ban.until, ban.reason) if ban else None,
    )


def _why_not(
    key: str,
    state: str,
    own_id: str,
    ban: Ban | None,
    cycles: list[Cycle],
    book: Book,
    history: History,
    connections: Connections | None,
) -> str:
    """The first of these that is true is the reason; the further down, the less the node wants the connection."""
    if key == own_id:
        return "that is this node itself"
    if ban is not None:
        return str(ban)
    if connections is None:
        return f"the node is {state}"
    failed = history.last(key, "dial_failed")
    error = f"; the last dial failed: {failed.detail}" if failed else ""
    for cycle in cycles:
        if cycle.phase == "dialling":
            return f"a dial is under way, number {cycle.attempts} of its cycle{error}"
    waiting = [cycle for cycle in cycles if cycle.phase in ("due", "waiting", "resting")]
    if waiting:
        cycle = min(waiting, key=lambda one: one.due)
        when = connections.instant(cycle.due)
        if cycle.phase == "resting":
            return ("it is not dialled again" if when is None else f"it is dialled afresh at {_utc(when)}") + error
        return f"dial {cycle.attempts + 1} of its cycle follows at {_utc(when or 0)}{error}"
    if (heard := connections.nearby(key)) is not None:
        when = connections.instant(heard.due)
        then = f"dialled from {_utc(when)} on, if there is room" if when is not None else "not dialled again"
        return f"it is heard in the local network, and {then}{error}"
    left = history.last(key, "disconnected")
    if left is not None and (failed is None or left.time >= failed.time):
        return f"it was until {_utc(left.time)}, and the connection ended: {left.detail}; nothing asks for a new one"
    if failed is not None:
        return f"the last dial, at {_utc(failed.time)}, failed: {failed.detail}; nothing asks for another"
    if book.addresses(key):
        return "addresses of it are known, but nothing asks for a connection; call connect, or peer.keep"
    return "nothing is known of it"


def _cycle(cycle: Cycle, key: str, book: Book, history: History, connections: Connections | None) -> KnownAddress:
    assert connections is not None
    waits = cycle.phase in ("due", "waiting", "resting")
    source = "bootstrap" if cycle.address in connections.node.bootstrap_nodes else "relay"
    return KnownAddress(
        address=cycle.address,
        source="kept" if cycle.address in book.kept else source,
        state=cycle.phase,
        attempts=cycle.attempts,
        next_dial=connections.instant(cycle.due) if waits else None,
        last_error=_error(history, key, cycle.address),
    )


def _error(history: History, key: str, address: str) -> str | None:
    """What the last dial of this very address failed of, unless it has connected since."""
    for entry in reversed(history.of(key)):
        if entry.address == address and entry.what in ("dial_failed", "connected"):
            return entry.detail if entry.what == "dial_failed" else None
    return None


def _belongs(address: str, peer_id: str | None, target: str) -> bool:
    return address == target or (peer_id is not None and address.endswith(f"/p2p/{peer_id}"))


def _utc(instant: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(instant / 1000))
