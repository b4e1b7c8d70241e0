"""What is measured, and how."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

from bench.dht_sim.crowds import Liar, crowd
from bench.dht_sim.node import Node
from bench.dht_sim.users import Found, Publisher, Told, find_providers, get_value
from bench.dht_sim.world import Setting, World, position
from fabstird.p2p.dht.heard import Heard
from fabstird.p2p.dht.routing import K
from fabstird.p2p.dht.upkeep import REFRESH

Ended = Callable[[], None]
Task = Callable[[Ended], None]  # begins something, and tells when it has ended

BOOTSTRAPS = 10
MINUTE, HOUR = 60.0, 3600.0
SETTLED = 12 * MINUTE


@dataclass
class Sample:
    """Numbers of one kind, of all seeds together."""

    values: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) if self.values else float("nan")


class Samples(dict[str, Sample]):
    def __missing__(self, name: str) -> Sample:
        return self.setdefault(name, Sample())

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self[name].values.append(float(value))


def network(
    seed: int, size: int, *, liars: float = 0.0, settle: float = SETTLED, setting: Setting | None = None
) -> tuple[World, list[Node]]:
    """Nodes that have come one after another. What they do by themselves is counted from ten minutes before the end."""
    world = World(seed, setting)
    nodes: list[Node] = []
    pause = min(0.2, 600 / size)
    for number in range(size):
        server = number < BOOTSTRAPS or world.chance.random() >= world.setting.clients
        kind = Liar if server and number >= BOOTSTRAPS and world.chance.random() < liars else Node
        node = kind(world, world.new_id(), f"network {number}", server=server)
        nodes.append(node)
        boot = world.chance.choice(nodes[: min(number, BOOTSTRAPS)]) if number else None
        world.at(number * pause, node.start, boot)
    world.run(size * pause + max(0.0, settle - REFRESH))
    world.background = 0
    for node in nodes:
        node.served = 0
    world.run(size * pause + settle)
    return world, nodes


def die(world: World, nodes: Sequence[Node], share: float = 0.1) -> list[Node]:
    """Some of them go without a word, all at once. Who is left; the first of them are the bootstrap nodes."""
    for node in nodes[BOOTSTRAPS:]:
        if world.chance.random() < share:
            node.stop()
    return [node for node in nodes if node.alive]


def _value_key(world: World) -> bytes:
    """A key of a value. One that begins with a slash is in a namespace, whose values need a validator."""
    return b"value " + world.chance.randbytes(32)


def announce(node: Node, key: bytes, value: bytes | None = None) -> Told:
    """Provide a key, or put a value, and let the world go on until it is done."""
    ended: list[Told] = []
    Publisher(node).announce(key, value, ended.append)
    node.world.run_while(lambda: not ended)
    return ended[0]


def at_once(world: World, tasks: Sequence[Task], pause: float = 0.1) -> None:
    """Begin one task after another, and let the world go on until all have ended. Users do not wait for each other,
    and an hour of ten thousand idle nodes takes longer to simulate than what they do."""
    left = len(tasks)

    def ended() -> None:
        nonlocal left
        left -= 1

    for number, task in enumerate(tasks):
        world.at(world.now + number * pause, task, ended)
    world.run_while(lambda: left > 0)


def looks(seekers: Sequence[Node], key: bytes, wanted: int = K) -> list[Found]:
    """What each of them finds."""
    found: list[Found] = []

    def task(seeker: Node) -> Task:
        def begin(ended: Ended) -> None:
            def then(one: Found) -> None:
                found.append(one)
                ended()

            find_providers(seeker, key, wanted, then)

        return begin

    at_once(seekers[0].world, [task(seeker) for seeker in seekers])
    return found


def closest(world: World, key: bytes, count: int = K) -> list[bytes]:
    """The servers that are truly closest to a key."""
    where = position(key)
    return nsmallest(count, (node.id for node in world.servers()), key=lambda peer: position(peer) ^ where)


def honest(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if type(node) is Node and node.alive]


def searches(world: World, nodes: Sequence[Node], count: int, samples: Samples, at: str = "found") -> None:
    """A record and a value are announced by one node each, and then looked for by another."""

    def task() -> Task:
        here, there, other = world.chance.sample(nodes, 3)
        key, value_key = world.chance.randbytes(32), _value_key(world)

        def begin(ended: Ended) -> None:
            def provided(told: Told) -> None:
                true = set(closest(world, key)) - {here.id}
                samples.add(provide=told.took, recall=len(true & set(told.walk.lookup.closest())) / len(true))
                find_providers(there, key, K, found)

            def found(found: Found) -> None:
                samples.add(**{at: here.id in found.providers}, whole=found.took, asks=found.asked)
                if found.first is not None:
                    samples.add(first=found.first, hops=found.hops)
                Publisher(here).announce(value_key, b"v", lambda _: get_value(other, value_key, got))

            def got(found: Found) -> None:
                samples.add(**{at: found.value == b"v"}, get=found.took)
                ended()

            Publisher(here).announce(key, None, provided)

        return begin

    removed = world.removed_alive
    at_once(world, [task() for _ in range(count)])
    samples.add(removed=world.removed_alive - removed)


def background(world: World, nodes: Sequence[Node], samples: Samples) -> None:
    """What a node does, is asked and holds when nobody uses it: in the last ten minutes of `network`, in which each
    refreshes its table once."""
    served = sorted(node.served for node in nodes[BOOTSTRAPS:] if node.server)
    samples.add(
        background=world.background / REFRESH / len(nodes),
        busiest=served[-1] / max(1, served[len(served) // 2]),
        table=sum(len(node.table) for node in nodes) / len(nodes),
    )
    for node in world.chance.sample(nodes, 50):
        samples.add(memory=memory(node))


def churn(seed: int, size: int, hours: int, samples: Samples, session: float = HOUR) -> None:
    """Everybody but the publishers and the bootstrap nodes comes and goes, an hour on average."""
    world, nodes = network(seed, size, settle=MINUTE)
    fixed = nodes[: 2 * BOOTSTRAPS]
    boots, publishers = fixed[:BOOTSTRAPS], [Publisher(node) for node in fixed[BOOTSTRAPS:]]
    world.removed_alive = 0
    serial = size
    busy: set[Node] = set()  # who looks for something, and stays until it is found

    def leave(node: Node) -> None:
        nonlocal serial
        if node in busy:
            world.at(world.now + MINUTE, leave, node)
            return
        node.stop()
        serial += 1
        fresh = Node(world, world.new_id(), f"network {serial}", server=node.server)
        fresh.start(world.chance.choice(boots))
        world.at(world.now + world.chance.expovariate(1 / session), leave, fresh)

    for node in nodes[2 * BOOTSTRAPS :]:
        world.at(world.now + world.chance.expovariate(1 / session), leave, node)
    records = [(publisher, world.chance.randbytes(32), _value_key(world)) for publisher in publishers]
    for publisher, key, value_key in records:
        publisher.announce(key, None)
        publisher.announce(value_key, b"v")
    began = world.now

    def task(hour: int, publisher: Publisher, key: bytes, value_key: bytes) -> Task:
        def begin(ended: Ended) -> None:
            seeker = world.chance.choice(list(world.nodes.values()))
            busy.add(seeker)

            def found(found: Found) -> None:
                samples.add(**{f"hour {hour}": publisher.node.id in found.providers}, whole=found.took)
                get_value(seeker, value_key, got)

            def got(found: Found) -> None:
                samples.add(**{f"hour {hour}": found.value == b"v"})
                busy.discard(seeker)
                ended()

            find_providers(seeker, key, K, found)

        return begin

    for hour in range(1, hours + 1):
        world.run(began + hour * HOUR)
        at_once(world, [task(hour, *record) for record in records for _ in range(3)])
    samples.add(removed=world.removed_alive)


def popular(world: World, nodes: Sequence[Node], samples: Samples) -> None:
    """Two hundred providers of one key."""
    key = world.chance.randbytes(32)
    providers = world.chance.sample(nodes, min(200, len(nodes) // 2))

    def task(node: Node) -> Task:
        return lambda ended: Publisher(node).announce(key, None, lambda _: ended())

    at_once(world, [task(node) for node in providers])
    samples.add(providers=len(providers))
    [found] = looks([world.chance.choice(nodes)], key, len(providers))
    samples.add(one_search=len(found.providers))
    usual = looks(world.chance.sample(nodes, 20), key)
    samples.add(default_searches=len({one for found in usual for one in found.providers}))
    whole = looks(world.chance.sample(nodes, 20), key, len(providers))
    samples.add(whole_searches=len({one for found in whole for one in found.providers}))


def attacked(world: World, nodes: Sequence[Node], samples: Samples, *, one_network: bool, count: int) -> None:
    """So many ids lie beside one key, before it is announced."""
    key = world.chance.randbytes(32)
    sybils = crowd(world, key, count, one_network=one_network)
    pause = 50.0 / count
    for number, sybil in enumerate(sybils):
        world.at(world.now + number * pause, sybil.start, nodes[number % BOOTSTRAPS])
    world.run(world.now + 50.0 + MINUTE)
    here = world.chance.choice(nodes)
    announce(here, key)
    for found in looks(world.chance.sample(nodes, min(100, len(nodes))), key):
        samples.add(found=here.id in found.providers)
    for sybil in sybils:
        sybil.stop()


def memory(node: Node) -> int:
    """Bytes of what a node keeps to know others: its table, and three addresses of each peer."""
    heard = Heard()
    for peer in node.table.peers():
        heard.pin(peer, [bytes([4, *node.chance.randbytes(4), 6, *node.chance.randbytes(2)]) for _ in range(3)])
    seen: set[int] = set()
    return _size(vars(node.table), seen) + _size(vars(heard), seen) + _size(vars(node.density), seen)


def _size(thing: Any, seen: set[int]) -> int:
    if id(thing) in seen or isinstance(thing, type) or callable(thing):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return size + sum(_size(key, seen) + _size(value, seen) for key, value in thing.items())
    if isinstance(thing, Sequence) and not isinstance(thing, str | bytes):
        return size + sum(_size(one, seen) for one in thing)
    return size + sum(_size(getattr(thing, name), seen) for name in getattr(thing, "__slots__", ()))
