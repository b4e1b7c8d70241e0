"""The node: started, stopped and started again, any number of times, with one identity.

One task, `Node.run`, owns the host for as long as it is up; `start` and `stop` only say what is wanted and wait for it.
libp2p takes longer to import than all the rest, so it is imported by the first start, in a thread, and nothing here
imports it before (LAB.md, trap 16).
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fabstir_client.errors import (
    FabstirError,
    FeatureDisabled,
    InvalidParams,
    InvalidState,
    ListenFailed,
    NodeNotRunning,
)
from fabstir_client.types import Addresses, NodeStarted, NodeState, NodeStopped, Peer
from fabstird import __version__
from fabstird.config import Config, ConfigError, ConnectionsConfig, NodeConfig, override_node
from fabstird.datadir import write_whole
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.log import adopt_libraries, get_logger
from fabstird.metrics import Counters, Totals
from fabstird.p2p.bans import MAX_BANS
from fabstird.p2p.history import MAX_KEYS, History

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fabstir_client.types_streams import Framing, RequestResult, RespondResult
    from fabstird.p2p.autonat import AutoNat
    from fabstird.p2p.book import Book
    from fabstird.p2p.commands import Commands
    from fabstird.p2p.connections import Connections
    from fabstird.p2p.dht.commands import DhtCommands
    from fabstird.p2p.dht.kept import Kept
    from fabstird.p2p.host import Host, Limits
    from fabstird.p2p.market import Market
    from fabstird.p2p.mdns import Mdns
    from fabstird.p2p.relay import Relays
    from fabstird.p2p.streams import Protocols

log = get_logger("node")

SAVE_INTERVAL = 30.0  # seconds between two looks at whether known peers changed


@dataclass(slots=True)
class _Running:
    """What there is while the host is up."""

    host: Host
    connections: Connections
    mdns: Mdns | None
    relays: Relays
    autonat: AutoNat
    started_at: int  # ms, wall clock
    opened: float  # s, steady clock
    dht: DhtCommands | None = None
    market: Market | None = None


class Node:
    """State machine and owner of the host. Every method is for tasks of the same trio run."""

    def __init__(self, config: Config, identity: Identity, events: EventLog, counters: Counters, book: Book) -> None:
        self.state: NodeState = "stopped"
        self.error: str | None = None
        self.identity = identity
        self.settings = config.node  # of the current run, or of the last one
        self._base = config.node
        self._limits = config.connections
        self._relays = config.relay.nodes
        self._streams = config.streams
        self._dht = config.dht
        self._kept: Kept | None = None  # what users have put into the DHT, once it was first on
        self._protocols: Protocols | None = None  # once libp2p is imported
        self._events = events
        self._counters = counters
        self._book = book
        self._history = History()
        self._saving = trio.Lock()
        self._running: _Running | None = None
        self._failure: FabstirError | None = None
        self._wanted: NodeConfig | None = None  # to be started with this
        self._scope: trio.CancelScope | None = None  # ends the current run
        self._changed = trio.Event()
        self._entered = time.monotonic()  # the current state

    # ----------------------------------------------------------------------------------------------------------------
    # Start and stop

    async def start(self, overrides: Mapping[str, Any] | None = None) -> None:
        """Start the node, or do nothing where it is started. Returns once it listens, without waiting for any dial.

        Raises `InvalidParams` for bad overrides, `InvalidState` where it is started with another configuration,
        `ListenFailed`.
        """
        try:
            wanted = override_node(self._base, overrides or {})
        except ConfigError as error:
            raise InvalidParams("; ".join(error.mistakes), param="config", mistakes=error.mistakes) from error
        while self.state == "stopping":
            await self._changed.wait()
        if self.state in ("starting", "started"):
            if overrides and wanted != self.settings:
                raise InvalidState("the node is started with another configuration; stop it first")
        else:
            self._wanted = self.settings = wanted
            self._failure = None
            self._enter("starting")
        while self.state == "starting":
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        if self.state != "started":
            raise InvalidState("the node was stopped before it had started")

    async def stop(self, reason: str = "stopped") -> None:
        """Stop the node, or do nothing where it is stopped. Returns when every connection, dial and retry has ended;
        ``reason`` is what connections give as theirs."""
        if self._running is not None:
            self._running.host.part_as(reason)
        if self.state in ("starting", "started"):
            self._enter("stopping")
            if self._scope is not None:
                self._scope.cancel()
        elif self.state == "failed":
            self._enter("stopped")
        while self.state == "stopping":
            await self._changed.wait()

    async def run(self) -> None:
        """Serve starts and stops until cancelled. An error that is no start's own leaves here and ends the process."""
        while True:
            while self._wanted is None:
                await self._changed.wait()
            wanted, self._wanted = self._wanted, None
            with trio.CancelScope() as scope:
                self._scope = scope
                if self.state == "stopping":  # a stop came before this task had its turn
                    scope.cancel()
                await self._run_once(wanted)
            self._scope = None
            if self.state != "failed":
                self._enter("stopped")

    async def _run_once(self, settings: NodeConfig) -> None:
        await load_libp2p()
        from fabstird.p2p.autonat import AutoNat
        from fabstird.p2p.connections import Connections
        from fabstird.p2p.host import Host, HostSettings, ListenError
        from fabstird.p2p.inuse import keep_in_use
        from fabstird.p2p.mdns import Mdns
        from fabstird.p2p.relay import Relays

        connections = Connections(settings, self._events, self._counters, self._book, self._history, self._limits)
        announced = False
        try:
            async with Host.open(
                HostSettings(
                    seed=self.identity.seed,
                    agent=f"fabstird/{__version__}",
                    limits=_limits(self._limits),
                    listen=settings.listen_addresses,
                    announce=settings.announce_addresses,
                ),
                observer=connections,
                gate=connections,
            ) as host:
                mdns = Mdns(host, connections, self._counters) if settings.enable_mdns else None
                autonat = AutoNat(host)
                relays = Relays(host, connections, self._relays, autonat.is_private)
                began = int(time.time() * 1000)
                self._running = _Running(host, connections, mdns, relays, autonat, began, trio.current_time())
                protocols = await self.protocols_of_users()
                protocols.attach(host)
                dht = await self._open_dht(self._running) if settings.enable_dht else None
                announced = True
                self._enter("started")
                self._events.publish(NodeStarted(peer_id=host.peer_id, listen_addresses=host.listen_addresses()))
                try:
                    # A stop ends what is inside this scope; the host around it then closes in its own order.
                    with trio.CancelScope() as self._scope:
                        async with trio.open_nursery() as nursery:
                            if dht is not None:
                                nursery.start_soon(dht.engine.run, dht.announcer.republish)
                            nursery.start_soon(self._keep_book)
                            nursery.start_soon(keep_in_use, host, lambda: self._limits.idle_refresh / 1000)
                            if mdns is not None:
                                nursery.start_soon(mdns.run)
                            nursery.start_soon(autonat.run)
                            nursery.start_soon(relays.run)
                            await connections.run(host)
                finally:
                    protocols.detach()
                    if self.state == "started":  # the daemon itself is ending
                        self._enter("stopping")
        except ListenError as error:
            self._failure = ListenFailed(str(error), address=error.address, reason=error.reason)
            self.error = str(error)
            log.warning("node failed to start", error=str(error))
            self._enter("failed")
        finally:
            if self._running is not None:
                self._counters.totals += self._running.host.totals()
                self._running = None
            if announced:
                self._save_book()
                self._events.publish(NodeStopped(peer_id=self.identity.peer_id))

    def _enter(self, state: NodeState) -> None:
        self.state = state
        self._entered = time.monotonic()
        if state != "failed":
            self.error = None
        self._changed.set()
        self._changed = trio.Event()

    async def _keep_book(self) -> None:
        while True:
            await trio.sleep(SAVE_INTERVAL)
            try:
                await self.save_book()
            except OSError as error:
                log.warning("known peers could not be saved", file=str(self._book.path), error=error.strerror)

    def _save_book(self) -> None:
        try:
            self._book.save()
        except OSError as error:
            log.warning("known peers could not be saved", file=str(self._book.path), error=error.strerror)

    async def save_book(self) -> None:
        """Write what changed, off the loop: a disk may take its time. Raises OSError."""
        async with self._saving:
            if self._book.changed:
                self._book.changed = False
                try:
                    await trio.to_thread.run_sync(write_whole, self._book.path, self._book.encode())
                except OSError:
                    self._book.changed = True
                    raise

    def set_limits(self, limits: ConnectionsConfig) -> None:
        """Limits of ``[connections]`` from now on."""
        self._limits = limits
        if self._running is not None:
            self._running.host.set_limits(_limits(limits))
            self._running.connections.set_limits(limits)

    # ----------------------------------------------------------------------------------------------------------------
    # How it stands

    def running_commands(self) -> Commands:
        """What users may ask of the started node. Raises `NodeNotRunning`."""
        if self._running is None or self.state != "started":
            raise NodeNotRunning(f"the node is {self.state}; call start first", state=self.state)
        return self._commands()

    async def commands(self) -> Commands:
        """What users may ask for in any state."""
        await load_libp2p()
        return self._commands()

    def _commands(self) -> Commands:
        from fabstird.p2p.commands import Commands

        connections = self._running.connections if self._running else None
        return Commands(self.identity.peer_id, self._book, self._history, connections)

    async def _open_dht(self, running: _Running) -> DhtCommands:
        """The DHT of this run of the node; its engine is still to be run."""
        from fabstird.p2p.dht.commands import DhtCommands
        from fabstird.p2p.dht.engine import Engine
        from fabstird.p2p.dht.kept import Kept
        from fabstird.p2p.market import Market

        if self._kept is None:
            self._kept = Kept(self._book.path.with_name("dht.json"))
            await trio.to_thread.run_sync(self._kept.load)
        engine = Engine(
            running.host,
            running.connections,
            self._book,
            self._events,
            self._kept,
            self._dht,
            lambda: True if running.autonat.is_reachable() else False if running.autonat.is_private() else None,
        )
        running.dht = DhtCommands(engine, self._book, self._events, self.settings.request_timeout)
        running.market = Market(running.dht)
        return running.dht

    def dht(self) -> DhtCommands:
        """What users may ask of the DHT. Raises `NodeNotRunning`, `FeatureDisabled`."""
        self.running_commands()
        assert self._running is not None
        if self._running.dht is None:
            raise FeatureDisabled("the DHT is switched off: node.enable_dht is false", configKey="node.enable_dht")
        return self._running.dht

    def market(self) -> Market:
        """The Fabstir scheme on the DHT. Raises as `dht` does."""
        self.dht()
        assert self._running is not None
        assert self._running.market is not None
        return self._running.market

    async def protocols_of_users(self) -> Protocols:
        """What API connections answer peers on, in any state."""
        await load_libp2p()
        from fabstird.p2p.streams import Protocols

        if self._protocols is None:
            self._protocols = Protocols(self._events, self._streams)
        return self._protocols

    async def request(self, peer: str, protocol: str, data: str, framing: Framing, timeout: int) -> RequestResult:
        """As `streams.request`, with base64 data. Raises `NodeNotRunning` too."""
        commands = self.running_commands()
        from fabstird.p2p.streams import from_base64, request

        assert self._running is not None
        return await request(
            self._running.host, commands, self._streams, peer, protocol, from_base64(data), framing, timeout
        )

    async def respond(self, request_id: str, data: str) -> RespondResult:
        """As `Protocols.respond`, with base64 data."""
        protocols = await self.protocols_of_users()
        from fabstird.p2p.streams import from_base64

        return await protocols.respond(request_id, from_base64(data))

    @property
    def started_at(self) -> int | None:
        """Milliseconds since the epoch; None while it is not started."""
        return self._running.started_at if self._running else None

    @property
    def uptime(self) -> int | None:
        """Milliseconds since it started, by a clock that does not jump; None while it is not started."""
        return int((trio.current_time() - self._running.opened) * 1000) if self._running else None

    def peers(self) -> list[Peer]:
        return self._running.connections.peers() if self._running else []

    def peer_ids(self) -> list[str]:
        return self._running.connections.peer_ids() if self._running else []

    def connection_count(self) -> int:
        return self._running.connections.count() if self._running else 0

    def dials(self) -> tuple[int, int]:
        """How many dials are under way, and how many bootstrap and kept addresses wait for theirs."""
        return self._running.connections.dials() if self._running else (0, 0)

    def silence(self) -> float:
        """For how many seconds the node has owed something: the end of a start or stop or, while it is started, the
        turn of its dial loop that an earlier call asked for."""
        if self.state in ("starting", "stopping"):
            return time.monotonic() - self._entered
        return self._running.connections.silence() if self._running else 0.0

    def listen_addresses(self) -> list[str]:
        return self._running.host.listen_addresses() if self._running else []

    def protocols(self) -> list[str]:
        return self._running.host.protocols() if self._running else []

    def addresses(self) -> Addresses:
        host = self._running.host if self._running else None
        return Addresses(
            peer_id=self.identity.peer_id,
            listen=host.listen_addresses() if host else [],
            announced=host.announced_addresses() if host else [],
            observed=host.observed_addresses() if host else [],
            reachability=self._running.autonat.addresses() if self._running else [],
        )

    def bounds(self) -> dict[str, tuple[int, int]]:
        """How much there is of everything that is bounded in number, and the bound."""
        return {
            "connections": (self.connection_count(), self._limits.max),
            **self._book.sizes(),
            "bans": (len(self._book.bans), MAX_BANS),
            "timelines": (len(self._history), MAX_KEYS),
            **(self._protocols.bounds() if self._protocols else {}),
            **(self._running.relays.bounds() if self._running else {}),
            **(self._running.autonat.bounds() if self._running else {}),
            **(self._running.mdns.bounds() if self._running and self._running.mdns else {}),
            **(self._running.dht.engine.bounds() if self._running and self._running.dht else {}),
            **(self._running.market.bounds() if self._running and self._running.market else {}),
        }

    def dial_cycles(self) -> Counter[str]:
        """How many bootstrap and kept addresses are in each phase of their cycle."""
        return Counter(cycle.phase for cycle in self._running.connections.cycles()) if self._running else Counter()

    def announced_addresses(self) -> list[str]:
        return self._running.host.announced_addresses() if self._running else []

    def totals(self) -> Totals:
        """Over all runs since the daemon started."""
        past = self._counters.totals
        return past + self._running.host.totals() if self._running else past


def _limits(config: ConnectionsConfig) -> Limits:
    from fabstird.p2p.host import Limits, Liveness

    liveness = Liveness(config.ping_interval / 1000, config.ping_timeout / 1000)
    return Limits(config.max, config.max_per_ip, config.handshake_timeout / 1000, liveness)


async def load_libp2p() -> None:
    """Import libp2p and all that stands on it, off the event loop; at once where it has been done."""
    first = "fabstird.p2p.market" not in sys.modules
    await trio.to_thread.run_sync(importlib.import_module, "fabstird.p2p.market")
    adopt_libraries()
    if first:
        # What has been imported lives as long as the process. Out of the collector's sight, it is not walked again and
        # again; and the collector runs less often than for a script, because a connection is hundreds of objects.
        gc.freeze()
        gc.set_threshold(5000, 20, 20)
        gc.enable()  # `run` has switched it off


def libp2p_version() -> str:
    return importlib.metadata.version("libp2p")
