"""Explains why a peer is connected or not: everything known about it, and one sentence.

Pure: it asks nobody and waits for nothing.
"""

from __future__ import annotations

import time

from fabstir_client.api.types import BanRecord, Explanation, KnownAddress
from fabstir_client.api.ui import DialRecord, DialSource
from fabstird.p2p.net.link import Link
from fabstird.p2p.peers.bans import Ban
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections, link_record
from fabstird.p2p.peers.policy import Cycle


def explain(
    peer_id: str | None,
    target: str,
    state: str,
    own_id: str,
    book: Book,
    history: History,
    connections: Connections | None,
) -> Explanation:
    """Explain a peer or an address. ``peer_id`` is None for an address that names no peer; ``state`` is the node's."""
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
    heard = connections.nearby.find(peer_id) if connections and peer_id else None
    for address in heard.addresses if heard else []:
        addresses.append(KnownAddress(address=address, source="mdns", last_error=_error(history, key, address)))
    if links:
        link = next((one for one in links if not one.relayed), links[0])
        summary = f"connected, {link.direction}, since {_utc(link.opened_at)} at {link.address}"
        summary += _path(key, link, history)
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


def _path(key: str, link: Link, history: History) -> str:
    """How a relayed connection became a direct one, or why it has not."""
    entry = history.last(key, "direct", "stays_relayed")
    if entry is None or entry.time < link.opened_at:
        return ""
    if link.relayed:
        return f"; it stays relayed: {entry.detail}" if entry.what == "stays_relayed" else ""
    return f"; direct {entry.detail}" if entry.what == "direct" and entry.address == link.address else ""


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
    """The first condition that holds is the reason. They are in the order of how strongly they prevent the
    connection."""
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
    if (heard := connections.nearby.find(key)) is not None:
        when = connections.instant(heard.due)
        then = f"dialled from {_utc(when)} on, if there is room" if when is not None else "not dialled again"
        return f"it is heard in the local network, and {then}{error}"
    left = history.last(key, "disconnected")
    if left is not None and (failed is None or left.time >= failed.time):
        return f"the last connection ended at {_utc(left.time)} ({left.detail}); no reconnect is scheduled"
    if failed is not None:
        return f"the last dial, at {_utc(failed.time)}, failed: {failed.detail}; no other is scheduled"
    if book.addresses(key):
        return "addresses of it are known, but nothing asks for a connection; call connect, or peer.keep"
    return "nothing is known of it"


def dial_records(book: Book, history: History, connections: Connections) -> list[DialRecord]:
    """Bootstrap nodes, kept addresses and relays, each with the state of its cycle."""
    found = []
    for cycle in connections.cycles():
        known = _cycle(cycle, cycle.peer_id or cycle.address, book, history, connections)
        source: DialSource = "relay"
        if known.source in ("bootstrap", "kept"):
            source = "kept" if known.source == "kept" else "bootstrap"
        found.append(
            DialRecord(
                address=cycle.address,
                source=source,
                state=cycle.phase,
                attempts=cycle.attempts,
                peer_id=cycle.peer_id,
                next_dial=known.next_dial,
                last_error=known.last_error,
            )
        )
    return found


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
    """The error of the last dial of this very address, unless it has connected since."""
    for entry in reversed(history.of(key)):
        if entry.address == address and entry.what in ("dial_failed", "connected"):
            return entry.detail if entry.what == "dial_failed" else None
    return None


def _belongs(address: str, peer_id: str | None, target: str) -> bool:
    return address == target or (peer_id is not None and address.endswith(f"/p2p/{peer_id}"))


def _utc(instant: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(instant / 1000))
