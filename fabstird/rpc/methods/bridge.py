"""The three methods of the TypeScript SDK's P2P client (`rpc.bridge`), enabled by ``[api] bridge``."""

from __future__ import annotations

from fabstir_client.api.bridge import (
    BridgeDiscoverParams,
    BridgeFilter,
    BridgeNode,
    BridgeNodes,
    BridgeSendParams,
    BridgeSent,
    BridgeStatus,
)
from fabstir_client.api.errors import DialFailed, FeatureDisabled, InvalidState, NodeNotRunning, PeerNotFound
from fabstir_client.api.fabstir import DiscoverFilters
from fabstir_client.api.types import NoParams
from fabstird.rpc.dispatch import Call, Method


async def discover(call: Call, params: BridgeDiscoverParams) -> BridgeNodes:
    """With capabilities, the nodes that provide all of them, as ``fabstir.discover`` finds them; without, the connected
    peers."""
    _enabled(call)
    wanted = params.filter or BridgeFilter()
    if wanted.capabilities:
        return await _providers(call, wanted.capabilities, wanted.min_reputation)
    call.services.node.run()
    # The metadata of connected peers is not read, so their reputation is unknown.
    found = call.services.node.view.peers() if wanted.min_reputation is None else []
    nodes = [BridgeNode(id=peer.peer_id, address=peer.connections[0].address, capabilities=[]) for peer in found]
    return BridgeNodes(nodes=nodes, source="local")


async def _providers(call: Call, capabilities: list[str], min_reputation: float | None) -> BridgeNodes:
    directory = call.services.node.run().directory()
    filters = DiscoverFilters(min_reputation=min_reputation, exclude_nodes=[call.services.node.identity.peer_id])
    common: dict[str, BridgeNode] = {}
    for number, capability in enumerate(capabilities):
        found = {node.peer_id: node for node in (await directory.discover(capability, filters, False, None)).nodes}
        if number == 0:
            common = {
                peer_id: BridgeNode(
                    id=peer_id, address=node.addresses[0] if node.addresses else "", capabilities=capabilities
                )
                for peer_id, node in found.items()
            }
        common = {peer_id: node for peer_id, node in common.items() if peer_id in found}
    return BridgeNodes(nodes=list(common.values()), source="dht")


async def send(call: Call, params: BridgeSendParams) -> BridgeSent:
    """The other daemon pushes ``{"type": "p2p_message", "data": MESSAGE}`` to each of its bridge clients: the
    WebSockets on which only the bridge's methods have been called. In MESSAGE, ``from`` is set to this node's peer id,
    and ``timestamp`` is added if it is missing. A message that is not an object becomes the ``payload`` of one."""
    _enabled(call)
    return BridgeSent(peer_id=params.peer_id, delivered=await call.services.bridge.send(params.peer_id, params.message))


def status(call: Call, _: NoParams) -> BridgeStatus:
    """The state of the node, in the form that the SDK expects."""
    _enabled(call)
    node = call.services.node
    return BridgeStatus(
        connected=node.state == "started", peer_id=node.identity.peer_id, connections=node.view.connection_count()
    )


def _enabled(call: Call) -> None:
    if not call.services.config.api.bridge:
        raise FeatureDisabled("the SDK's bridge is switched off; set [api] bridge = true", configKey="api.bridge")


METHODS = [
    Method("discover", BridgeDiscoverParams, BridgeNodes, "Nodes, for the SDK's bridge client", discover,
           errors=(FeatureDisabled, NodeNotRunning)),
    Method("sendMessage", BridgeSendParams, BridgeSent, "Send JSON to a peer's bridge clients", send, changes=True,
           errors=(FeatureDisabled, NodeNotRunning, PeerNotFound, DialFailed, InvalidState)),
    Method("getStatus", NoParams, BridgeStatus, "The node's state, for the SDK's bridge client", status,
           errors=(FeatureDisabled,)),
]  # fmt: skip
