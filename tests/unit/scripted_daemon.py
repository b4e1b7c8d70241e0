"""The scripted daemon of `fabstir_client.testing` for the client's own tests: it may also say what no daemon says, so
that the client meets fields, events and methods that are newer than it, and nonsense.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabstir_client.api.errors import MethodNotFound
from fabstir_client.testing import ScriptedDaemon as Held
from fabstir_client.testing.connections import Connection

PEER = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
OWN = "12D3KooWOwn"
TOKEN = "the-token-of-the-test"
INSTANT = 1_700_000_000_000


def descriptors() -> int:
    """The open file descriptors of this process, those of the server's side included."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class ScriptedDaemon(Held):
    """``peers`` are ids alone, and ``methods`` all that there are, but for those about events."""

    held = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.data_dir = path.parent
        self.epoch = "run-1"
        self.peer_id = OWN
        self.state = "stopped"
        self.methods = {
            **{name: self.by_itself[name] for name in ("status", "start", "stop", "peers", "events")},
            "echo": lambda params: params,
        }

    @property
    def connections(self) -> list[Connection]:
        return self._connections.open

    @property
    def opened(self) -> int:
        return self._connections.opened

    def serve_websocket(self, token: str) -> int:
        return self._connections.listen_http(token, 4096)

    def status(self) -> dict[str, Any]:
        return super().status() | {"listenAddresses": [], "version": "0"}

    def peer(self, peer_id: str = PEER, address: str | None = None, direction: str = "inbound") -> dict[str, Any]:
        fresh = {"addresses": [], "connections": [], "bytesIn": 0, "bytesOut": 0, "somethingNew": 1}
        return super().peer(peer_id, address, direction) | fresh

    def peer_records(self) -> list[dict[str, Any]]:
        return [self.peer(peer) for peer in self.peers]

    def disconnect_peer(self, peer_id: str = PEER, *, reason: str = "closed_by_peer") -> int:
        self.peers.remove(peer_id)
        return self.publish("peer:disconnect", peerId=peer_id, reason=reason, duration=1)

    def now(self) -> int:
        return INSTANT

    def _result(self, connection: Connection, method: str, params: Any) -> Any:
        if method not in self.methods:
            raise MethodNotFound(f"no method {method}")
        return super()._result(connection, method, params)


@contextlib.contextmanager
def scripted_daemon(path: Path) -> Iterator[ScriptedDaemon]:
    """A running `ScriptedDaemon` on a Unix socket."""
    with ScriptedDaemon(path) as daemon:
        yield daemon


def note(daemon: ScriptedDaemon, *notes: str) -> None:
    for text in notes:
        daemon.publish("note", text=text)


def connect_peer(daemon: ScriptedDaemon, peer: str = PEER) -> int:
    """Where the event stands in the log."""
    daemon.peers.append(peer)
    return daemon.publish("peer:connect", peerId=peer, address="/ip4/1.2.3.4/tcp/1", direction="inbound")
