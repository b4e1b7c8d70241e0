"""Thin client of fabstird, the local P2P daemon.

``connect()`` and ``connect_sync()`` return a client. ``P2PClient`` and ``FabstirSDK`` are the TypeScript SDK's classes
on top of it, and `fabstir_client.sync` has their blocking versions. All errors are subclasses of ``FabstirError``.

Names are imported when they are first used, so a blocking program never imports an event loop's library, and the
command line starts without either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fabstir_client._version import __version__ as __version__

if TYPE_CHECKING:
    from fabstir_client._async.client import Client as Client
    from fabstir_client._async.client import connect as connect
    from fabstir_client._async.events import EventStream as EventStream
    from fabstir_client._async.p2p import P2PClient as P2PClient
    from fabstir_client._async.sdk import FabstirSDK as FabstirSDK
    from fabstir_client._async.stream import Stream as Stream
    from fabstir_client._async.stream import StreamBroken as StreamBroken
    from fabstir_client.api.errors import BadAnswer as BadAnswer
    from fabstir_client.api.errors import ClientTimeout as ClientTimeout
    from fabstir_client.api.errors import ConnectionLost as ConnectionLost
    from fabstir_client.api.errors import DaemonUnreachable as DaemonUnreachable
    from fabstir_client.api.errors import DeadlineExceeded as DeadlineExceeded
    from fabstir_client.api.errors import DialFailed as DialFailed
    from fabstir_client.api.errors import FabstirError as FabstirError
    from fabstir_client.api.errors import FeatureDisabled as FeatureDisabled
    from fabstir_client.api.errors import Forbidden as Forbidden
    from fabstir_client.api.errors import InternalError as InternalError
    from fabstir_client.api.errors import InvalidConfig as InvalidConfig
    from fabstir_client.api.errors import InvalidParams as InvalidParams
    from fabstir_client.api.errors import InvalidRequest as InvalidRequest
    from fabstir_client.api.errors import InvalidState as InvalidState
    from fabstir_client.api.errors import LimitExceeded as LimitExceeded
    from fabstir_client.api.errors import ListenFailed as ListenFailed
    from fabstir_client.api.errors import MethodNotFound as MethodNotFound
    from fabstir_client.api.errors import NodeNotRunning as NodeNotRunning
    from fabstir_client.api.errors import ParseError as ParseError
    from fabstir_client.api.errors import PeerNotFound as PeerNotFound
    from fabstir_client.api.errors import RpcError as RpcError
    from fabstir_client.api.errors import StreamFailed as StreamFailed
    from fabstir_client.api.errors import StreamReset as StreamReset
    from fabstir_client.api.errors import TooLarge as TooLarge
    from fabstir_client.api.types import Event as Event
    from fabstir_client.api.types import Lagged as Lagged
    from fabstir_client.api.types import NodeOverrides as NodeOverrides
    from fabstir_client.sync import connect_sync as connect_sync

_ERRORS = (
    "BadAnswer ClientTimeout ConnectionLost DaemonUnreachable DeadlineExceeded DialFailed FabstirError FeatureDisabled "
    "Forbidden InternalError InvalidConfig InvalidParams InvalidRequest InvalidState LimitExceeded ListenFailed "
    "MethodNotFound NodeNotRunning ParseError PeerNotFound RpcError StreamFailed StreamReset TooLarge"
)
_HOMES = {
    **dict.fromkeys(("Client", "connect"), "_async.client"),
    **dict.fromkeys(_ERRORS.split(), "api.errors"),
    "P2PClient": "_async.p2p",
    "FabstirSDK": "_async.sdk",
    "EventStream": "_async.events",
    **dict.fromkeys(("Stream", "StreamBroken"), "_async.stream"),
    **dict.fromkeys(("Event", "Lagged", "NodeOverrides"), "api.types"),
}

_MODULES = {"errors": "api.errors", "types": "api.types", "sync": "sync"}


def __getattr__(name: str) -> Any:
    if name == "connect_sync":
        return import_module("fabstir_client._sync.client").connect
    home = _HOMES.get(name)
    if home is not None:
        return getattr(import_module(f"fabstir_client.{home}"), name)
    if name in _MODULES:
        return import_module(f"fabstir_client.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "connect_sync"})
