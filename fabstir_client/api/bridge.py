"""Vocabulary of the bridge: the calls that the TypeScript SDK's own P2P client makes over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fabstir_client.api.types import Params, Record, words


class BridgeFilter(Params, frozen=True):
    capabilities: list[str] | None = None  # such as names of models; a node must provide all of them
    min_reputation: float | None = None  # as nodes state it; a node whose reputation is unknown does not match


class BridgeDiscoverParams(Params, frozen=True):
    filter: BridgeFilter | None = None  # which nodes to return; all connected peers if left out


class BridgeSendParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("message",)
    peer_id: str
    message: Any  # any JSON; the SDK sends objects {type, payload}


class BridgeNode(Record, frozen=True):
    id: str  # peer id
    address: str  # multiaddr; "" if none is known
    capabilities: list[str]  # the requested ones


class BridgeNodes(Record, frozen=True):
    nodes: list[BridgeNode]  # the matching nodes
    # "dht" if capabilities were searched for in the DHT, "local" for connected peers
    source: Annotated[str, words("dht", "local")]


class BridgeSent(Record, frozen=True):
    peer_id: str
    delivered: int  # number of the other daemon's WebSockets that it was pushed to, at least 1


class BridgeStatus(Record, frozen=True):
    connected: bool
    peer_id: str
    connections: int
