"""One run of the node, from its first socket to its last: the parts it consists of, and what all runs share.

Everything here needs libp2p, which takes longer to import than the rest of the daemon, so only `node` imports this
module, and late.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from fabstir_client.api.errors import FeatureDisabled, ListenFailed
from fabstir_client.api.streams import Framing, OpenedStream
from fabstir_client.api.types import Addresses, Peer, PortMapping
from fabstird import __version__
from fabstird.config import Config, ConnectionsConfig, NodeConfig
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters, Totals
from fabstird.p2p.dht.commands import DhtCommands
from fabstird.p2p.dht.engine import Engine
from fabstird.p2p.dht.republish_store import Kept
from fabstird.p2p.fabstir.directory import Directory
from fabstird.p2p.fence import Fence
from fabstird.p2p.host.host import Host, HostSettings, Limits, ListenError, Liveness
from fabstird.p2p.mdns.discovery import Mdns
from fabstird.p2p.messaging.messages import Reply, request
from fabstird.p2p.messaging.protocols import Protocols, opened
from fabstird.p2p.nat.autonat import AutoNat
from fabstird.p2p.nat.autonat_service import AutoNatService, listens_outward
from fabstird.p2p.nat.direct import Direct
from fabstird.p2p.nat.portmap.mapper import PortMapper
from fabstird.p2p.nat.punching import Punching
from fabstird.p2p.nat.relay import Relays
from fabstird.p2p.nat.relay_places import Places
from fabstird.p2p.nat.relay_service import RelayService, worth
from fabstird.p2p.peers import network_watch
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.commands import Commands
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.keepalive import keep_in_use
from fabstird.p2p.peers.known import try_known
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.peers.nearby import NEVER, Nearby
from fabstird.p2p.ports import FILE as PORTS_FILE
from fabstird.p2p.ports import Ports
from fabstird.p2p.streams.ledger import Stream
from fabstird.p2p.streams.opening import open_to
from fabstird.p2p.transport.sockets import Doors
from fabstird.p2p.tunnels.manager import Tunnels
from fabstird.p2p.tunnels.store import FILE as TUNNELS_FILE
from fabstird.p2p.view import View
from fabstird.p2p.wire.ips import to_network
from fabstird.threads import on_disk

if TYPE_CHECKING:
    from fabstird.p2p.transport.secure import ServerCertificate


class Shared:
    """What all runs share: what peers and users have left behind, and what users may ask in any state. ``limits`` are
    those in effect."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        events: EventLog,
        counters: Counters,
        book: Book,
        history: History,
        fence: Fence,
    ) -> None:
        self.config = config
        self.fence = fence
        self.identity = identity
        self.events = events
        self.counters = counters
        self.book = book
        self.history = history
        self.limits = config.connections
        self.commands = Commands(identity.peer_id, book, history)
        self.protocols = Protocols(config.streams, counters.streams)
        path = book.path.with_name(TUNNELS_FILE)
        self.tunnels = Tunnels(path, self.protocols.handlers, self.protocols.ledger, self.commands, config, fence)
        self.has_run = False  # whether a node has run since the daemon was started
        self._kept: Kept | None = None
        self._certificate: ServerCertificate | None = None

    async def kept(self) -> Kept:
        """The DHT records of users, read when the DHT is first switched on."""
        if self._kept is None:
            kept = Kept(self.book.path.with_name("dht.json"))
            await on_disk(kept.load)
            self._kept = kept
        return self._kept

    async def doors(self, listen: tuple[str, ...]) -> Doors:
        """What listeners at these addresses need in the next run. Raises `ListenFailed`."""
        self._certificate = None  # that of the run before
        networks = (to_network(text) for text in self.config.proxy.trusted)
        trusted = tuple(network for network in networks if network is not None)
        files, secure = self.config.tls, [text for text in listen if "/tls/" in text or "/wss" in text]
        if not secure or not (files.certificate and files.key):
            return Doors(trusted)
        from fabstird.p2p.transport.secure import CertificateError, ServerCertificate

        certificate = ServerCertificate(Path(files.certificate), Path(files.key))
        try:
            await on_disk(certificate.load)
        except CertificateError as error:
            raise ListenFailed(
                f"cannot listen on {secure[0]}: {error}", address=secure[0], reason=str(error)
            ) from error
        self._certificate = certificate
        return Doors(trusted, certificate)

    def reload_certificate(self) -> None:
        """Read the files of ``[tls]`` again, if they are in use. It blocks. Raises `CertificateError`; the old
        certificate then stays."""
        if self._certificate is not None:
            self._certificate.load()


class Run(View):
    """The parts of a running node; made by `running`."""

    def __init__(
        self,
        shared: Shared,
        settings: NodeConfig,
        host: Host,
        connections: Connections,
        kept: Kept | None,
        places: Places | None,
    ) -> None:
        """Compose the parts. ``kept`` is None where the DHT is off, ``places`` where this node is no relay."""
        self.shared = shared
        self.settings = settings
        self.host = host
        self.connections = connections
        self.commands = shared.commands
        self.autonat = AutoNat(host, shared.counters)
        if listens_outward(host) or host.announces_given:
            self.autonat.start()
        self.relays = Relays(host, connections, shared.config.relay.nodes, self.autonat.is_private)
        self.relay_service: RelayService | None = None
        if places is not None:
            self.relay_service = RelayService(host, places, shared.config.relay, shared.counters)
            self.relay_service.start()
        self.autonat_service: AutoNatService | None = None
        if shared.config.nat.autonat_service and listens_outward(host):
            self.autonat_service = AutoNatService(host, settings.security, shared.counters)
            self.autonat_service.start()
        punching: Punching | None = None
        if host.swarm.outbound.punching:
            punching = Punching(host, connections, shared.counters, shared.history)
            host.swarm.outbound.lasting = connections.lasting
        self.direct = Direct(host, connections, shared.events, shared.counters, shared.history, punching)
        self.port_mapper: PortMapper | None = None
        if shared.config.nat.port_mapping:
            self.port_mapper = PortMapper(host, shared.events, shared.identity.seed)
        self.mdns = Mdns(host, connections, shared.counters) if settings.enable_mdns else None
        self._dht: DhtCommands | None = None
        self._directory: Directory | None = None
        if kept is not None:
            engine = Engine(
                host,
                connections,
                shared.book,
                shared.events,
                kept,
                shared.config.dht,
                shared.counters,
                self.autonat.verdict,
                self.autonat.may_tell,
            )
            self._dht = DhtCommands(engine, shared.book, shared.events, settings.request_timeout)
            self._directory = Directory(self._dht)
        self._network = trio.Event()  # set when the machine's network changes
        self._began = int(time.time() * 1000)  # ms, wall clock
        self._opened = trio.current_time()  # s, monotonic clock

    async def serve(self) -> None:
        """Run everything in the background, until cancelled."""
        async with trio.open_nursery() as nursery:
            keep = partial(self.shared.fence.keep, nursery)
            if self._dht is not None:
                keep("dht", self._dht.engine.run, self._dht.announcer.republish)
            keep("book", self.shared.book.keep_saved)
            keep("keepalive", keep_in_use, self.host, lambda: self.shared.limits.idle_refresh / 1000)
            if self.mdns is not None:
                keep("mdns", self.mdns.run)
            keep("network", network_watch.watch, self._network_changed)
            first, self.shared.has_run = not self.shared.has_run, True
            known = partial(try_known, self.connections, self.shared.book, lambda: self._network, at_once=first)
            keep("dial", known)
            keep("autonat", self.autonat.run)
            keep("relay", self.relays.run)
            keep("relay", self.direct.run)
            if self.port_mapper is not None:
                keep("portmap", self.port_mapper.run)
            await self.connections.run(self.host)

    def _network_changed(self) -> None:
        """Begin waiting dials, check links, tell peers our new addresses, and ask the router for mappings."""
        self.connections.refresh()
        self.host.tell_peers()
        if self.port_mapper is not None:
            self.port_mapper.network_changed()
        self._network.set()
        self._network = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # For the API

    def dht(self) -> DhtCommands:
        """The DHT. Raises `FeatureDisabled`."""
        if self._dht is None:
            raise FeatureDisabled("the DHT is switched off: node.enable_dht is false", configKey="node.enable_dht")
        return self._dht

    def directory(self) -> Directory:
        """The Fabstir scheme on the DHT. Raises `FeatureDisabled`."""
        self.dht()
        assert self._directory is not None
        return self._directory

    async def request(self, peer: str, protocol: str, data: bytes, framing: Framing, timeout: int) -> Reply:
        """As `messages.request`."""
        limits = self.shared.config.streams
        return await request(self.host, self.commands, limits, peer, protocol, data, framing, timeout)

    async def open_stream(
        self, peer: str, protocols: list[str], timeout: int, identity: object
    ) -> tuple[Stream, OpenedStream]:
        """As `opening.open_to`; returns the stream and its description."""
        ledger = self.shared.protocols.ledger
        stream = await open_to(self.host, self.commands, ledger, peer, protocols, timeout, identity)
        return stream, opened(stream)

    def set_limits(self, limits: ConnectionsConfig) -> None:
        """Apply new limits of ``[connections]``."""
        self.host.set_limits(host_limits(limits))
        self.connections.set_limits(limits)

    # ----------------------------------------------------------------------------------------------------------------
    # State

    @property
    def started_at(self) -> int | None:
        return self._began

    @property
    def uptime(self) -> int | None:
        return int((trio.current_time() - self._opened) * 1000)

    def peers(self) -> list[Peer]:
        return self.connections.peers()

    def peer_ids(self) -> list[str]:
        return self.connections.peer_ids()

    def peer_count(self) -> int:
        return self.connections.peer_count()

    def connection_count(self) -> int:
        return self.connections.count()

    def dials(self) -> tuple[int, int]:
        return self.connections.dials()

    def dial_cycles(self) -> Counter[str]:
        return Counter(cycle.phase for cycle in self.connections.cycles())

    def silence(self) -> float:
        return self.connections.silence()

    def listen_addresses(self) -> list[str]:
        return self.host.listen_addresses()

    def announced_addresses(self) -> list[str]:
        return self.host.announced_addresses()

    def addresses(self) -> Addresses:
        return Addresses(
            peer_id=self.host.peer_id,
            listen=self.host.listen_addresses(),
            announced=self.host.announced_addresses(),
            observed=self.host.observed_addresses(),
            reachability=self.autonat.addresses(),
            port_mapping=self.port_mapper.standing() if self.port_mapper is not None else PortMapping(state="off"),
        )

    def protocols(self) -> list[str]:
        return self.host.protocols()

    def totals(self) -> Totals:
        return self.host.totals()

    def bounds(self) -> dict[str, tuple[int, int]]:
        engine = self._dht.engine if self._dht is not None else None
        swarm = self.host.swarm
        nat = (self.relays, self.direct, self.relay_service, self.autonat, self.autonat_service)
        network = (swarm.links.memory, swarm.inbound.arrivals, swarm.quic)
        parts = (*network, *nat, self.port_mapper, self.mdns, engine, self._directory)
        return {name: bound for part in parts if part is not None for name, bound in part.bounds().items()}


@asynccontextmanager
async def running(shared: Shared, settings: NodeConfig) -> AsyncIterator[Run]:
    """Open the host, with every part ready for `Run.serve`. On leaving, the host closes in order, and nothing is left.
    Raises `ListenFailed`."""
    keepalive = settings.keepalive_interval
    nearby = Nearby(shared.identity.peer_id, rest=keepalive / 1000 if keepalive else NEVER)
    relay = shared.config.relay
    places = Places(relay.max_reservations, relay.max_circuits) if relay.serve else None
    connections = Connections(
        settings,
        shared.limits,
        shared.events,
        shared.counters,
        shared.book,
        shared.history,
        nearby,
        worth=partial(worth, places) if places is not None else None,
    )
    ports = Ports(shared.book.path.with_name(PORTS_FILE))
    await ports.load()
    wanted = HostSettings(
        seed=shared.identity.seed,
        agent=f"fabstird/{__version__}",
        limits=host_limits(shared.limits),
        listen=settings.listen_addresses,
        announce=settings.announce_addresses,
        append=settings.announce_append,
        ports=ports.known(),
        security=settings.security,
        doors=await shared.doors(settings.listen_addresses),
        punching=shared.config.nat.hole_punching,
    )
    try:
        async with Host.open(wanted, observer=connections, gate=connections, fence=shared.fence) as host:
            await ports.keep(host.chosen_ports())
            kept = await shared.kept() if settings.enable_dht else None
            run = Run(shared, settings, host, connections, kept, places)
            shared.protocols.attach(host)
            shared.commands.attach(connections)
            shared.tunnels.attach(host)
            try:
                yield run
            finally:
                shared.tunnels.detach()
                shared.protocols.detach()
                shared.commands.detach()
    except ListenError as error:
        raise ListenFailed(str(error), address=error.address, reason=error.reason) from error


def host_limits(config: ConnectionsConfig) -> Limits:
    liveness = Liveness(config.ping_interval / 1000, config.ping_timeout / 1000)
    return Limits(config.max, config.max_per_ip, config.handshake_timeout / 1000, liveness, config.max_new_per_ip)
