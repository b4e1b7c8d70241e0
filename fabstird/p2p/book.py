"""What is known of peers across runs of the node: addresses, whom to keep, whom to keep out, tags and protection.

``peers.json`` holds known peers, kept addresses and bans; tags and protection live as long as the daemon. All of it is
bounded; of known peers the one that was seen longest ago goes first. The file is replaced as a whole; one that cannot
be read is set aside, never overwritten and never fatal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from fabstird.datadir import write_whole
from fabstird.log import get_logger
from fabstird.p2p.bans import Ban, Bans

log = get_logger("p2p.book")

MAX_PEERS = 1000
MAX_ADDRESSES = 16
MAX_KEPT = 256
MAX_TAGGED = 4096
MAX_TAGS = 32  # of one peer


class KnownPeer(msgspec.Struct, rename="camel"):
    """``addresses`` end in ``/p2p/<peer id>``, newest first; ``last_seen`` is an instant in milliseconds."""

    addresses: list[str]
    last_seen: int


class _File(msgspec.Struct, rename="camel"):
    version: int
    peers: dict[str, KnownPeer]
    kept: list[str] = []
    bans: list[Ban] = []


class BookFull(Exception):
    """A bound of the book is reached. ``what`` names it."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"no more than {limit} {what}")
        self.what = what
        self.limit = limit


class Book:
    """Known peers, least recently seen first. ``clock`` gives seconds of the wall clock."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.bans = Bans(clock=clock)
        self.changed = False
        self._clock = clock
        self._peers: dict[str, KnownPeer] = {}
        self._kept: dict[str, None] = {}
        self._tags: dict[str, dict[str, int]] = {}
        self._protected: set[str] = set()

    # ----------------------------------------------------------------------------------------------------------------
    # The file

    def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("known peers cannot be read", file=str(self.path), error=error.strerror)
            return
        try:
            stored = msgspec.json.decode(content, type=_File)
            if stored.version != 1:
                raise msgspec.ValidationError(f"version {stored.version} is not known to this daemon")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._set_aside(error)
            return
        ordered = sorted(stored.peers.items(), key=lambda item: item[1].last_seen)
        for peer_id, known in ordered[-MAX_PEERS:]:
            known.addresses = known.addresses[:MAX_ADDRESSES]
            self._peers[peer_id] = known
        self._kept = dict.fromkeys(stored.kept[:MAX_KEPT])
        self.bans.restore(stored.bans)

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(self._clock() * 1000)}")
        try:
            os.replace(self.path, aside)
        except OSError as failure:
            log.warning("known peers are damaged; starting without them", error=str(error), kept=failure.strerror)
        else:
            log.warning("known peers are damaged; starting without them", set_aside=str(aside), error=str(error))

    def encode(self) -> bytes:
        """The file's content as of now."""
        stored = _File(1, self._peers, list(self._kept), self.bans.all())
        return msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"

    def save(self) -> None:
        """Write what changed. Raises OSError: the caller decides what a full disk means to it."""
        if self.changed:
            write_whole(self.path, self.encode())
            self.changed = False

    # ----------------------------------------------------------------------------------------------------------------
    # Known peers

    def seen(self, peer_id: str, addresses: Iterable[str]) -> None:
        """The peer is connected, or was dialled, at these addresses (with ``/p2p/``); they come before older ones."""
        old = self._peers.pop(peer_id, None)
        merged = dict.fromkeys([*addresses, *(old.addresses if old else [])])
        self._peers[peer_id] = KnownPeer(list(merged)[:MAX_ADDRESSES], int(self._clock() * 1000))
        while len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self.changed = True

    def heard(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Somebody says that the peer is at these addresses: they come after what is known of it, and a stranger is the
        first to be forgotten."""
        old = self._peers.get(peer_id)
        merged = list(dict.fromkeys([*(old.addresses if old else []), *addresses]))[:MAX_ADDRESSES]
        if old is not None:
            self._peers[peer_id] = KnownPeer(merged, old.last_seen)
        elif merged:
            while len(self._peers) >= MAX_PEERS:
                del self._peers[next(iter(self._peers))]
            self._peers = {peer_id: KnownPeer(merged, 0), **self._peers}
        self.changed = True

    def addresses(self, peer_id: str) -> list[str]:
        """Known addresses with ``/p2p/``, newest first; none for a stranger."""
        known = self._peers.get(peer_id)
        return list(known.addresses) if known else []

    def last_seen(self, peer_id: str) -> int | None:
        known = self._peers.get(peer_id)
        return known.last_seen if known else None

    def __len__(self) -> int:
        return len(self._peers)

    # ----------------------------------------------------------------------------------------------------------------
    # Kept addresses

    @property
    def kept(self) -> list[str]:
        return list(self._kept)

    def keep(self, address: str) -> None:
        """Raises `BookFull`."""
        if address not in self._kept and len(self._kept) >= MAX_KEPT:
            raise BookFull("kept addresses", MAX_KEPT)
        self._kept[address] = None
        self.changed = True

    def forget(self, address: str) -> None:
        self._kept.pop(address, None)
        self.changed = True

    # ----------------------------------------------------------------------------------------------------------------
    # Tags and protection

    def tags(self, peer_id: str) -> dict[str, int]:
        return dict(self._tags.get(peer_id, {}))

    def tag(self, peer_id: str, tag: str, value: int) -> None:
        """Raises `BookFull`."""
        tags = self._tags.get(peer_id, {})
        if peer_id not in self._tags and len(self._tags) >= MAX_TAGGED:
            raise BookFull("tagged peers", MAX_TAGGED)
        if tag not in tags and len(tags) >= MAX_TAGS:
            raise BookFull("tags of one peer", MAX_TAGS)
        self._tags[peer_id] = {**tags, tag: value}

    def untag(self, peer_id: str, tag: str) -> None:
        tags = self._tags.get(peer_id, {})
        tags.pop(tag, None)
        if not tags:
            self._tags.pop(peer_id, None)

    def value(self, peer_id: str) -> int:
        """What its tags add up to."""
        return sum(self._tags[peer_id].values()) if peer_id in self._tags else 0

    def protect(self, peer_id: str) -> None:
        """Raises `BookFull`."""
        if peer_id not in self._protected and len(self._protected) >= MAX_TAGGED:
            raise BookFull("protected peers", MAX_TAGGED)
        self._protected.add(peer_id)

    def unprotect(self, peer_id: str) -> None:
        self._protected.discard(peer_id)

    def is_protected(self, peer_id: str) -> bool:
        return peer_id in self._protected

    def sizes(self) -> dict[str, tuple[int, int]]:
        """How much of each there is, and the bound."""
        return {
            "knownPeers": (len(self._peers), MAX_PEERS),
            "keptAddresses": (len(self._kept), MAX_KEPT),
            "taggedPeers": (len(self._tags), MAX_TAGGED),
            "protectedPeers": (len(self._protected), MAX_TAGGED),
        }
