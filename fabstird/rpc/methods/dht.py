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
    """Its addresses, as the DHT or the peer itself tells them; afterwards ``connect`` knows them too."""
    return await call.services.node.run().dht().find_peer(params.peer_id, duration("timeout", params.timeout))


async def find_providers(call: Call, params: FindProvidersParams) -> FoundProviders:
    """Each is a ``dht:provider`` event as soon as it is found. What the deadline cuts off is returned as incomplete."""
    timeout = duration("timeout", params.timeout)
    dht = call.services.node.run().dht()
    return await dht.find_providers(params.key, params.encoding or "text", params.count, timeout, params.query_id)


async def provide(call: Call, params: KeyParams) -> Provided:
    """Tells the peers closest to the key; the specification has no answer to that. ``confirmed`` counts those
    that name this node when they are asked. Announced again when too few of them still have it, and every twelve hours,
    across restarts, until ``dht.forget``."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().dht().provide(params.key, params.encoding or "text", timeout)


async def get_value(call: Call, params: GetValueParams) -> FoundValue:
    """Each peer's answer is a ``dht:value`` event. The value of the owner that a key names wins, else the one that most
    peers give."""
    timeout = duration("timeout", params.timeout)
    dht = call.services.node.run().dht()
    return await dht.get_value(params.key, params.encoding or "text", params.quorum, timeout, params.query_id)


async def put_value(call: Call, params: PutValueParams) -> StoredValue:
    """Stored at the peers closest to the key; again when too few of them still have it, and every twelve hours, across
    restarts, until ``dht.forget``. Peers on go-libp2p refuse keys that have no namespace which they know."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().dht().put_value(params.key, params.value, params.encoding or "text", timeout)


async def forget(call: Call, params: ForgetParams) -> Forgotten:
    """What other nodes hold expires there."""
    return await call.services.node.run().dht().forget(params.key, params.encoding or "text")


async def status(call: Call, _: NoParams) -> DhtStatus:
    """Its mode, whom it knows, what it holds, and what it announces again."""
    return call.services.node.run().dht().status()


async def routing(call: Call, _: NoParams) -> DhtRouting:
    """Its routing table, bucket by bucket: near peers are known well, of far ones a few."""
    return call.services.node.run().dht().routing()


_OFF = (NodeNotRunning, FeatureDisabled)

METHODS = [
    Method("dht.find_peer", FindPeerParams, FoundPeer, "Where a peer is", find_peer, errors=(*_OFF, PeerNotFound)),
    Method("dht.find_providers", FindProvidersParams, FoundProviders, "Who has a key", find_providers, errors=_OFF),
    Method("dht.provide", KeyParams, Provided, "Say that this node provides a key", provide, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("dht.get_value", GetValueParams, FoundValue, "The value of a key", get_value, errors=_OFF),
    Method("dht.put_value", PutValueParams, StoredValue, "Put a value", put_value, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("dht.forget", ForgetParams, Forgotten, "Stop announcing a key", forget, changes=True,
           errors=(*_OFF, InvalidState), idle=lambda result: not (result.provided or result.value)),
    Method("dht.status", NoParams, DhtStatus, "How the DHT stands", status, errors=_OFF),
    Method("dht.routing", NoParams, DhtRouting, "Whom the DHT knows", routing, errors=_OFF),
]  # fmt: skip
