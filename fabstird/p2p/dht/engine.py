"""The DHT of a running node: it asks other nodes and maintains the routing table.

A thin shell: `lookup` decides whom to ask, `upkeep` what the table needs, `mode` whether to answer others, and
`routing` whom to keep. `serving` answers, and `commands` is the API.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from random import SystemRandom

import trio

from fabstir_client.api.dht import DhtMode, DhtModeChanged
from fabstird.config import DhtConfig
from fabstird.events import EventLog
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.dht import heard, providers, values
from fabstird.p2p.dht.density import Density
from fabstird.p2p.dht.lookup import ALPHA, QUIET, Lookup
from fabstird.p2p.dht.messages import MAX_MESSAGE, PROTOCOL, Kind, Message, MessageError, decode, encode
from fabstird.p2p.dht.mode import Signs, decide
from fabstird.p2p.dht.patience import Patience
from fabstird.p2p.dht.providers import Providers
from fabstird.p2p.dht.republish_store import MAX_KEPT, Kept
from fabstird.p2p.dht.routing import BITS, K, RoutingTable
from fabstird.p2p.dht.server import Server
from fabstird.p2p.dht.serving import MAX_STREAMS, Serving
from fabstird.p2p.dht.upkeep import Upkeep
from fabstird.p2p.dht.values import Values
from fabstird.p2p.dht.whereabouts import Whereabouts
from fabstird.p2p.host.host import DialError, DialLimit, Host, Link, PeerInfo, ProtocolUnsupported, StreamError
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.dial_policy import SUGGESTED
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.wire.addresses import AddressError, parse
from fabstird.p2p.wire.frames import frame, read_message
from fabstird.p2p.wire.peer_ids import to_bytes, to_text

log = get_logger("p2p.dht")

ASK = 10.0  # seconds to reach a peer and get its answer
DIALLED = 8  # addresses of a peer that are dialled
BACKGROUND = 60.0  # seconds for a background lookup
REVIEW = 60.0  # seconds between two checks of what is due to be announced, and of our reachability
SWEEP = 300.0  # seconds between two sweeps of expired records

Take = Callable[[bytes, Message, Lookup], bool]


class AskFailed(Exception):
    """A peer did not answer; the message says why. ``reached`` is whether it was connected. ``asked`` is false where a
    limit of this node forbade the dial, which says nothing about the peer."""

    def __init__(self, words: str, *, reached: bool, asked: bool = True) -> None:
        super().__init__(words)
        self.reached = reached
        self.asked = asked


class Engine:
    """One run of the node. `run` serves it."""

    def __init__(
        self,
        host: Host,
        connections: Connections,
        book: Book,
        events: EventLog,
        kept: Kept,
        settings: DhtConfig,
        counters: Counters,
        confirmed: Callable[[], bool | None] = lambda: None,
        may_tell: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Make the engine; `run` starts it.

        Args:
            host: Opens streams and knows addresses.
            connections: Dials peers.
            book: Addresses of known peers.
            events: Where events are published.
            kept: Records that users announced.
            settings: ``[dht]``.
            counters: Where requests are counted.
            confirmed: What AutoNAT found about our reachability; None where it has found nothing.
            may_tell: Whether an address of ours may be sent to others.
        """
        self.host = host
        self.kept = kept
        self.settings = settings
        self.mode: DhtMode = "client"
        self.own_id = to_bytes(host.peer_id)
        self.where = Whereabouts(host, book, may_tell)
        self.table = RoutingTable(self.own_id, left=self.where.heard.unpin)
        self.density = Density()
        self.patience = Patience()
        self.values = Values(self.own_id, settings.max_value_bytes)
        self.providers = Providers(self.own_id)
        self.server = Server(self.table, self.values, self.providers, self.where.packed, kept.provides)
        self.serving = Serving(self.server, self.where.sender, self._alive, counters.dht_received)
        self.lookups = 0
        self.asked = 0
        self.failed = 0
        self._malformed = 0
        self._counters = counters
        self._connections = connections
        self._events = events
        self._confirmed = confirmed
        self._upkeep = Upkeep(self.table, trio.current_time(), SystemRandom())
        self._newcomer = trio.Event()  # replaced each time the table gains a peer
        host.observe(self)
        for link in host.links():
            info = host.info(link.peer_id)
            if info is not None:
                self.identified(link, info)

    @property
    def malformed(self) -> int:
        """Messages that could not be decoded."""
        return self._malformed + self.serving.malformed

    # ----------------------------------------------------------------------------------------------------------------
    # The background: one task, ended with the node

    async def run(self, republish: Callable[[], Awaitable[None]]) -> None:
        """Maintain the table, and announce again what is due with ``republish``, until cancelled."""
        if self.settings.mode == "server" and self.mode != "server":
            self._become("server")
        async with trio.open_nursery() as nursery:
            self.host.fence.keep(nursery, "dht", self._maintain)
            self.host.fence.keep(nursery, "dht", self._sweep)
            while True:
                self._review()
                if await self.joined(trio.current_time() + REVIEW):
                    await republish()
                    await trio.sleep(REVIEW)

    async def joined(self, until: float) -> bool:
        """Wait until the table has a peer; whether it has one by ``until``."""
        with trio.move_on_at(until):
            while not len(self.table):
                await self._newcomer.wait()
        return bool(len(self.table))

    async def _maintain(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                newcomer = self._newcomer
                plan = self._upkeep.plan(trio.current_time())
                if plan.walks:
                    self.host.fence.spawn(nursery, "dht", self._refresh, plan.walks)
                for peer in plan.checks:
                    self.host.fence.spawn(nursery, "dht", self._check, peer)
                with trio.move_on_at(plan.wake_at):
                    await newcomer.wait()

    async def _refresh(self, targets: tuple[bytes, ...]) -> None:
        for target in targets:
            until = trio.current_time() + BACKGROUND
            lookup, whole = await self.walk(target, Message(Kind.FIND_NODE, target), until=until, background=True)
            if whole:
                self.density.observe(lookup.distances())

    async def _check(self, peer: bytes) -> None:
        try:
            await self.ask(peer, Message(Kind.FIND_NODE, self.own_id), background=True)
        except AskFailed as error:
            log.debug("no answer", peer=to_text(peer), error=str(error))

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP)
            self.values.sweep(time.time())
            self.providers.sweep(time.time())

    # ----------------------------------------------------------------------------------------------------------------
    # Who is there, and whether we can be reached

    def connected(self, link: Link) -> None: ...

    def disconnected(self, link: Link) -> None: ...

    def identified(self, link: Link, info: PeerInfo) -> None:
        """A peer that answers the DHT protocol is added to the table."""
        peer_id, peer = link.peer_id, to_bytes(link.peer_id)
        if PROTOCOL in info.protocols:
            self._join(peer)
        elif info.protocols:  # a push may omit them
            self.table.remove(peer)
        if self.settings.mode == "auto" and self.mode == "client":
            self._review(sign=self._reachable(peer_id, info))

    def _join(self, peer: bytes) -> None:
        new = peer not in self.table
        if not self.table.add(peer, trio.current_time(), self.where.network(peer)):
            return
        self.where.pin(peer)
        if new:
            self._upkeep.arrived(trio.current_time())
            self._newcomer.set()
            self._newcomer = trio.Event()

    def _alive(self, peer: bytes) -> None:
        self.table.heard(peer, trio.current_time())

    def _silent(self, peer: bytes) -> None:
        """A peer could not be reached or did not answer. Without any connection, the fault may well be ours."""
        if self.host.links():
            self.table.failed(peer, trio.current_time())

    def _reachable(self, peer_id: str, info: PeerInfo) -> bool:
        """Whether we are reachable: the peer dialled us by itself, or sees us at an address that is our own."""
        if any(link.direction == "inbound" and not link.relayed for link in self.host.links(peer_id)):
            return True
        seen = _host_of(info.observed) if info.observed else None
        return seen is not None and any(_host_of(address) == seen for address in self.host.listen_addresses())

    def _review(self, *, sign: bool = False) -> None:
        if self.settings.mode == "auto":
            mode = decide(self.mode, Signs(self.host.announces_given, self._confirmed(), sign))
            if mode != self.mode:
                self._become(mode)

    def _become(self, mode: DhtMode) -> None:
        self.mode = mode
        if mode == "server":
            self.host.set_stream_handler(PROTOCOL, self.serving.serve)
        else:
            self.host.remove_stream_handler(PROTOCOL)
        self.host.tell_peers()
        self._events.publish(DhtModeChanged(mode=mode))

    # ----------------------------------------------------------------------------------------------------------------
    # Asking

    async def walk(
        self,
        target: bytes,
        message: Message,
        take: Take = lambda *_: False,
        *,
        until: float = math.inf,
        background: bool = False,
    ) -> tuple[Lookup, bool]:
        """Ask the closest peers to ``target``, ever closer ones.

        Args:
            target: The key.
            message: What to ask.
            take: Called with each answer; returns True to end the walk.
            until: When to give up.
            background: Whether nobody waits for the result.

        Returns:
            The lookup, and whether it was complete before ``until``.
        """
        seeds = self.table.closest(target)
        lookup = Lookup(
            target,
            self.own_id,
            seeds,
            alpha=QUIET if background and len(self.table) >= K else ALPHA,
            network=self.where.network,
            radius=self.density.radius,
            give_up=self.patience.give_up,
            connected=lambda peer: bool(self.host.links(to_text(peer))),
        )
        self.lookups += 1
        self._counters.dht_lookups += 1
        changed = trio.Event()

        async def one(peer: bytes) -> None:
            began = trio.current_time()
            try:
                answer = await self.ask(peer, message, background=background)
            except AskFailed as error:
                log.debug("no answer", peer=to_text(peer), error=str(error))
                lookup.failed(peer)
            else:
                self.patience.observe(trio.current_time() - began)
                lookup.answered(peer, [one.id for one in answer.closer if self.where.hear(one, peer)])
                if take(peer, answer, lookup):
                    nursery.cancel_scope.cancel()
            changed.set()

        try:
            with trio.CancelScope(deadline=until) as deadline:
                async with trio.open_nursery() as nursery:
                    while True:
                        changed = trio.Event()
                        for peer in lookup.due(trio.current_time()):
                            nursery.start_soon(one, peer)
                        if lookup.done(trio.current_time()):
                            # a peer that has not answered by now is not among the closest
                            nursery.cancel_scope.cancel()
                        with trio.move_on_at(lookup.wake_at()):
                            await changed.wait()
        finally:
            self.failed += len(lookup.late)
            for peer in lookup.late:
                self._silent(peer)
        return lookup, not deadline.cancelled_caught

    async def ask(self, peer: bytes, message: Message, *, background: bool = False, answers: bool = True) -> Message:
        """Send one message to one peer, and return its answer. Without ``answers`` none is awaited, and ``message`` is
        returned. A peer that does not answer becomes suspect, and later loses its place. Raises `AskFailed`."""
        self.asked += 1
        peer_id = to_text(peer)
        outcome = "dropped"
        try:
            with trio.fail_after(ASK):
                if not self.host.links(peer_id):
                    await self._reach(peer, peer_id, background=background)
                # The question is sent along with the protocol's name, as go-libp2p does: one round trip, not two. Our
                # side stays open until the answer has arrived: js-libp2p resets a stream that has ended right after its
                # answer, and the reset discards what has not been read
                async with self.host.stream(peer_id, PROTOCOL, frame(encode(message), "uvarint")) as stream:
                    answer = decode(await read_message(stream, "uvarint", MAX_MESSAGE)) if answers else message
            outcome = "answered"
        except (StreamError, DialError, trio.TooSlowError) as error:
            failed = self._no_answer(peer, peer_id, error)
            outcome = "failed" if failed.asked else "limit"
            raise failed from error
        finally:
            self._counters.dht_asked[outcome] += 1
        self._join(peer)
        return answer

    def _no_answer(self, peer: bytes, peer_id: str, error: Exception) -> AskFailed:
        self.failed += 1
        self._malformed += isinstance(error.__cause__, MessageError)
        reached = bool(self.host.links(peer_id))
        asked = not (isinstance(error, DialError) and error.kind == "limit")
        if isinstance(error, ProtocolUnsupported):
            self.table.remove(peer)
        elif asked:
            self._silent(peer)
        return AskFailed(str(error) or f"no answer within {ASK:g} s", reached=reached, asked=asked)

    async def _reach(self, peer: bytes, peer_id: str, *, background: bool) -> None:
        """Connect to a peer. Raises `DialError`."""
        if background and self._connections.room() <= 0:
            raise DialError("enough connections are open", "limit")
        addresses = [address for address in self.where.addresses(peer) if heard.pack(address) is not None]
        if not addresses:
            raise DialError("no address of it is known", "no name")
        try:
            await self._connections.dial(peer_id, addresses[:DIALLED], SUGGESTED)
        except NoneConnected as failed:
            limit = isinstance(failed.last, DialLimit)
            raise DialError(str(failed), "limit" if limit else "failed") from failed

    def bounds(self) -> dict[str, tuple[int, int]]:
        where = self.where.heard
        return {
            "dhtPeers": (len(self.table), K * BITS),
            "dhtAddresses": (len(where), heard.MAX_HEARD),
            "dhtAddressBytes": (where.size, heard.MAX_BYTES),
            "dhtValues": (len(self.values), values.MAX_VALUES),
            "dhtValueBytes": (self.values.size, values.MAX_BYTES),
            "dhtProviders": (self.providers.records, providers.MAX_RECORDS),
            "dhtProviderBytes": (self.providers.size, providers.MAX_BYTES),
            "dhtStreams": (len(self.serving), MAX_STREAMS),
            "dhtKept": (len(self.kept), MAX_KEPT),
        }


def _host_of(address: str) -> str | None:
    try:
        return parse(address).host
    except AddressError:
        return None
