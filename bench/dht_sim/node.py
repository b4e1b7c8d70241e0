"""A node: the product's planners, and around them the shell that the engine is in the daemon."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

from bench.dht_sim.world import World
from fabstird.p2p.dht.density import Density
from fabstird.p2p.dht.lookup import ALPHA, QUIET, Lookup
from fabstird.p2p.dht.messages import Peer
from fabstird.p2p.dht.patience import Patience
from fabstird.p2p.dht.providers import Providers
from fabstird.p2p.dht.routing import K, RoutingTable
from fabstird.p2p.dht.server import Server
from fabstird.p2p.dht.upkeep import SETTLE, Upkeep
from fabstird.p2p.dht.values import Refused, Values
from fabstird.p2p.peers import policy

ASK = 10.0  # seconds; the engine's deadline for one peer
MAX_VALUE = 10240

Kind = Literal["find_node", "get_providers", "get_value", "add_provider", "put_value"]
Answer = tuple[list[bytes], list[bytes], bytes | None]  # closer peers, providers, a value
Told = Callable[[bytes, "Answer | None"], None]


class Node:
    def __init__(self, world: World, peer: bytes, network: str, *, server: bool) -> None:
        self.world = world
        self.id = peer
        self.network = network
        self.server = server
        self.alive = False
        self.chance = Random(world.chance.random())
        self.connections: dict[bytes, float] = {}  # since when
        self.served = 0
        self.table = RoutingTable(peer)
        self.density = Density()
        self.patience = Patience()
        self.values = Values(peer, MAX_VALUE)
        self.providers = Providers(peer, self.chance)
        self.surface = Server(self.table, self.values, self.providers, lambda _: (), lambda _: False)
        self.upkeep = Upkeep(self.table, world.now, self.chance)
        self._wake = float("inf")

    # ----------------------------------------------------------------------------------------------------------------
    # Coming, going, and what it does by itself

    def start(self, bootstrap: Node | None) -> None:
        self.alive = True
        self.upkeep = Upkeep(self.table, self.world.now, self.chance)
        self.world.nodes[self.id] = self
        self.world.networks[self.id] = self.network
        if bootstrap is not None:
            self._connect(bootstrap)
        self._maintain()

    def stop(self) -> None:
        self.alive = False
        del self.world.nodes[self.id]
        for peer in list(self.connections):
            self._disconnect(peer)

    def _maintain(self) -> None:
        now = self.world.now
        if not self.alive or now < self._wake < float("inf"):
            return
        plan = self.upkeep.plan(now)
        if plan.walks:
            self._refresh(list(plan.walks))
        for peer in plan.checks:
            self.ask(peer, "find_node", self.id, lambda *_: None, background=True)
        self._wake = max(plan.wake_at, now + 0.001)
        self.world.at(self._wake, self._maintain)

    def _refresh(self, targets: list[bytes]) -> None:
        def then(walk: Walk) -> None:
            self.density.observe(walk.lookup.distances())
            if targets and self.alive:
                Walk(self, targets.pop(0), "find_node", then=then, background=True)

        Walk(self, targets.pop(0), "find_node", then=then, background=True)

    def join(self, peer: bytes, network: str) -> None:
        """The peer is a server, and alive."""
        new = peer not in self.table
        if self.table.add(peer, self.world.now, network) and new and len(self.table) <= K:
            self.upkeep.arrived(self.world.now)
            self._wake = self.world.now + SETTLE + 0.001
            self.world.at(self._wake, self._maintain)

    # ----------------------------------------------------------------------------------------------------------------
    # Connections

    def _connect(self, other: Node) -> None:
        for one, two in ((self, other), (other, self)):
            one.connections[two.id] = self.world.now
            if two.server:
                one.join(two.id, two.network)
        self._trim()
        other._trim()

    def _disconnect(self, peer: bytes) -> None:
        del self.connections[peer]
        other = self.world.nodes.get(peer)
        if other is not None:
            other.connections.pop(self.id, None)

    def _trim(self) -> None:
        setting = self.world.setting
        if len(self.connections) > setting.high:
            marks = policy.Watermarks(setting.low, setting.high, setting.grace)
            standings = [policy.Standing(peer.hex(), 1, at, 0, True, False) for peer, at in self.connections.items()]
            plan = policy.plan(self.world.now, (), (), total=len(standings), standings=standings, watermarks=marks)
            for peer in plan.close:
                self._disconnect(bytes.fromhex(peer))

    # ----------------------------------------------------------------------------------------------------------------
    # Asking and answering

    def ask(
        self, peer: bytes, kind: Kind, key: bytes, told: Told, *, background: bool = False, value: bytes | None = None
    ) -> None:
        world = self.world
        connected = peer in self.connections
        if background and not connected and len(self.connections) >= world.setting.high:
            world.at(world.now, told, peer, None)  # a limit of ours, which says nothing about the peer
            return
        world.messages += 1
        world.background += background
        if peer in world.nodes:
            delay = world.round_trip() * (1 if connected else 1 + world.setting.dial)
            world.at(world.now + delay, self._arrives, peer, kind, key, value, told)
        else:
            world.at(world.now + ASK, self._no_answer, peer, told)

    def _no_answer(self, peer: bytes, told: Told) -> None:
        if self.alive:
            self.silent(peer)
            told(peer, None)

    def silent(self, peer: bytes) -> None:
        if self.table.failed(peer, self.world.now) and peer in self.world.nodes:
            self.world.removed_alive += 1

    def _arrives(self, peer: bytes, kind: Kind, key: bytes, value: bytes | None, told: Told) -> None:
        other = self.world.nodes.get(peer)
        if not self.alive:
            return
        if other is None:
            self._no_answer(peer, told)
            return
        if peer not in self.connections:
            self._connect(other)
        other.table.heard(self.id, self.world.now)
        self.join(peer, other.network)
        other.served += 1
        told(peer, other.answer(self, kind, key, value))

    def answer(self, sender: Node, kind: Kind, key: bytes, value: bytes | None) -> Answer:
        now = self.world.now
        if kind == "find_node":
            return self.surface.closer(sender.id, key), [], None
        if kind == "get_providers":
            found = [one.id for one in self.providers.get(key, now, K, sender.id)]
            return self.surface.closer(sender.id, key), found, None
        if kind == "get_value":
            held = self.values.get(key, now)
            return self.surface.closer(sender.id, key), [], held.value if held else None
        try:
            if kind == "add_provider":
                self.providers.add(key, Peer(sender.id), now, sender.network)
            elif value is not None:
                self.values.put(key, value, sender.id, now, sender.network)
        except Refused:
            return [], [], None
        return [], [], value


class Walk:
    """A lookup under way, as the engine's `walk` carries it out. ``take`` is handed each answer, and ends the walk by
    returning True; ``then`` is told of its end."""

    def __init__(
        self,
        node: Node,
        target: bytes,
        kind: Kind,
        *,
        take: Callable[[bytes, Answer], bool] | None = None,
        then: Callable[[Walk], None] | None = None,
        background: bool = False,
    ) -> None:
        self.node = node
        self.began = node.world.now
        self.took = 0.0
        self.hops: dict[bytes, int] = {}
        seeds = node.table.closest(target)
        self.hops = dict.fromkeys(seeds, 1)
        self.lookup = Lookup(
            target,
            node.id,
            seeds,
            alpha=QUIET if background and len(node.table) >= K else ALPHA,
            network=node.world.networks.get,
            radius=node.density.radius,
            give_up=node.patience.give_up,
            connected=node.connections.__contains__,
        )
        self._asked: dict[bytes, float] = {}
        self._kind = kind
        self._take = take
        self._then = then
        self._background = background
        self._ended = False
        self._wake = 0.0
        self._step()

    def _step(self) -> None:
        world = self.node.world
        if self._ended or not self.node.alive:
            return
        for peer in self.lookup.due(world.now):
            self._asked[peer] = world.now
            self.node.ask(peer, self._kind, self.lookup.target, self._told, background=self._background)
        if self.lookup.done(world.now):
            self._end()
            return
        wake = self.lookup.wake_at()
        if wake > self._wake:
            self._wake = wake
            world.at(wake, self._step)

    def _told(self, peer: bytes, answer: Answer | None) -> None:
        if self._ended:
            return
        if answer is None:
            self.lookup.failed(peer)
        else:
            self.node.patience.observe(self.node.world.now - self._asked[peer])
            hop = self.hops.get(peer, 1) + 1
            for one in answer[0]:
                self.hops.setdefault(one, hop)
            self.lookup.answered(peer, answer[0])
            if self._take is not None and self._take(peer, answer):
                self._end()
                return
        self._step()

    def _end(self) -> None:
        self._ended = True
        self.took = self.node.world.now - self.began
        for peer in self.lookup.late:
            self.node.silent(peer)
        if self._then is not None:
            self._then(self)
