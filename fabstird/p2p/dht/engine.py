"""The DHT of a running node: asks other nodes, answers them, and keeps its routing table alive.

A thin shell: `lookup` decides whom to ask, `server` what to answer, `routing` whom to know; `commands` has what users
ask.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import base58
import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import IOException
from multiaddr import Multiaddr

from fabstir_client.types_dht import DhtMode, DhtModeChanged
from fabstird.config import DhtConfig
from fabstird.events import EventLog
from fabstird.log import get_logger
from fabstird.p2p.addresses import AddressError, parse
from fabstird.p2p.book import Book
from fabstird.p2p.connections import Connections
from fabstird.p2p.dht.kept import MAX_KEPT, Kept
from fabstird.p2p.dht.lookup import Lookup
from fabstird.p2p.dht.messages import MAX_MESSAGE, PROTOCOL, Kind, Message, MessageError, Peer, decode, encode
from fabstird.p2p.dht.records import MAX_PROVIDED, MAX_VALUES, Providers, Refused, Values
from fabstird.p2p.dht.routing import BITS, K, RoutingTable
from fabstird.p2p.dht.server import MAX_SENT, Server
from fabstird.p2p.framing import frame, read_framed, read_message
from fabstird.p2p.host import DialError, DialLimit, Host, PeerInfo, ProtocolUnsupported, StreamError
from fabstird.p2p.race import NoneConnected, race

log = get_logger("p2p.dht")

ASK = 10.0  # seconds for one peer to be reached and to answer
IDLE = 60.0  # seconds that a stream to us may be silent
MAX_STREAMS = 64  # that others have open to us at a time
PER_PEER = 8  # of one peer
MAX_HINTS = 4096  # peers whose addresses others have told
REFRESH = 600.0  # seconds between two refreshes of the table; the specification's ten minutes
SETTLE = 0.5  # seconds after a newcomer until it is asked for others
EAGER = 5.0  # seconds between two refreshes that newcomers cause, while the table is small
REVIEW = 60.0  # seconds between two looks at what is due, and at what is said of our reachability
SWEEP = 300.0  # seconds between two looks at what has expired
STRAY = 3  # refreshes towards random keys, beside the one towards our own

Take = Callable[[bytes, Message], bool]


class AskFailed(Exception):
    """A peer did not answer; the message says why. ``reached`` where it was connected."""

    def __init__(self, words: str, *, reached: bool) -> None:
        super().__init__(words)
        self.reached = reached


class Engine:
    """Runs in `run`, for one run of the node."""

    def __init__(
        self,
        host: Host,
        connections: Connections,
        book: Book,
        events: EventLog,
        kept: Kept,
        settings: DhtConfig,
        confirmed: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """``confirmed``: what those say who have dialled us back on purpose; None where nobody has."""
        self.host = host
        self.kept = kept
        self.settings = settings
        self.mode: DhtMode = "client"
        self.own_id = to_bytes(host.peer_id)
        self.table = RoutingTable(self.own_id)
        self.values = Values(self.own_id, settings.max_value_bytes)
        self.providers = Providers(self.own_id)
        self.server = Server(self.table, self.values, self.providers, self.addresses, kept.provides)
        self.lookups = 0
        self.asked = 0
        self.failed = 0
        self.malformed = 0
        self._connections = connections
        self._book = book
        self._events = events
        self._confirmed = confirmed
        self._hints: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._serving: dict[bytes, int] = {}
        self._newcomer = trio.Event()
        self._arrivals = 0  # peers that have come into the table
        connections.watchers.append(self._identified)
        for link in host.links():
            info = host.info(link.peer_id)
            if info is not None:
                self._identified(link.peer_id, info)

    # ----------------------------------------------------------------------------------------------------------------
    # The background: one task, ended with the node

    async def run(self, republish: Callable[[], Awaitable[None]]) -> None:
        """Keep the table alive and announce again what is due, by ``republish``, until cancelled."""
        if self.settings.mode == "server":
            self._become("server")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refresh)
            nursery.start_soon(self._sweep)
            while True:
                self._review()
                if len(self.table):
                    await republish()
                with trio.move_on_after(REVIEW):
                    await self._newcomer.wait()
                    await trio.sleep(SETTLE)

    async def _refresh(self) -> None:
        """Look ourselves up: at once when somebody is there to be asked, soon after newcomers while we know few, and
        every ten minutes in any case."""
        seen = 0
        while True:
            with trio.move_on_after(REFRESH) as regular:
                while seen == self._arrivals:
                    await self._newcomer.wait()
                await trio.sleep(SETTLE)
            seen = self._arrivals
            if len(self.table):
                began = trio.current_time()
                await self._walk_background(self.own_id)
                if regular.cancelled_caught:
                    for _ in range(STRAY):
                        await self._walk_background(os.urandom(BITS // 8))
                    await self._check_stale(began - 2 * REFRESH)
            await trio.sleep(EAGER)

    async def _walk_background(self, target: bytes) -> None:
        with trio.move_on_after(60):
            await self.walk(target, Message(Kind.FIND_NODE, target), lambda _, __: False, background=True)

    async def _check_stale(self, before: float) -> None:
        for peer in self.table.stale(before)[:K]:
            if not self.host.links(to_text(peer)):
                try:
                    await self.ask(peer, Message(Kind.FIND_NODE, self.own_id), background=True)
                except AskFailed:
                    self.table.remove(peer)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP)
            self.values.sweep(time.time())
            self.providers.sweep(time.time())

    # ----------------------------------------------------------------------------------------------------------------
    # Who is there, and whether we can be reached

    def _identified(self, peer_id: str, info: PeerInfo) -> None:
        peer = to_bytes(peer_id)
        if PROTOCOL in info.protocols:
            self._join(peer)
        elif info.protocols:  # a push may leave them out
            self.table.remove(peer)
        if self.settings.mode == "auto" and self.mode == "client" and self._reachable(peer_id, info):
            self._become("server")

    def _join(self, peer: bytes) -> None:
        new = peer not in self.table
        if self.table.add(peer, trio.current_time(), self._network(peer)) and new and len(self.table) <= K:
            self._arrivals += 1
            self._newcomer.set()
            self._newcomer = trio.Event()

    def _network(self, peer: bytes) -> str | None:
        for link in self.host.links(to_text(peer)):
            ip = ipaddress.ip_address(link.pipe.remote.host)
            if ip.is_global:
                return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))
        return None

    def _reachable(self, peer_id: str, info: PeerInfo) -> bool:
        """What we know before anybody has dialled us back: a peer has come by itself; or it sees us at an address that
        is our own, so that there is no translation between us."""
        if self._confirmed() is False:
            return False
        if any(link.direction_text == "inbound" and not link.relayed for link in self.host.links(peer_id)):
            return True
        seen = _host_of(info.observed) if info.observed else None
        return seen is not None and any(_host_of(address) == seen for address in self.host.listen_addresses())

    def _review(self) -> None:
        """What the operator says of where we are counts most, then what those say who have dialled us back."""
        if self.settings.mode != "auto":
            return
        if self.mode == "client" and (self.host.announces_given or self._confirmed()):
            self._become("server")
        elif self.mode == "server" and not self.host.announces_given and self._confirmed() is False:
            self._become("client")

    def _become(self, mode: DhtMode) -> None:
        self.mode = mode
        if mode == "server":
            self.host.set_stream_handler(PROTOCOL, self._serve)
        else:
            self.host.remove_stream_handler(PROTOCOL)
        self.host.tell_peers()
        self._events.publish(DhtModeChanged(mode=mode))

    # ----------------------------------------------------------------------------------------------------------------
    # Asking

    async def walk(
        self, target: bytes, message: Message, take: Take, *, background: bool = False, alpha: int | None = None
    ) -> Lookup:
        """Ask the closest peers to ``target``, closer and closer ones, with ``message``; ``take`` is handed each answer
        and ends the walk by returning True. The caller brings the deadline."""
        lookup = Lookup(target, self.own_id, self.table.closest(target), **({"alpha": alpha} if alpha else {}))
        self.lookups += 1
        changed = trio.Event()

        async def one(peer: bytes) -> None:
            nonlocal changed
            try:
                answer = await self.ask(peer, message, background=background)
            except AskFailed as error:
                log.debug("no answer", peer=to_text(peer), error=str(error))
                lookup.failed(peer)
            else:
                local = self.is_local(peer)
                lookup.answered(peer, [one.id for one in answer.closer if self.hint(one, local=local)])
                if take(peer, answer):
                    nursery.cancel_scope.cancel()
            changed.set()

        async with trio.open_nursery() as nursery:
            while True:
                changed = trio.Event()
                for peer in lookup.due():
                    nursery.start_soon(one, peer)
                if lookup.done:
                    break
                await changed.wait()
        return lookup

    async def ask(self, peer: bytes, message: Message, *, background: bool = False, answers: bool = True) -> Message:
        """One message to one peer, and its answer; without ``answers`` none is waited for, and ``message`` is returned.
        A peer that does not answer leaves the table. Raises `AskFailed`."""
        self.asked += 1
        peer_id = to_text(peer)
        try:
            with trio.fail_after(ASK):
                if not self.host.links(peer_id):
                    await self._reach(peer, peer_id, background=background)
                async with self.host.stream(peer_id, PROTOCOL) as stream:
                    # Our side stays open until the answer is here: js-libp2p resets a stream that has ended, right
                    # behind its answer, and with the reset goes what has not been read
                    await stream.write(frame(encode(message), "uvarint"))
                    answer = decode(await read_message(stream, "uvarint", MAX_MESSAGE)) if answers else message
        except (StreamError, DialError, trio.TooSlowError) as error:
            self.failed += 1
            if isinstance(error.__cause__, MessageError):
                self.malformed += 1
            reached = bool(self.host.links(peer_id))
            if not reached or isinstance(error, ProtocolUnsupported | trio.TooSlowError):
                self.table.remove(peer)
            words = str(error) or f"no answer within {ASK:g} s"
            raise AskFailed(words, reached=reached) from error
        self._join(peer)
        return answer

    async def _reach(self, peer: bytes, peer_id: str, *, background: bool) -> None:
        """Raises `DialError`."""
        if background and self._connections.room() <= 0:
            raise DialError("there are connections enough", "limit")
        addresses = list(dict.fromkeys([*self._book.addresses(peer_id), *self._hints.get(peer, ())]))
        if not addresses:
            raise DialError("no address of it is known", "no name")
        try:
            await race(
                addresses[:MAX_SENT],
                lambda address: self._connections.dial(address, peer_id),
                expected=DialError,
                final=DialLimit,
                spare=lambda link: link.end("duplicate"),
            )
        except NoneConnected as failed:
            raise DialError(str(failed), "failed") from failed

    def hint(self, peer: Peer, *, local: bool) -> bool:
        """Remember where a peer is, as somebody tells it; whether it may be there. An address that has its meaning on
        the teller's machine only is taken from a neighbour on ours (``local``) alone."""
        if peer.id == self.own_id:
            return False
        if self.host.links(to_text(peer.id)):
            return True
        found = [address for packed in peer.addresses[:MAX_SENT] if (address := to_address(packed)) is not None]
        usable = tuple(f"{one}/p2p/{to_text(peer.id)}" for one in found if local or not _is_loopback(one))
        if usable:
            self._hints[peer.id] = usable
            self._hints.move_to_end(peer.id)
            while len(self._hints) > MAX_HINTS:
                self._hints.popitem(last=False)
        return bool(usable) or bool(self._book.addresses(to_text(peer.id)))

    def known_addresses(self, peer: bytes) -> list[str]:
        """With ``/p2p/``: what the peer told itself or we have dialled, else what others tell."""
        return self._book.addresses(to_text(peer)) or list(self._hints.get(peer, ()))

    def is_local(self, peer: bytes) -> bool:
        links = self.host.links(to_text(peer))
        return any(ipaddress.ip_address(link.pipe.remote.host).is_loopback for link in links)

    # ----------------------------------------------------------------------------------------------------------------
    # Answering

    async def _serve(self, stream: INetStream) -> None:
        """One stream of another node: any number of messages, one after another."""
        sender = stream.muxed_conn.peer_id.to_bytes()
        if sum(self._serving.values()) >= MAX_STREAMS or self._serving.get(sender, 0) >= PER_PEER:
            raise IOException("too many streams of the DHT")
        self._serving[sender] = self._serving.get(sender, 0) + 1
        try:
            while True:
                with trio.fail_after(IDLE):
                    data = await read_framed(stream, MAX_MESSAGE)
                if data is None:
                    await stream.close()
                    return
                try:
                    answer = self.server.answer(sender, decode(data), time.time())
                except (MessageError, Refused) as error:
                    self.malformed += isinstance(error, MessageError)
                    raise IOException(str(error)) from error  # "on any error, the stream is reset"
                if answer is not None:
                    with trio.fail_after(ASK):
                        await stream.write(frame(encode(answer), "uvarint"))
        finally:
            self._serving[sender] -= 1
            if not self._serving[sender]:
                del self._serving[sender]

    def addresses(self, peer: bytes) -> tuple[bytes, ...]:
        """Addresses as they stand in messages: ours that we announce, others' as we know them."""
        known = self.host.announced_addresses() if peer == self.own_id else self.known_addresses(peer)
        return tuple(packed for address in known if (packed := _packed(address)) is not None)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {
            "dhtPeers": (len(self.table), K * BITS),
            "dhtAddresses": (len(self._hints), MAX_HINTS),
            "dhtValues": (len(self.values), MAX_VALUES),
            "dhtProviders": (len(self.providers), MAX_PROVIDED),
            "dhtStreams": (sum(self._serving.values()), MAX_STREAMS),
            "dhtKept": (len(self.kept), MAX_KEPT),
        }


# --------------------------------------------------------------------------------------------------------------------
# Ids and addresses, as bytes and as text


def to_text(peer: bytes) -> str:
    return base58.b58encode(peer).decode()


def to_bytes(peer_id: str) -> bytes:
    return base58.b58decode(peer_id)


@functools.lru_cache(maxsize=8192)
def to_address(packed: bytes) -> str | None:
    """An address of a message, without ``/p2p/``; None where this node cannot dial it."""
    try:
        return str(parse(str(Multiaddr(packed))).bare)
    except AddressError:
        return None
    except Exception:  # noqa: BLE001 - multiaddr raises whatever its codecs do, and a peer chooses the bytes
        return None


@functools.lru_cache(maxsize=8192)
def _packed(address: str) -> bytes | None:
    try:
        return bytes(parse(address).bare.multiaddr.to_bytes())
    except AddressError:
        return None


def _host_of(address: str) -> str | None:
    try:
        return parse(address).host
    except AddressError:
        return None


def _is_loopback(address: str) -> bool:
    found = parse(address)
    try:
        return ipaddress.ip_address(found.host).is_loopback
    except ValueError:
        return found.host == "localhost"
