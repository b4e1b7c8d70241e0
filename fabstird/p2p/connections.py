"""The connection manager of one run of the node: dials and trims as `policy` plans, and tells what happened.

It is the host's observer and gate: libp2p's connection path calls it, so those methods only count, publish and poke.
The loop in `run` owns every dial of a bootstrap or kept address. What users ask of it is in `commands`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from fabstir_client.types import (
    BootstrapError,
    ConnectionCancelled,
    ConnectionFailed,
    ConnectionRetry,
    Peer,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
)
from fabstir_client.types import Connection as ConnectionRecord
from fabstird.config import ConnectionsConfig, NodeConfig
from fabstird.events import EventLog
from fabstird.log import get_logger
from fabstird.metrics import ConnectionLabels, Counters
from fabstird.p2p import policy
from fabstird.p2p.addresses import AddressError, parse
from fabstird.p2p.bans import Ban
from fabstird.p2p.book import Book
from fabstird.p2p.dialer import Dialer
from fabstird.p2p.history import History
from fabstird.p2p.host import DialError, Host, Link, PeerInfo
from fabstird.p2p.nearby import Heard
from fabstird.p2p.policy import Cycle, Retry, Standing, Watermarks

log = get_logger("connections")

CLOCK_CHECK = 5.0  # seconds between two looks at the wall clock
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
CLOCK_JUMP = 10.0  # seconds by which it may run away from the steady clock in between


@dataclass(slots=True)
class _Connected:
    """A peer with at least one link, oldest first. ``opened`` and ``since`` are its first link's, gone or not."""

    links: list[Link]
    since: int  # ms, wall clock
    opened: float  # s, steady clock

    @property
    def idle(self) -> bool:
        """No stream is open."""
        return not any(link.streams for link in self.links)


class Connections:
    """``clock`` gives seconds and runs with trio's deadlines; ``wall`` gives the seconds that people see."""

    def __init__(
        self,
        node: NodeConfig,
        events: EventLog,
        counters: Counters,
        book: Book,
        history: History | None = None,
        limits: ConnectionsConfig | None = None,
        *,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self._events = events
        self._counters = counters
        self._book = book
        self._history = History() if history is None else history  # an empty one is false
        self._clock = clock
        self._wall = wall
        self._settings = policy.Settings(
            max_retries=node.max_retries,
            retry_delay=node.retry_delay,
            keepalive=node.keepalive_interval / 1000 if node.keepalive_interval else policy.NEVER,
        )
        self._host: Host | None = None
        self._dialer: Dialer | None = None
        self._peers: dict[str, _Connected] = {}  # by peer id, our own account: LAB.md, trap 17
        self._total = 0  # connections
        self._cycles = {text: Cycle(text, peer_of(text)) for text in (*node.bootstrap_nodes, *book.kept)}
        self._dials: dict[str, trio.CancelScope] = {}
        self._asked: set[str] = set()  # peers that a user is disconnecting
        self.watchers: list[Callable[[str, PeerInfo], None]] = []  # told what identify tells of a peer
        self.comings: list[Callable[[str], None]] = []  # told that a peer has come, and that it has gone
        self.nearby: Callable[[str], Heard | None] = lambda peer_id: None  # who is heard by mDNS, while that is on
        self._poke = trio.Event()
        self._owed: float | None = None  # since when the loop owes the turn that `silence` asked for
        self.set_limits(limits or ConnectionsConfig())

    # ----------------------------------------------------------------------------------------------------------------
    # The loop

    async def run(self, host: Host) -> None:
        """Dial bootstrap and kept addresses, and trim, until cancelled; then tell which cycles that cuts off."""
        self._host = host
        self._dialer = Dialer(host, self._counters, self._history, self.node.dial_timeout / 1000)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_clock)
                while True:
                    poke, self._owed = self._poke, None
                    plan = policy.plan(
                        self._clock(),
                        self._cycles.values(),
                        self._peers.keys(),
                        total=self._total,
                        standings=self._standings(),
                        watermarks=self._watermarks,
                    )
                    for peer_id in plan.close:
                        for link in self._peers[peer_id].links:
                            link.end("trimmed")
                    for address in plan.drop:
                        self._dials[address].cancel()
                    for address in plan.dial:
                        self._begin(address, nursery)
                    with trio.move_on_after(plan.wake_at - self._clock()):
                        await poke.wait()
        finally:
            for cycle in policy.cut_off(self._cycles.values()):
                self._events.publish(ConnectionCancelled(address=cycle.address, attempts=cycle.attempts))

    def _standings(self) -> Iterator[Standing]:
        wanted = {cycle.peer_id for cycle in self._cycles.values()}
        for peer_id, peer in self._peers.items():
            if any(link.is_closed for link in peer.links):
                continue  # on its way out
            yield Standing(
                peer_id=peer_id,
                links=len(peer.links),
                opened=peer.opened,
                value=self._book.value(peer_id),
                idle=peer.idle,
                spared=peer_id in wanted or self._book.is_protected(peer_id),
            )

    def _begin(self, address: str, nursery: trio.Nursery) -> None:
        cycle = self._cycles[address] = policy.begin_dial(self._cycles[address])
        if cycle.attempts > 1:
            self._counters.retries += 1
        self._dials[address] = trio.CancelScope()
        nursery.start_soon(self._dial, address)

    async def _dial(self, address: str) -> None:
        assert self._dialer is not None
        try:
            with self._dials[address] as scope:
                try:
                    link = await self._dialer.dial(address, self._cycles[address].peer_id)
                except DialError as error:
                    self._failed(address, str(error))
                else:
                    self._book.seen(link.peer_id, [link.address])
                    self._settle(address, link.peer_id)
            cycle = self._cycles.get(address)
            if scope.cancelled_caught and cycle is not None and cycle.peer_id is not None:
                self._settle(address, cycle.peer_id)  # connected another way: the cycle ends quietly
        finally:
            del self._dials[address]
            self._wake()

    def _settle(self, address: str, peer_id: str) -> None:
        if address not in self._cycles:  # forgotten meanwhile
            return
        cycle = policy.peer_connected(self._cycles[address], peer_id)
        if peer_id not in self._peers:  # it has left again while this task was waiting for its turn
            cycle = policy.peer_left(cycle, self._clock(), self._settings, asked=False)
        self._cycles[address] = cycle

    def _failed(self, address: str, words: str) -> None:
        if address not in self._cycles:  # forgotten meanwhile
            return
        peer_id = self._cycles[address].peer_id
        if peer_id is not None and peer_id in self._peers:  # connected another way: the cycle ends quietly
            self._settle(address, peer_id)
            return
        cycle = self._cycles[address]
        _, outcome = policy.dial_failed(cycle, self._clock(), self._settings)
        if outcome.first:
            self._events.publish(BootstrapError(type="BOOTSTRAP_CONNECTION_FAILED", address=address, message=words))
        if isinstance(outcome, Retry):
            self._events.publish(
                ConnectionRetry(
                    address=address,
                    attempt=outcome.attempt,
                    max_retries=self._settings.max_retries,
                    delay=outcome.delay,
                    error=words,
                )
            )
        else:
            attempts = outcome.attempts
            self._history.note(peer_id or address, "gave_up", address=address, detail=f"after {attempts} dials")
            self._events.publish(
                ConnectionFailed(address=address, attempts=attempts, reason="Max retries exceeded", error=words)
            )
        # The delay counts from when it was told, not from before the telling.
        self._cycles[address], _ = policy.dial_failed(cycle, self._clock(), self._settings)

    async def _watch_clock(self) -> None:
        """When the wall clock runs away from the steady one, the machine has slept, or somebody moved its clock: then
        every link is checked at once, and what was waited for is not waited for any longer."""
        ahead = self._wall() - self._clock()
        while True:
            await trio.sleep(CLOCK_CHECK)
            jump = self._wall() - self._clock() - ahead
            ahead += jump
            if abs(jump) > CLOCK_JUMP:
                log.warning("the clock has jumped; checking links and dialling afresh", seconds=round(jump, 1))
                self.refresh()

    def refresh(self) -> None:
        """Ask every link for a sign of life, and begin every cycle that waits."""
        for peer in self._peers.values():
            for link in peer.links:
                link.muxed_conn.check()
        now = self._clock()
        self._cycles = {address: policy.after_sleep(cycle, now) for address, cycle in self._cycles.items()}
        self._wake()

    def set_limits(self, limits: ConnectionsConfig) -> None:
        """Watermarks from now on."""
        self._watermarks = Watermarks(limits.low_water, limits.high_water, limits.grace_period / 1000)
        self._wake()

    def keep(self, address: str) -> None:
        """Stay connected to an address, from now on, as to a bootstrap node."""
        if address in self._cycles:
            return
        cycle = Cycle(address, peer_of(address), due=self._clock())
        if cycle.peer_id is not None and cycle.peer_id in self._peers:
            cycle = policy.peer_connected(cycle, cycle.peer_id)
        self._cycles[address] = cycle
        self._wake()

    def forget(self, address: str) -> None:
        """No longer; a dial under way is ended, a connection stays."""
        if address in self.node.bootstrap_nodes:
            return
        self._cycles.pop(address, None)
        if address in self._dials:
            self._dials[address].cancel()
        self._wake()

    def dials(self) -> tuple[int, int]:
        """How many dials are under way, and how many bootstrap and kept addresses wait for theirs."""
        waiting = sum(cycle.phase in ("due", "waiting", "resting") for cycle in self._cycles.values())
        return len(self._dialer) if self._dialer is not None else 0, waiting

    def silence(self) -> float:
        """For how many seconds the loop has owed the turn that an earlier call asked for. Asks for one."""
        if self._owed is None:
            self._owed = self._clock()
            self._wake()
        return self._clock() - self._owed

    def _wake(self) -> None:
        self._poke.set()
        self._poke = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # What the host tells and asks

    def connected(self, link: Link) -> None:
        if link.direction_text == "inbound":
            self._counters.inbound_connections += 1
        else:
            self._counters.outbound_connections += 1
        self._total += 1
        labels = connection_labels(link)
        self._counters.came_up[labels] += 1
        self._counters.key_types[link.direction_text, link.key_type] += 1
        self._counters.handshakes[labels[1:]].observe(link.handshake)
        self._history.note(link.peer_id, "connected", address=link.address, detail=link.direction_text)
        peer = self._peers.get(link.peer_id)
        if peer is not None:
            peer.links.append(link)
            return
        self._peers[link.peer_id] = _Connected([link], link.opened_at, link.opened)
        for address, cycle in self._cycles.items():
            if cycle.peer_id == link.peer_id and cycle.phase != "dialling":
                self._cycles[address] = policy.peer_connected(cycle, link.peer_id)
        self._events.publish(PeerConnected(peer_id=link.peer_id, address=link.address, direction=link.direction_text))
        for tell in self.comings:
            tell(link.peer_id)
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
        asked = link.peer_id in self._asked
        for address, cycle in self._cycles.items():
            if cycle.peer_id == link.peer_id and cycle.phase == "connected":
                self._cycles[address] = policy.peer_left(cycle, self._clock(), self._settings, asked=asked)
        duration = int((trio.current_time() - peer.opened) * 1000)
        self._events.publish(PeerDisconnected(peer_id=link.peer_id, reason=reason, duration=duration))
        for tell in self.comings:
            tell(link.peer_id)
        self._wake()

    def identified(self, link: Link, info: PeerInfo) -> None:
        addresses = [f"{address}/p2p/{link.peer_id}" for address in info.addresses]
        self._book.seen(link.peer_id, addresses)
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

        for watcher in self.watchers:
            watcher(link.peer_id, info)

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        """Why a connection with this IP address, or this peer, must not be; None where it may."""
        ban = self._book.bans.of_ip(host) if host is not None else None
        if ban is None and peer_id is not None:
            ban = self._book.bans.of_peer(peer_id)
        return str(ban) if ban is not None else None

    # ----------------------------------------------------------------------------------------------------------------
    # How things stand, and single peers

    def peers(self) -> list[Peer]:
        """One entry a peer, in the order in which they connected."""
        return [self._record(peer_id, peer) for peer_id, peer in self._peers.items()]

    def peer_ids(self) -> list[str]:
        return list(self._peers)

    def count(self) -> int:
        """Connections that are up."""
        return self._total

    def room(self) -> int:
        """Connections that there may be more before trimming begins; 0 or less where there are enough."""
        return self._watermarks.high - self._total

    def links(self, peer_id: str) -> list[Link]:
        """Connections to a peer, oldest first."""
        peer = self._peers.get(peer_id)
        return list(peer.links) if peer else []

    def cycles(self) -> list[Cycle]:
        """Bootstrap and kept addresses, and where each stands."""
        return list(self._cycles.values())

    def instant(self, due: float) -> int | None:
        """A time of the loop's clock as an instant of the wall clock, in milliseconds; None for never."""
        return None if due == policy.NEVER else int((self._wall() + due - self._clock()) * 1000)

    async def dial(self, address: str, peer_id: str) -> Link:
        """Raises `DialError`."""
        assert self._dialer is not None
        link = await self._dialer.dial(address, peer_id)
        self._book.seen(link.peer_id, [link.address])
        return link

    async def disconnect(self, peer_id: str) -> int:
        """Close every connection to the peer because a user asks for it; how many there were."""
        assert self._host is not None
        self._asked.add(peer_id)
        try:
            return await self._host.close_peer(peer_id)
        finally:
            self._asked.discard(peer_id)

    async def ping(self, peer_id: str) -> float:
        """Round trip in milliseconds. Raises `StreamError`."""
        assert self._host is not None
        return await self._host.ping(peer_id)

    def enforce(self, ban: Ban) -> int:
        """End every connection that a new ban forbids; how many there are."""
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
        outbound = [link.address for link in peer.links if link.direction_text == "outbound"]
        latencies = [link.latency for link in peer.links if link.latency is not None]
        return Peer(
            peer_id=peer_id,
            direction=peer.links[0].direction_text,
            connected_at=peer.since,
            addresses=list(dict.fromkeys([*outbound, *self._book.addresses(peer_id)])),
            connections=[link_record(link) for link in peer.links],
            protocols=list(info.protocols) if info else [],
            tags=self._book.tags(peer_id),
            protected=self._book.is_protected(peer_id),
            bootstrap=any(
                cycle.peer_id == peer_id and cycle.address in self.node.bootstrap_nodes
                for cycle in self._cycles.values()
            ),
            agent_version=info.agent_version if info else None,
            protocol_version=info.protocol_version if info else None,
            latency=min(latencies) if latencies else None,
        )


def connection_labels(link: Link) -> ConnectionLabels:
    """A connection for the metrics. What a peer could choose freely is not in it."""
    version = "ip6" if link.address.startswith("/ip6/") else "ip4"
    return link.direction_text, link.transport, link.security, link.muxer, "false", version


def peer_of(address: str) -> str | None:
    """The peer that an address names; None where it names none, or none that can be decoded."""
    try:
        return parse(address).peer_id
    except AddressError:
        return None  # it goes through its cycle all the same, and each dial says what is wrong with it


def link_record(link: Link) -> ConnectionRecord:
    """A connection as the API shows it."""
    return ConnectionRecord(
        address=link.address,
        direction=link.direction_text,
        opened_at=link.opened_at,
        transport=link.transport,
        security=link.security,
        muxer=link.muxer,
        streams=len(link.streams),
    )
