"""Methods of the DHT."""

from __future__ import annotations

from fabstir_client.api.dht import (
    DhtRouting,
    DhtStatus,
    FindPeerParams,
    FindProvidersParams,
    ForgetParams,
    Forgotten,
    FoundPeer,
    FoundProviders,
    FoundValue,
    GetValueParams,
    KeyParams,
    Provided,
    PutValueParams,
    StoredValue,
)
from fabstir_client.api.errors import FeatureDisabled, InvalidState, NodeNotRunning, PeerNotFound
from fabstir_client.api.types import NoParams
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import duration


async def find_peer(call: Call, params: FindPeerParams) -> FoundPeer:
    """Finds the peer's addresses, from other nodes or the peer itself. ``connect`` can use them afterwards."""
    return await call.services.node.run().dht().find_peer(params.peer_id, duration("timeout", params.timeout))


async def find_providers(call: Call, params: FindProvidersParams) -> FoundProviders:
    """Each provider is also published as a ``dht:provider`` event as soon as it is found. If the deadline ends the
    search, what was found is returned, with ``complete`` false."""
    timeout = duration("timeout", params.timeout)
    dht = call.services.node.run().dht()
    return await dht.find_providers(params.key, params.encoding or "text", params.count, timeout, params.query_id)


async def provide(call: Call, params: KeyParams) -> Provided:
    """Announces this node to the peers closest to the key. They do not acknowledge it, so ``confirmed`` counts those
    that list this node when queried. The key is announced again when too few of them still have it, and every twelve
    hours, across restarts, until ``dht.forget``."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().dht().provide(params.key, params.encoding or "text", timeout)


async def get_value(call: Call, params: GetValueParams) -> FoundValue:
    """Each peer's answer is also published as a ``dht:value`` event. If the key names its owner, the owner's value
    wins; otherwise the one that most peers returned."""
    timeout = duration("timeout", params.timeout)
    dht = call.services.node.run().dht()
    return await dht.get_value(params.key, params.encoding or "text", params.quorum, timeout, params.query_id)


async def put_value(call: Call, params: PutValueParams) -> StoredValue:
    """Stores the value at the peers closest to the key. It is stored again when too few of them still have it, and
    every twelve hours, across restarts, until ``dht.forget``. go-libp2p peers refuse keys outside the namespaces that
    they know."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().dht().put_value(params.key, params.value, params.encoding or "text", timeout)


async def forget(call: Call, params: ForgetParams) -> Forgotten:
    """Stops announcing the key. Other nodes keep their records until these expire."""
    return await call.services.node.run().dht().forget(params.key, params.encoding or "text")


async def status(call: Call, _: NoParams) -> DhtStatus:
    """The mode of the DHT, how many peers it knows, what it stores for others, and what it announces again."""
    return call.services.node.run().dht().status()


async def routing(call: Call, _: NoParams) -> DhtRouting:
    """The routing table, bucket by bucket. It holds almost all of the peers near this node's position, and a few of the
    distant ones."""
    return call.services.node.run().dht().routing()


_OFF = (NodeNotRunning, FeatureDisabled)

METHODS = [
    Method("dht.find_peer", FindPeerParams, FoundPeer, "Find a peer's addresses", find_peer,
           errors=(*_OFF, PeerNotFound)),
    Method("dht.find_providers", FindProvidersParams, FoundProviders, "Find the providers of a key", find_providers,
           errors=_OFF),
    Method("dht.provide", KeyParams, Provided, "Announce that this node provides a key", provide, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("dht.get_value", GetValueParams, FoundValue, "Get the value of a key", get_value, errors=_OFF),
    Method("dht.put_value", PutValueParams, StoredValue, "Store a value under a key", put_value, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("dht.forget", ForgetParams, Forgotten, "Stop announcing a key", forget, changes=True,
           errors=(*_OFF, InvalidState), idle=lambda result: not (result.provided or result.value)),
    Method("dht.status", NoParams, DhtStatus, "State of the DHT", status, errors=_OFF),
    Method("dht.routing", NoParams, DhtRouting, "The DHT's routing table", routing, errors=_OFF),
]  # fmt: skip
