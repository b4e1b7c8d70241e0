"""The host: while it is open, it listens, dials and accepts; once closed, it leaves nothing behind.

Everything above it uses peer ids and multiaddrs as text, `Link`, `Stream` and `DialError`. A host is used once: each
start of the node opens a new one with the same key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from fabstird.metrics.counters import Totals
from fabstird.p2p.fence import Fence
from fabstird.p2p.host import ping
from fabstird.p2p.host.identify import Identify
from fabstird.p2p.host.identify_message import PeerInfo
from fabstird.p2p.host.opening import ProtocolUnsupported, StreamError
from fabstird.p2p.host.streams import Handler, Refuse, Streams
from fabstird.p2p.muxer.pulse import Liveness
from fabstird.p2p.net.admission import Gate, Limits
from fabstird.p2p.net.circuit import RelayPipe
from fabstird.p2p.net.dial_errors import DialError, DialLimit
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.links import Links
from fabstird.p2p.net.resolve import ResolveError
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.net.swarm import Swarm
from fabstird.p2p.security.handshakes import Handshakes
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.transport.sockets import Doors, ListenError
from fabstird.p2p.wire import peer_ids
from fabstird.p2p.wire.addresses import Address, AddressError, bare_text, expand, pack, parse
from fabstird.p2p.wire.ips import reach, to_ip

MAX_OBSERVED = 16  # observed addresses that are reported
INTERFACES_KEPT = 1.0  # seconds that the addresses of interfaces are cached: asking the kernel takes 0.1 ms


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How to open a host. ``seed`` is the Ed25519 private key; addresses are multiaddr texts; ``security`` is as in
    `Handshakes`; ``doors`` configures the listeners."""

    seed: bytes
    agent: str
    limits: Limits
    listen: tuple[str, ...] = ()
    ports: Mapping[str, Sequence[int]] = field(default_factory=dict)  # to listen on where an address has port 0
    announce: tuple[str, ...] = ()  # instead of the addresses found
    append: tuple[str, ...] = ()  # in addition to them
    security: tuple[str, ...] = ("noise",)
    doors: Doors = field(default_factory=Doors)
    punching: bool = False  # as in `Outbound`


class HostObserver(Protocol):
    """Called with what happens to connections, synchronously and in order. It must neither block nor raise."""

    def connected(self, link: Link) -> None: ...

    def disconnected(self, link: Link) -> None: ...

    def identified(self, link: Link, info: PeerInfo) -> None: ...


class Host:
    """A running host; made by `Host.open` only."""

    def __init__(self, settings: HostSettings, observer: HostObserver, gate: Gate | None, fence: Fence) -> None:
        key = NodeKey(settings.seed)
        self.peer_id = key.peer_id
        self._key = key
        self.fence = fence
        self.streams = Streams()
        handshakes = Handshakes(key, settings.security)
        links = Links(key.peer_id, handshakes, settings.limits, self, gate, self.streams.serve, fence)
        self.swarm = Swarm(links, key, settings.doors)
        self.swarm.outbound.punching = settings.punching
        self._observers = [observer]
        self._announced = [_announced(text) for text in settings.announce]
        self._appended = [_announced(text) for text in settings.append]
        self._mapped: list[str] = []  # without peer id, which the router forwards to us
        # Without peer id: addresses of ours that are not listened on, and addresses of ours that nobody can reach
        self._confirmed: tuple[str, ...] = ()
        self._unreachable: tuple[str, ...] = ()
        self._relayed: list[str] = []  # addresses through relays, with our peer id
        self._listening: tuple[list[Address], float, list[Address]] = [], 0, []
        self._named_of: list[Address] = []  # the addresses that `_names` belong to
        self._names: list[str] = []
        self._identify = Identify(key, settings.agent, self, self.streams, self._own_addresses, self._identified, fence)
        self.streams.handle(ping.PING, ping.Answers().answer)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: HostSettings, observer: HostObserver, gate: Gate | None = None, fence: Fence | None = None
    ) -> AsyncIterator[Host]:
        """Listen, and keep connections until the context is left. Then all of them are closed, concurrently, shielded
        and bounded, before it returns. Raises `ListenError`: it listens on all addresses or on none."""
        wanted = [_listen_address(text) for text in settings.listen]
        host = cls(settings, observer, gate, fence or Fence())
        async with host.swarm.serving(wanted, settings.ports), trio.open_nursery() as tasks:
            host.streams.tasks = tasks
            try:
                yield host
            finally:
                host.streams.tasks = None
                tasks.cancel_scope.cancel()

    # ----------------------------------------------------------------------------------------------------------------
    # What it is

    def listen_addresses(self) -> list[str]:
        """The actual interface addresses and ports, with ``/p2p/``, at most `INTERFACES_KEPT` old."""
        found = self._interfaces()
        if found is not self._named_of:
            self._named_of, self._names = found, [self._named(address) for address in found]
        return self._names.copy()

    def chosen_ports(self) -> list[tuple[str, int]]:
        """The listen addresses that have port 0, and the port of each."""
        return [(str(one.address), one.bound.port) for one in self.swarm.bound if not one.address.port]

    def announced_addresses(self) -> list[str]:
        """The addresses that identify sends to peers, with ``/p2p/``."""
        own = self._announced
        if not own:
            found = [*(str(address.bare) for address in self._interfaces()), *self._mapped_public(), *self._confirmed]
            own = [address for address in found if address not in self._unreachable]
        return [f"{address}/p2p/{self.peer_id}" for address in dict.fromkeys(own + self._appended)] + self._relayed

    def given_addresses(self) -> list[str]:
        """Those of them that the operator has configured: others can reach this node there."""
        return [f"{address}/p2p/{self.peer_id}" for address in dict.fromkeys(self._announced + self._appended)]

    def mapped_addresses(self) -> list[str]:
        """Those that the router forwards to this node."""
        return [f"{address}/p2p/{self.peer_id}" for address in self._mapped]

    def set_mapped_addresses(self, addresses: Sequence[str]) -> None:
        """Set the addresses that the router forwards to us, without ``/p2p/``. Public ones are announced."""
        self._mapped = list(addresses)
        self.tell_peers()

    def relay_addresses(self) -> list[str]:
        """The announced addresses that lead through a relay."""
        return self._relayed.copy()

    def set_checked(self, confirmed: Sequence[str], unreachable: Sequence[str]) -> None:
        """Set what AutoNAT found, without ``/p2p/``. Addresses in ``confirmed`` are announced along with those listened
        on, those in ``unreachable`` are not. What the operator has configured is not affected."""
        found = tuple(confirmed), tuple(unreachable)
        if found != (self._confirmed, self._unreachable):
            self._confirmed, self._unreachable = found
            self.tell_peers()

    def set_relay_addresses(self, addresses: Sequence[str]) -> None:
        """Set the addresses through relays, with ``/p2p/``."""
        self._relayed = list(addresses)
        self.tell_peers()

    def observed_addresses(self) -> list[str]:
        """The addresses at which connected peers see this node, without duplicates."""
        return [f"{address}/p2p/{self.peer_id}" for address in self._identify.observed()][:MAX_OBSERVED]

    def voucher(self, peer_id: str, expires: int) -> bytes:
        """As `NodeKey.sign_voucher`."""
        return self._key.sign_voucher(peer_ids.to_bytes(peer_id), expires)

    @property
    def announces_given(self) -> bool:
        """Whether the operator has configured where this node can be reached."""
        return bool(self._announced or self._appended)

    def protocols(self) -> list[str]:
        """The protocols that this node answers."""
        return self.streams.protocols()

    def links(self, peer_id: str | None = None) -> list[Link]:
        """Connections that are up, oldest first: all, or those to one peer."""
        return self.swarm.links.up(peer_id)

    def direct_link(self, peer_id: str) -> Link | None:
        """The oldest direct connection to a peer."""
        return self.swarm.links.direct(peer_id)

    def info(self, peer_id: str) -> PeerInfo | None:
        """What identify said about a connected peer; None until it has."""
        return self._identify.info(peer_id)

    def totals(self) -> Totals:
        """What this host has counted since it was opened."""
        links, inbound, said = self.swarm.links, self.swarm.inbound, self._identify
        datagrams = self.swarm.quic.counted()
        return Totals(
            handshakes_failed=inbound.handshakes_failed,
            refused_connections=inbound.refused,
            throttled_connections=inbound.throttled,
            quic_retries=datagrams["retries"],
            quic_dropped=datagrams["dropped"],
            stream_errors=links.stream_errors,
            bytes_received=links.traffic.received,
            bytes_sent=links.traffic.sent,
            identify_sent=said.sent,
            identify_received=said.received,
            identify_pushes_received=said.pushed,
        )

    def _mapped_public(self) -> list[str]:
        return [text for text in self._mapped if (ip := to_ip(parse(text).host)) is not None and reach(ip) == "global"]

    def _named(self, address: Address) -> str:
        return str(replace(address, peer_id=self.peer_id))

    def _interfaces(self) -> list[Address]:
        """The addresses listened on, with wildcards as one address for each interface."""
        bound = [listener.bound for listener in self.swarm.bound]
        known, until, found = self._listening
        if bound != known or trio.current_time() > until:
            found = [address for one in bound for address in expand(one)]
            self._listening = bound, trio.current_time() + INTERFACES_KEPT, found
        return found

    def _own_addresses(self) -> tuple[bytes, ...]:
        """Our addresses for identify: without the peer id, but with the relay's where they lead through one."""
        return tuple(pack(bare_text(text)) for text in self.announced_addresses())

    # ----------------------------------------------------------------------------------------------------------------
    # What it does

    def set_limits(self, limits: Limits) -> None:
        """Set the limits for connections from now on."""
        self.swarm.links.limits = limits

    def part_as(self, reason: str) -> None:
        """Set the reason of connections that end because this host closes."""
        self.swarm.links.parting = reason

    async def dial(self, text: str, *, timeout: float) -> Link:
        """Dial a multiaddr with ``/p2p/``, or a ``/dnsaddr``. Names are resolved first, and their addresses raced.
        ``timeout`` (seconds) bounds all of it. Raises `DialError`."""
        with _in_words(timeout):
            return await self.swarm.outbound.dial(parse(text))

    async def punch(self, text: str, *, timeout: float, initiator: bool) -> Link:
        """As `Outbound.punch`. ``timeout`` (seconds) bounds all of it. Raises `DialError`."""
        with _in_words(timeout):
            return await self.swarm.outbound.punch(parse(text), initiator=initiator)

    async def accept_circuit(self, pipe: RelayPipe) -> None:
        """Own an inbound connection through a relay; returns when it has ended."""
        await self.swarm.inbound.accept_circuit(pipe)

    async def close_peer(self, peer_id: str, reason: str = "closed") -> int:
        """Close every connection to the peer, concurrently. Returns how many there were."""
        links = self.links(peer_id)
        for link in links:
            link.end(reason)
        for link in links:
            await link.gone.wait()
        return len(links)

    async def ping(self, peer_id: str) -> float:
        """The round trip in milliseconds. The caller sets the deadline. Raises `StreamError`."""
        async with self.stream(peer_id, ping.PING) as stream:
            return await ping.ask(stream)

    def set_stream_handler(self, protocol: str, handler: Handler, refuse: Refuse | None = None) -> None:
        """As `Streams.handle`, and tell connected peers."""
        self.streams.handle(protocol, handler, refuse)
        self.tell_peers()

    def remove_stream_handler(self, protocol: str) -> None:
        """As `Streams.unhandle`, and tell connected peers."""
        self.streams.unhandle(protocol)
        self.tell_peers()

    def stream(self, peer_id: str, protocol: str, first: bytes = b"") -> AbstractAsyncContextManager[Stream]:
        """A stream to a connected peer on the best link, as `Streams.open`. Raises `StreamError`."""
        return self.streams.open(self.best_link(peer_id), protocol, first=first)

    def best_link(self, peer_id: str) -> Link:
        """The newest direct connection to a peer; without one, the newest through a relay. Raises `StreamError`."""
        links = self.links(peer_id)
        if not links:
            raise StreamError(f"not connected to {peer_id}")
        return max(links, key=lambda link: (not link.relayed, link.opened))

    def tell_peers(self) -> None:
        """Tell connected peers that this node's protocols or addresses have changed (identify push)."""
        self._identify.push_to_all(self.streams.tasks)

    async def identify_again(self, link: Link) -> None:
        """Ask a connected peer again. Only changes are reported."""
        await self._identify.ask(link, again=True)

    # ----------------------------------------------------------------------------------------------------------------
    # What the swarm tells it

    def observe(self, observer: HostObserver) -> None:
        """Call ``observer`` too, after those added earlier."""
        self._observers.append(observer)

    def connected(self, link: Link) -> None:
        for observer in self._observers:
            observer.connected(link)
        if self.streams.tasks is not None and self.info(link.peer_id) is None:
            self.fence.spawn(self.streams.tasks, "identify", self._identify.ask, link)

    def disconnected(self, link: Link) -> None:
        if not self.links(link.peer_id):
            self._identify.forget(link.peer_id)
        for observer in self._observers:
            observer.disconnected(link)

    def _identified(self, link: Link, info: PeerInfo) -> None:
        for observer in self._observers:
            observer.identified(link, info)


def _announced(text: str) -> str:
    """An address to announce, without the peer id. It may be any multiaddr: others may be able to dial what this node
    cannot, such as ``/tls/ws`` behind a proxy."""
    try:
        return bare_text(text)
    except AddressError as error:
        raise ListenError(text, str(error)) from error


def _listen_address(text: str) -> Address:
    try:
        address = parse(text).bare
    except AddressError as error:
        raise ListenError(text, str(error)) from error
    if address.relay:
        raise ListenError(text, "a relay is not listened on; it goes into [relay] nodes")
    return address


@contextmanager
def _in_words(timeout: float) -> Iterator[None]:
    """Bound a dial in time, and turn its errors into `DialError`."""
    try:
        with trio.fail_after(timeout):
            yield
    except AddressError as error:
        raise DialError(str(error), "bad address") from error
    except ResolveError as error:
        raise DialError(str(error), "no name") from error
    except trio.TooSlowError as error:
        raise DialError(f"timed out after {timeout * 1000:.0f} ms", "deadline") from error


__all__ = [
    "DialError",
    "DialLimit",
    "Handler",
    "Host",
    "HostObserver",
    "HostSettings",
    "Limits",
    "Link",
    "ListenError",
    "Liveness",
    "PeerInfo",
    "ProtocolUnsupported",
    "Stream",
    "StreamError",
]
