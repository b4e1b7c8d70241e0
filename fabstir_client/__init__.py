"""Thin client of fabstird, the local P2P daemon.

``connect()`` and ``connect_sync()`` give a client; ``P2PClient`` and ``FabstirSDK`` are the classes of the TypeScript
SDK on top of it; `fabstir_client.sync` has their blocking twins. Errors are one tree under ``FabstirError``.

Names are imported when they are first used: who blocks never imports an event loop's library, and the command line
starts without either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fabstir_client._version import __version__ as __version__

if TYPE_CHECKING:
    from fabstir_client.client import Client as Client
    from fabstir_client.client import connect as connect
    from fabstir_client.errors import BadAnswer as BadAnswer
    from fabstir_client.errors import ClientTimeout as ClientTimeout
    from fabstir_client.errors import ConnectionLost as ConnectionLost
    from fabstir_client.errors import DaemonUnreachable as DaemonUnreachable
    from fabstir_client.errors import DeadlineExceeded as DeadlineExceeded
    from fabstir_client.errors import DialFailed as DialFailed
    from fabstir_client.errors import FabstirError as FabstirError
    from fabstir_client.errors import FeatureDisabled as FeatureDisabled
    from fabstir_client.errors import Forbidden as Forbidden
    from fabstir_client.errors import InternalError as InternalError
    from fabstir_client.errors import InvalidConfig as InvalidConfig
    from fabstir_client.errors import InvalidParams as InvalidParams
    from fabstir_client.errors import InvalidRequest as InvalidRequest
    from fabstir_client.errors import InvalidState as InvalidState
    from fabstir_client.errors import LimitExceeded as LimitExceeded
    from fabstir_client.errors import ListenFailed as ListenFailed
    from fabstir_client.errors import MethodNotFound as MethodNotFound
    from fabstir_client.errors import NodeNotRunning as NodeNotRunning
    from fabstir_client.errors import ParseError as ParseError
    from fabstir_client.errors import PeerNotFound as PeerNotFound
    from fabstir_client.errors import RpcError as RpcError
    from fabstir_client.errors import TooLarge as TooLarge
    from fabstir_client.p2p import P2PClient as P2PClient
    from fabstir_client.sdk import FabstirSDK as FabstirSDK
    from fabstir_client.stream import EventStream as EventStream
    from fabstir_client.sync import connect_sync as connect_sync
    from fabstir_client.types import Event as Event
    from fabstir_client.types import Lagged as Lagged
    from fabstir_client.types import NodeOverrides as NodeOverrides

_ERRORS = (
    "BadAnswer ClientTimeout ConnectionLost DaemonUnreachable DeadlineExceeded DialFailed FabstirError FeatureDisabled "
    "Forbidden InternalError InvalidConfig InvalidParams InvalidRequest InvalidState LimitExceeded ListenFailed "
    "MethodNotFound NodeNotRunning ParseError PeerNotFound RpcError TooLarge"
)
_HOMES = {
    **dict.fromkeys(("Client", "connect"), "client"),
    **dict.fromkeys(_ERRORS.split(), "errors"),
    "P2PClient": "p2p",
    "FabstirSDK": "sdk",
    "EventStream": "stream",
    "connect_sync": "sync",
    **dict.fromkeys(("Event", "Lagged", "NodeOverrides"), "types"),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        return getattr(import_module(f"fabstir_client.{home}"), name)
    if name in ("calls", "client", "discovery", "errors", "p2p", "protocol", "sdk", "sync", "types"):
        return import_module(f"fabstir_client.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
