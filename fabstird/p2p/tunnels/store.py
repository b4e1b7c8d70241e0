"""Tunnels that survive a restart: ``tunnels.json`` in the data directory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fabstir_client.api.tunnels import TunnelKind
from fabstird.datadir import write_whole
from fabstird.log.logger import get_logger
from fabstird.stored import VERSION, Stored, decode, encode, load
from fabstird.threads import on_disk

log = get_logger("p2p.tunnels")

FILE = "tunnels.json"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """The definition of a tunnel, without its state. ``end`` is the target of a listen tunnel, or where a forward
    tunnel listens."""

    tunnel_id: str
    kind: TunnelKind
    protocol: str
    end: str
    peer_id: str | None = None
    peers: list[str] | None = None
    proxy_protocol: bool = False


class _File(Stored, forbid_unknown_fields=True):
    tunnels: list[Kept]


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self) -> list[Kept]:
        """The saved tunnels. A damaged file is set aside with a warning."""
        found = await on_disk(self._read)
        return found or []

    def _read(self) -> list[Kept] | None:
        return load(
            self.path,
            lambda content: decode(content, _File).tunnels,
            log,
            unreadable="tunnels cannot be read; none of those that were kept is there",
            damaged="kept tunnels are damaged; make them anew",
            clock=time.time,
        )

    async def write(self, tunnels: Iterable[Kept]) -> None:
        """Save the tunnels. Raises OSError."""
        await on_disk(write_whole, self.path, encode(_File(VERSION, list(tunnels))))
