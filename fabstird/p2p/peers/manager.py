"""The connection manager of one run of the node: it dials and trims as `policy` plans, and publishes events.

It is the host's observer and gate. Those methods are called by the connection's own task, so they only count, publish
and wake the loop. The loop in `run` owns every dial of a bootstrap or kept address (`cycles`). `commands` is its API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from fabstir_client.api.types import Connection as ConnectionRecord
from fabstir_client.api.types import (
    Peer,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
)
from fabstird.config import ConnectionsConfig, NodeConfig
from fabstird.events import EventLog
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import ConnectionLabels, Counters
from fabstird.p2p.host.host import Host, Link, PeerInfo
from fabstird.p2p.net.link import latency
from fabstird.p2p.peers import policy
from fabstird.p2p.peers.bans import Ban
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.cycles import Cycles
from fabstird.p2p.peers.dial_policy import USER, Source, peer_at, usable
from fabstird.p2p.peers.dialer import Dialer
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.nearby import Nearby
from fabstird.p2p.peers.policy import Cycle, Standing, Watermarks
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.ips import neighbourhood, to_ip

log = get_logger("connections")

CLOCK_CHECK = 5.0  # seconds between two checks of the wall clock
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
CLOCK_JUMP = 10.0  # seconds by which it may deviate from the monotonic clock in between


@dataclass(slots=True)
class _Connected:
    """A peer with at least one link, oldest first. ``opened`` and ``since`` are those of its first link, which may have
    gone."""

    links: list[Link]
    since: int  # ms, wall clock
    opened: float  # s, monotonic clock

    @property
    def idle(self) -> bool:
        """No stream is open."""
        return not any(link.streams for link in self.links)


class Connections:
    """The connections of one run.

    Args:
        worth: What a peer is worth beside its tags when connections are trimmed.
        clock: Seconds, as trio's deadlines.
        wall: Seconds since the Unix epoch.
    """

    def __init__(
        self,
        node: NodeConfig,
        limits: ConnectionsConfig,
        events: EventLog,
        counters: Counters,
        book: Book,
        history: History,
        nearby: Nearby,
        *,
        worth: Callable[[str], int] | None = None,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self.nearby = nearby  # peers heard in the local network
        self._worth = worth
        self._events = events
        self._counters = counters
        self._book = book
        self._history = history
        self._clock = clock
        self._wall = wall
        self._host: Host | None = None
        self._dialer: Dialer | None = None
        self._peers: dict[str, _Connected] = {}  # by peer id
        self._total = 0  # connections
        self._cycles = Cycles(node, events, counters, book, history, self._peers.keys(), self._wake, clock)
        self._asked: set[str] = set()  # peers that a user is disconnecting
        self._poke = trio.Event()
        self._owed: float | None = None  # since when the loop owes the turn that `silence` asked for
        self.set_limits(limits)

    # ----------------------------------------------------------------------------------------------------------------
    # The loop

    async def run(self, host: Host) -> None:
        """Dial bootstrap and kept addresses, and trim, until cancelled; then report the cycles that this interrupts."""
        self._host = host
        self._dialer = Dialer(host, self._counters, self._history, self.node.dial_timeout / 1000)
        self._cycles.match_kept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_clock)
                while True:
                    poke, self._owed = self._poke, None
                    plan = policy.plan(
                        self._clock(),
                        self._cycles.all(),
                        self._peers.keys(),
                        total=self._total,
                        standings=self._standings(),
                        watermarks=self._watermarks,
                    )
                    for peer_id in plan.close:
                        for link in self._peers[peer_id].links:
                            link.end("trimmed")
                    for address in plan.drop:
                        self._cycles.drop(address)
                    for address in plan.dial:
                        self._cycles.begin(address, self._dialer, nursery)
                    with trio.move_on_at(plan.wake_at):
                        await poke.wait()
        finally:
            self._cycles.cut_off()

    def _standings(self) -> Iterator[Standing]:
        wanted = {cycle.peer_id for cycle in self._cycles.all()}
        for peer_id, peer in self._peers.items():
            if any(link.is_closed for link in peer.links):
                continue  # it is closing
            yield Standing(
                peer_id=peer_id,
                links=len(peer.links),
                opened=peer.opened,
                value=self._book.value(peer_id) + (self._worth(peer_id) if self._worth is not None else 0),
                idle=peer.idle,
                spared=peer_id in wanted or self._book.is_protected(peer_id),
                latency=latency(peer.links),
                neighbourhood=_neighbourhood(peer.links[0]),
            )

    async def _watch_clock(self) -> None:
        """When the wall clock deviates from the monotonic one, the machine has slept or its clock was moved. Then every
        link is checked at once, and every waiting cycle begins."""
        ahead = self._wall() - self._clock()
        while True:
            await trio.sleep(CLOCK_CHECK)
            jump = self._wall() - self._clock() - ahead
            ahead += jump
            if abs(jump) > CLOCK_JUMP:
                log.warning("the clock has jumped; checking links and dialling afresh", seconds=round(jump, 1))
                self.refresh()

    def refresh(self) -> None:
        """Ping every link, and begin every waiting cycle."""
        for peer in self._peers.values():
            for link in peer.links:
                link.check()
        self._cycles.begin_afresh()
        self._wake()

    def set_limits(self, limits: ConnectionsConfig) -> None:
        """Set new watermarks."""
        self._watermarks = Watermarks(limits.low_water, limits.high_water, limits.grace_period / 1000)
        self._wake()

    def keep(self, address: str) -> None:
        """As `Cycles.keep`."""
        self._cycles.keep(address)

    def forget(self, address: str) -> None:
        """As `Cycles.forget`."""
        self._cycles.forget(address)

    def dials(self) -> tuple[int, int]:
        """The number of dials under way, and of bootstrap and kept addresses that wait for theirs."""
        return len(self._dialer) if self._dialer is not None else 0, self._cycles.waiting()

    def silence(self) -> float:
        """Seconds that the loop has owed the turn which an earlier call asked for. Asks for one."""
        if self._owed is None:
            self._owed = self._clock()
            self._wake()
        return self._clock() - self._owed

    def _wake(self) -> None:
        self._poke.set()
        self._poke = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # Called by the host

    def connected(self, link: Link) -> None:
        if link.direction == "inbound":
            self._counters.inbound_connections += 1
        else:
            self._counters.outbound_connections += 1
            if not link.punched:
                self._book.seen(link.peer_id, [link.address])
        self._total += 1
        labels = connection_labels(link)
        self._counters.came_up[labels] += 1
        self._counters.key_types[link.direction, link.key_type] += 1
        self._counters.handshakes[labels[1:]].observe(link.handshake)
        self._history.note(link.peer_id, "connected", address=link.address, detail=link.direction)
        peer = self._peers.get(link.peer_id)
        if peer is not None:
            peer.links.append(link)
            return
        self._peers[link.peer_id] = _Connected([link], link.opened_at, link.opened)
        self._cycles.connected(link.peer_id)
        self._events.publish(PeerConnected(peer_id=link.peer_id, address=link.address, direction=link.direction))
        self.nearby.met(link.peer_id, self._clock())
        self._wake()

    def disconnected(self, link: Link) -> None:
        reason = link.reason or "error"
        self._counters.closed[reason] += 1
        labels = connection_labels(link)
        self._counters.ended[labels] += 1
        self._counters.durations[labels].observe(trio.current_time() - link.opened)
        self._total -= 1
        self._history.note(link.peer_id, "disconnected", address=link.address, detail=reason)
        peer = self._peers[link.peer_id]
        peer.links.remove(link)
        if peer.links:
            return
        del self._peers[link.peer_id]
        self._cycles.left(link.peer_id, asked=link.peer_id in self._asked)
        duration = int((trio.current_time() - peer.opened) * 1000)
        self._events.publish(PeerDisconnected(peer_id=link.peer_id, reason=reason, duration=duration))
        self.nearby.met(link.peer_id, self._clock())
        self._wake()

    def identified(self, link: Link, info: PeerInfo) -> None:
        addresses = [f"{address}/p2p/{link.peer_id}" for address in info.addresses]
        self._book.seen(link.peer_id, usable(addresses, self.source(link)))
        self._history.note(link.peer_id, "identified", detail=info.agent_version)
        self._counters.identify_protocols.observe(len(info.protocols))
        self._counters.identify_addresses.observe(len(info.addresses))
        self._counters.push_support["supported" if IDENTIFY_PUSH in info.protocols else "not supported"] += 1
        self._events.publish(
            PeerIdentified(
                peer_id=link.peer_id,
                agent_version=info.agent_version,
                protocol_version=info.protocol_version,
                protocols=list(info.protocols),
                addresses=addresses,
            )
        )

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        """Why a connection with this IP address or peer is refused; None where it is not."""
        ban = self._book.bans.of_ip(host) if host is not None else None
        if ban is None and peer_id is not None:
            ban = self._book.bans.of_peer(peer_id)
        return str(ban) if ban is not None else None

    # ----------------------------------------------------------------------------------------------------------------
    # State, and single peers

    def peers(self) -> list[Peer]:
        """One entry for each peer, in the order in which they connected."""
        return [self._record(peer_id, peer) for peer_id, peer in self._peers.items()]

    def peer_ids(self) -> list[str]:
        return list(self._peers)

    def peer_count(self) -> int:
        return len(self._peers)

    def count(self) -> int:
        """The number of connections that are up."""
        return self._total

    def room(self) -> int:
        """How many more connections fit before trimming begins; 0 or less where there are enough."""
        return self._watermarks.high - self._total

    def links(self, peer_id: str) -> list[Link]:
        """Connections to a peer, oldest first."""
        peer = self._peers.get(peer_id)
        return list(peer.links) if peer else []

    def source(self, link: Link) -> Source:
        """The source of addresses that the peer at the other end names."""
        return peer_at(link.pipe.remote.host, relayed=link.relayed)

    def cycles(self) -> list[Cycle]:
        """The cycles of bootstrap and kept addresses."""
        return list(self._cycles.all())

    def lasting(self) -> set[str]:
        """Peers to which this node should stay connected, as far as their addresses name them."""
        return {cycle.peer_id for cycle in self._cycles.all() if cycle.peer_id is not None}

    def instant(self, due: float) -> int | None:
        """A time of the loop's clock in milliseconds since the Unix epoch; None for never."""
        return None if due == policy.NEVER else int((self._wall() + due - self._clock()) * 1000)

    async def dial(self, peer_id: str, addresses: Sequence[str], source: Source = USER) -> Link:
        """Race a peer's addresses; returns the link of the first that connects. ``source`` is who named them. Raises
        `NoneConnected`, with the `DialError` of each."""
        assert self._dialer is not None
        return await self._dialer.first(peer_id, addresses, source)

    async def disconnect(self, peer_id: str) -> int:
        """Close every connection to the peer at a user's request; returns how many there were."""
        assert self._host is not None
        self._asked.add(peer_id)
        try:
            return await self._host.close_peer(peer_id)
        finally:
            self._asked.discard(peer_id)

    async def ping(self, peer_id: str) -> float:
        """The round trip in milliseconds. Raises `StreamError`."""
        assert self._host is not None
        return await self._host.ping(peer_id)

    def enforce(self, ban: Ban) -> int:
        """Close every connection that a new ban forbids; returns how many there are."""
        closed = 0
        for peer_id, peer in self._peers.items():
            for link in peer.links:
                if not link.is_closed and ban.covers(link.pipe.remote.host, peer_id):
                    self._history.note(peer_id, "banned", address=link.address, detail=str(ban))
                    link.end("banned")
                    closed += 1
        return closed

    def _record(self, peer_id: str, peer: _Connected) -> Peer:
        info = self._host.info(peer_id) if self._host is not None else None
        outbound = [link.address for link in peer.links if link.direction == "outbound"]
        return Peer(
            peer_id=peer_id,
            direction=peer.links[0].direction,
            connected_at=peer.since,
            addresses=list(dict.fromkeys([*outbound, *self._book.addresses(peer_id)])),
            connections=[link_record(link) for link in peer.links],
            protocols=list(info.protocols) if info else [],
            tags=self._book.tags(peer_id),
            protected=self._book.is_protected(peer_id),
            bootstrap=self._cycles.is_bootstrap(peer_id),
            bytes_in=sum(link.bytes_in for link in peer.links),
            bytes_out=sum(link.bytes_out for link in peer.links),
            agent_version=info.agent_version if info else None,
            protocol_version=info.protocol_version if info else None,
            latency=latency(peer.links),
        )


def connection_labels(link: Link) -> ConnectionLabels:
    """The labels of a connection for the metrics. They hold nothing that a peer can choose freely."""
    version = "ip6" if link.address.startswith("/ip6/") else "ip4"
    return link.direction, link.transport, link.security, link.muxer, "false", version


def link_record(link: Link) -> ConnectionRecord:
    """A connection as the API shows it."""
    return ConnectionRecord(
        address=link.address,
        direction=link.direction,
        opened_at=link.opened_at,
        transport=link.transport,
        security=link.security,
        muxer=link.muxer,
        streams=len(link.streams),
        bytes_in=link.bytes_in,
        bytes_out=link.bytes_out,
        relay=parse(link.address).relay if link.relayed else None,
    )


def _neighbourhood(link: Link) -> str:
    """The network group of a peer; empty behind a relay, where it is unknown."""
    ip = None if link.relayed else to_ip(link.pipe.remote.host)
    return "" if ip is None else neighbourhood(ip)
