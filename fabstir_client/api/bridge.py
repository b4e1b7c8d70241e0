"""Vocabulary of the bridge: what the TypeScript SDK's own P2P client asks over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fabstir_client.api.types import Params, Record, words


class BridgeFilter(Params, frozen=True):
    capabilities: list[str] | None = None  # names, such as of models; nodes that provide all of them
    min_reputation: float | None = None  # as the node says; one of which it is not known does not pass


class BridgeDiscoverParams(Params, frozen=True):
    filter: BridgeFilter | None = None  # which nodes; all connected peers where it is left out


class BridgeSendParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("message",)
    peer_id: str
    message: Any  # any JSON; the SDK's own are objects {type, payload}


class BridgeNode(Record, frozen=True):
    id: str  # peer id
    address: str  # multiaddr; "" where none is known
    capabilities: list[str]  # those that were asked for


class BridgeNodes(Record, frozen=True):
    nodes: list[BridgeNode]  # that were found
    source: Annotated[
        str, words("dht", "local")
    ]  # "dht" where capabilities were searched there, "local" for connected peers


class BridgeSent(Record, frozen=True):
    peer_id: str
    delivered: int  # WebSockets of the other daemon that it was pushed to; one at least


class BridgeStatus(Record, frozen=True):
    connected: bool
    peer_id: str
    connections: int
