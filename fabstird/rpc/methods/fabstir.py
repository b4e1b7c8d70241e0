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
    """Provides each capability under the Fabstir node's key and under the SDK's, and stores the metadata under this
    node's peer id. All of it is announced again every twelve hours, across restarts, until ``fabstir.withdraw``."""
    timeout = duration("timeout", params.timeout)
    return await call.services.node.run().directory().announce(params.capabilities, params.metadata, timeout)


async def withdraw(call: Call, params: WithdrawParams) -> Withdrawn:
    """Stops announcing the capabilities, and after the last one the metadata too. Other nodes keep their records until
    these expire."""
    return await call.services.node.run().directory().withdraw(params.capabilities)


async def discover(call: Call, params: DiscoverParams) -> Discovered:
    """Returns the nodes that provide the model under either key: preferred ones first, the others by reputation,
    latency and price. The model "any" stands for all models. If the DHT has no peers yet, the call waits for the first.
    A complete result is cached for [dht] discover_ttl; ``age`` is the age of the result."""
    timeout = duration("timeout", params.timeout)
    directory = call.services.node.run().directory()
    return await directory.discover(params.model, params.filters, bool(params.force_refresh), timeout)


_OFF = (NodeNotRunning, FeatureDisabled)

METHODS = [
    Method("fabstir.announce", AnnounceParams, Announced, "Announce capabilities of this node", announce, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("fabstir.withdraw", WithdrawParams, Withdrawn, "Stop announcing capabilities", withdraw, changes=True,
           errors=(*_OFF, InvalidState)),
    Method("fabstir.discover", DiscoverParams, Discovered, "Find nodes that serve a model", discover, errors=_OFF),
]  # fmt: skip
