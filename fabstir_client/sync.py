"""The blocking client: the same names as `fabstir_client`, for programs without an event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabstir_client._sync.client import Client as Client
    from fabstir_client._sync.client import connect as connect
    from fabstir_client._sync.client import connect as connect_sync
    from fabstir_client._sync.events import EventStream as EventStream
    from fabstir_client._sync.p2p import P2PClient as P2PClient
    from fabstir_client._sync.sdk import FabstirSDK as FabstirSDK
    from fabstir_client._sync.stream import Stream as Stream

_HOMES = {
    **dict.fromkeys(("Client", "connect"), "client"),
    "EventStream": "events",
    "Stream": "stream",
    "P2PClient": "p2p",
    "FabstirSDK": "sdk",
}

__all__ = ["Client", "EventStream", "FabstirSDK", "P2PClient", "Stream", "connect", "connect_sync"]


def __getattr__(name: str) -> Any:
    if name == "connect_sync":
        name = "connect"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fabstir_client._sync.{_HOMES[name]}"), name)
