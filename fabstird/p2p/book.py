"""Known peers and their addresses, kept across restarts in ``peers.json``.

Bounded in peers and in addresses of each; the one that was seen longest ago goes first. The file is replaced as a
whole; one that cannot be read is set aside, never overwritten and never fatal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from fabstird.datadir import write_whole
from fabstird.log import get_logger

log = get_logger("p2p.book")

MAX_PEERS = 1000
MAX_ADDRESSES = 16


class KnownPeer(msgspec.Struct, rename="camel"):
    """``addresses`` end in ``/p2p/<peer id>``, newest first; ``last_seen`` is an instant in milliseconds."""

    addresses: list[str]
    last_seen: int


class _File(msgspec.Struct, rename="camel"):
    version: int
    peers: dict[str, KnownPeer]


class Book:
    """Known peers, least recently seen first."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._peers: dict[str, KnownPeer] = {}
        self.changed = False

    def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("known peers cannot be read", file=str(self._path), error=error.strerror)
            return
        try:
            stored = msgspec.json.decode(content, type=_File)
            if stored.version != 1:
                raise msgspec.ValidationError(f"version {stored.version} is not known to this daemon")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{int(self._clock() * 1000)}")
            os.replace(self._path, aside)
            log.warning("known peers are damaged; starting without them", set_aside=str(aside), error=str(error))
            return
        ordered = sorted(stored.peers.items(), key=lambda item: item[1].last_seen)
        for peer_id, known in ordered[-MAX_PEERS:]:
            known.addresses = known.addresses[:MAX_ADDRESSES]
            self._peers[peer_id] = known

    def save(self) -> None:
        """Write what changed. Raises OSError: the caller decides what a full disk means to it."""
        if self.changed:
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(_File(1, self._peers)), indent=1))
            self.changed = False

    def seen(self, peer_id: str, addresses: Iterable[str]) -> None:
        """The peer is connected, or was dialled, at these addresses (with ``/p2p/``); they come before older ones."""
        old = self._peers.pop(peer_id, None)
        merged = dict.fromkeys([*addresses, *(old.addresses if old else [])])
        self._peers[peer_id] = KnownPeer(list(merged)[:MAX_ADDRESSES], int(self._clock() * 1000))
        while len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self.changed = True

    def addresses(self, peer_id: str) -> list[str]:
        """Known addresses with ``/p2p/``, newest first; none for a stranger."""
        known = self._peers.get(peer_id)
        return list(known.addresses) if known else []

    def __len__(self) -> int:
        return len(self._peers)
