"""Those who lie, and those who crowd."""

from __future__ import annotations

from bench.dht_sim.node import Answer, Kind, Node
from bench.dht_sim.world import World, position
from fabstird.p2p.dht.routing import BITS, K


class Liar(Node):
    """Names providers and closer peers that do not exist, together with all other liars, and a value of their own."""

    def answer(self, sender: Node, kind: Kind, key: bytes, value: bytes | None) -> Answer:
        made_up = _made_up(self.world, key)
        return made_up[:K], made_up[K:] if kind == "get_providers" else [], b"forged" if kind == "get_value" else None


_ids: dict[tuple[int, bytes], list[bytes]] = {}


def _made_up(world: World, key: bytes) -> list[bytes]:
    """Peers that nobody is, so close to the key that no honest one is closer."""
    if (id(world), key) not in _ids:
        where = position(key)
        _ids[id(world), key] = [world.id_at(where ^ world.chance.getrandbits(BITS - 40)) for _ in range(2 * K)]
        world.networks.update({peer: f"made up {number}" for number, peer in enumerate(_ids[id(world), key])})
    return _ids[id(world), key]


class Sybil(Node):
    """One of many ids that lie beside one key. It speaks as any other, names none but its like, and holds nothing."""

    crowd: list[bytes]

    def answer(self, sender: Node, kind: Kind, key: bytes, value: bytes | None) -> Answer:
        return [peer for peer in self.crowd if peer != sender.id][:K], [], None


def crowd(world: World, key: bytes, count: int, *, one_network: bool) -> list[Sybil]:
    """Sybils all of which are closer to a key than the closest honest node."""
    where = position(key)
    nearest = min(position(node.id) ^ where for node in world.servers())
    made = []
    for number in range(count):
        peer = world.id_at(where ^ world.chance.randrange(1, nearest))
        made.append(Sybil(world, peer, "evil" if one_network else f"evil {number}", server=True))
    by_distance = sorted(made, key=lambda sybil: position(sybil.id) ^ where)
    for sybil in made:
        sybil.crowd = [one.id for one in by_distance[: 2 * K]]
    return made
