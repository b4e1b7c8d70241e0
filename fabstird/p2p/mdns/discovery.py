"""mDNS: finds libp2p peers in the local network, and is found by them (libp2p specification, discovery/mdns).

On every interface that the node listens on, and for each IP version there, a socket in the mDNS group asks, answers and
listens. A node that listens on loopback only sends nothing. Peers that are heard go into `Nearby`, and are dialled
while there is room below ``high_water``. Everything runs on trio sockets in tasks of `Mdns.run`, and ends with it. An
interface that does not work is reported once and tried again at each scan.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host
from fabstird.p2p.mdns.message import MAX_PACKET, SERVICES, Message, Name, answer, goodbye, question, read, services
from fabstird.p2p.mdns.sockets import MAX_INTERFACES, Interface, Version, group, in_words, interfaces, join
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.dial_policy import NEARBY
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.peers.nearby import MAX_PEERS, belonging
from fabstird.p2p.wire.addresses import Address, parse
from fabstird.p2p.wire.ips import Network

log = get_logger("p2p.mdns")

SCAN = 5.0  # seconds between two scans of the interfaces
FIRST_ASK, LAST_ASK = 1.0, 60.0  # seconds from one query to the next; doubles each time
HESITATION = (0.02, 0.12)  # seconds before a response, so that not all respond at once (RFC 6762, section 6)
ANSWER_GAP = 1.0  # seconds between two responses on one interface, however many queries arrive
RATE, BURST = 50.0, 100.0  # messages read on one socket, a second and at once; the kernel drops the rest
MAX_DIALS = 8  # under way at the same time
LAST_WORDS = 0.1  # seconds for a goodbye

_Key = tuple[str, int, Version]


@dataclass(slots=True)
class _Membership:
    """A socket in the group, and what to send on it."""

    interface: Interface
    version: Version
    sock: trio.socket.SocketType
    own: list[Address]  # where the node listens on this interface
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    changed: trio.Event = field(default_factory=trio.Event)
    wanted: trio.Event = field(default_factory=trio.Event)
    last_answer: float = -ANSWER_GAP
    services_wanted: bool = False
    tokens: float = BURST
    filled: float = field(default_factory=trio.current_time)

    @property
    def networks(self) -> list[Network]:
        return [one.network for one in self.interface.networks if not one.is_link_local]

    def delay(self) -> float:
        """Take a token for one message; returns how long to wait before reading the next."""
        now = trio.current_time()
        self.tokens = min(BURST, self.tokens + (now - self.filled) * RATE) - 1
        self.filled = now
        return max(0.0, -self.tokens / RATE)


class Mdns:
    """mDNS of one run of the node. It counts in ``counters.mdns``."""

    def __init__(self, host: Host, connections: Connections, counters: Counters) -> None:
        self._host = host
        self._fence = host.fence
        self._connections = connections
        self._count = counters.mdns
        self._name = Name.random()
        self._nearby = connections.nearby
        self._memberships: dict[_Key, _Membership] = {}
        self._complaints: dict[_Key | None, str] = {}
        self._dials = 0
        self._poke = trio.Event()

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._fence.keep(nursery, "mdns", self._dial_nearby, nursery)
            while True:
                await self._scan(nursery)
                await trio.sleep(SCAN)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {
            "mdnsPeers": (len(self._nearby), MAX_PEERS),
            "mdnsDials": (self._dials, MAX_DIALS),
            "mdnsSockets": (len(self._memberships), 2 * MAX_INTERFACES),
        }

    # ----------------------------------------------------------------------------------------------------------------
    # Interfaces

    async def _scan(self, nursery: trio.Nursery) -> None:
        """Join interfaces on which the node listens now, and leave the others."""
        wanted = self._wanted()
        for key in self._memberships.keys() - wanted.keys():
            self._memberships[key].scope.cancel()
        kept = (*wanted, None) if not wanted else wanted.keys()
        self._complaints = {key: words for key, words in self._complaints.items() if key in kept}
        if not wanted:
            self._complain(None, "no interface that can multicast has an address that this node listens on")
        for key, (interface, own) in wanted.items():
            membership = self._memberships.get(key)
            if membership is None:
                await self._join(key, interface, own, nursery)
            elif (membership.interface, membership.own) != (interface, own):
                membership.interface, membership.own = interface, own
                membership.changed.set()

    def _wanted(self) -> dict[_Key, tuple[Interface, list[Address]]]:
        """The interfaces to use: all where the node listens nowhere, otherwise those on which it can be reached."""
        listening = [parse(text) for text in self._host.listen_addresses()]
        wanted: dict[_Key, tuple[Interface, list[Address]]] = {}
        for interface in interfaces():
            own = [address for address in listening if interface.has(address.host)]
            if own or not listening:
                for version in interface.versions:
                    wanted[interface.name, interface.index, version] = (interface, own)
        return wanted

    async def _join(self, key: _Key, interface: Interface, own: list[Address], nursery: trio.Nursery) -> None:
        try:
            sock = await join(interface, key[2])
        except OSError as error:
            self._failed(key, error)
            return
        membership = self._memberships[key] = _Membership(interface, key[2], sock, own)
        self._fence.spawn(nursery, "mdns", self._serve, key, membership)

    async def _serve(self, key: _Key, membership: _Membership) -> None:
        try:
            with membership.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear, key, membership)
                    nursery.start_soon(self._ask, key, membership)
                    nursery.start_soon(self._answer, key, membership)
        finally:
            if membership.last_answer > 0:
                with trio.move_on_after(LAST_WORDS, shield=True):
                    await self._send(key, membership, goodbye(self._name))
            membership.sock.close()
            del self._memberships[key]

    def _failed(self, key: _Key, error: OSError) -> None:
        """Leave an interface that failed. It may have gone, or its IPv6 address may not be ready yet; the next scan
        tries again."""
        if error.errno == errno.EADDRNOTAVAIL or key not in self._wanted():
            log.debug("mDNS cannot use the interface", interface=key[0], error=in_words(error))
        else:
            self._complain(key, in_words(error))

    def _complain(self, key: _Key | None, reason: str) -> None:
        """Report a failure once, until it works again or fails in another way. Having no interface is not a failure."""
        if self._complaints.get(key) == reason:
            return
        self._complaints[key] = reason
        if key is None:
            log.info("mDNS is idle", reason=reason)
        else:
            log.warning("mDNS does not work; trying again", interface=key[0], ip_version=key[2], reason=reason)

    # ----------------------------------------------------------------------------------------------------------------
    # Speaking

    async def _ask(self, key: _Key, membership: _Membership) -> None:
        pause = FIRST_ASK
        await trio.sleep(random.uniform(*HESITATION))
        while True:
            await self._send(key, membership, question())
            membership.wanted.set()  # peers that have not asked hear of us too
            with trio.move_on_after(pause):
                await membership.changed.wait()
                membership.changed = trio.Event()
                pause = FIRST_ASK / 2
            pause = min(2 * pause, LAST_ASK)

    async def _answer(self, key: _Key, membership: _Membership) -> None:
        while True:
            await membership.wanted.wait()
            earliest = membership.last_answer + ANSWER_GAP
            await trio.sleep_until(max(trio.current_time() + random.uniform(*HESITATION), earliest))
            membership.wanted = trio.Event()
            if membership.own:
                await self._send(key, membership, answer(self._name, membership.own))
                membership.last_answer = trio.current_time()
            if membership.services_wanted:
                membership.services_wanted = False
                await self._send(key, membership, services())

    async def _send(self, key: _Key, membership: _Membership, packet: bytes) -> None:
        try:
            await membership.sock.sendto(packet, group(membership.interface, membership.version))
        except OSError as error:
            self._count["send_failed"] += 1
            self._failed(key, error)
        else:
            self._count["sent"] += 1
            if self._complaints.pop(key, None) is not None:
                log.info("mDNS works again", interface=key[0], ip_version=key[2])

    # ----------------------------------------------------------------------------------------------------------------
    # Hearing

    async def _hear(self, key: _Key, membership: _Membership) -> None:
        while True:
            try:
                packet, _ = await membership.sock.recvfrom(MAX_PACKET)
            except OSError as error:
                self._failed(key, error)
                membership.scope.cancel()
                return
            self._count["received"] += 1
            with self._fence.around("mdns"):
                message = read(packet)
                if message is None:
                    self._count["garbage"] += 1
                else:
                    self._take(membership, message)
            if (delay := membership.delay()) > 0:
                self._count["throttled"] += 1
                await trio.sleep(delay)

    def _take(self, membership: _Membership, message: Message) -> None:
        if SERVICES in message.asked:
            membership.services_wanted = True
        if membership.services_wanted or self._name.is_asked_by(message):
            membership.wanted.set()
        for name in message.gone:
            self._nearby.left(name)
        for offer in message.offers:
            addresses = [str(address) for address in belonging(offer.addresses, membership.networks)]
            if self._nearby.heard(offer.name, offer.peer_id, addresses, offer.ttl, trio.current_time()):
                log.debug("peer found", peer=offer.peer_id, addresses=addresses, interface=membership.interface.name)
                self._wake()

    # ----------------------------------------------------------------------------------------------------------------
    # Dialling

    async def _dial_nearby(self, nursery: trio.Nursery) -> None:
        while True:
            poke, now = self._poke, trio.current_time()
            self._nearby.expire(now)
            room = min(MAX_DIALS, self._connections.room()) - self._dials
            for peer_id in self._nearby.due(now, self._connections.peer_ids(), room):
                self._dials += 1
                self._fence.spawn(nursery, "dial", self._dial, peer_id, self._nearby.begin(peer_id, now))
            with trio.move_on_at(max(now + 1.0, min(self._nearby.next_due(), now + 30.0))):
                await poke.wait()

    async def _dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        connected = False
        try:
            if not self._connections.links(peer_id) and not self._connections.refusal(None, peer_id):
                await self._connections.dial(peer_id, addresses, NEARBY)
            connected = bool(self._connections.links(peer_id))
        except NoneConnected as failed:
            log.debug("dial failed", peer=peer_id, error=str(failed))
        finally:
            self._dials -= 1
            self._nearby.end(peer_id, trio.current_time(), connected=connected)
            self._wake()

    def _wake(self) -> None:
        self._poke.set()
        self._poke = trio.Event()
