"""Methods of the Fabstir scheme."""

from __future__ import annotations

from fabstir_client.api.errors import FeatureDisabled, InvalidState, NodeNotRunning
from fabstir_client.api.fabstir import (
    Announced,
    AnnounceParams,
    Discovered,
    DiscoverParams,
    Withdrawn,
    WithdrawParams,
)
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import duration


async def announce(call: Call, params: AnnounceParams) -> Announced:
    """Each capability is provided under the Fabstir node's key and under the SDK's, and the metadata put under this
    node's id; all of it is announced again every twelve hours, across restarts, until ``fabstir.withdraw``."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().directory().announce(params.capabilities, params.metadata, timeout)


async def withdraw(call: Call, params: WithdrawParams) -> Withdrawn:
    """What other nodes hold expires there. The metadata goes with the last capability."""
    return await call.services.node.run().directory().withdraw(params.capabilities)


async def discover(call: Call, params: DiscoverParams) -> Discovered:
    """Nodes that provide the model under either key, preferred ones first, then by reputation, latency and price; "any"
    stands for every model. Waits for the DHT's first peer where there is none yet. What was found, and whole, is
    remembered for [dht] discover_ttl; ``age`` says for how long."""
    timeout = duration("timeout", params.timeout)
    directory = call.services.node.run().directory()
    return await directory.discover(params.model, params.filters, bool(params.force_refresh), timeout)


_OFF = (NodeNotRunning, FeatureDisabled)

METHODS = [
    Method("fabstir.announce", AnnounceParams, Announced, "Announce what this node can do", announce, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("fabstir.withdraw", WithdrawParams, Withdrawn, "Stop announcing it", withdraw, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("fabstir.discover", DiscoverParams, Discovered, "Nodes that serve a model", discover, errors=_OFF),
]  # fmt: skip
