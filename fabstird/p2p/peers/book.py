"""What is known about peers across runs of the node: addresses, kept addresses, bans, tags and protection.

``peers.json`` holds known peers, kept addresses and bans; tags and protection live as long as the daemon. Everything is
bounded; the known peer seen longest ago is dropped first. The file is replaced atomically. A file that cannot be read
is set aside, never overwritten, and never fatal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import trio

from fabstird.datadir import write_whole
from fabstird.log.logger import get_logger
from fabstird.p2p.peers.bans import MAX_BANS, Ban, Bans, Instant
from fabstird.stored import VERSION, Stored, decode, encode, load
from fabstird.threads import on_disk

log = get_logger("p2p.book")

MAX_PEERS = 1000
MAX_ADDRESSES = 16
MAX_KEPT = 256
MAX_TAGGED = 4096
MAX_TAGS = 32  # of one peer
LAST_SAVE = 1.0  # seconds to save when the node stops
SAVE_INTERVAL = 30.0  # seconds between two checks for changes


class KnownPeer(msgspec.Struct, rename="camel"):
    """``addresses`` end in ``/p2p/<peer id>``, newest first; ``last_seen`` is in milliseconds since the Unix epoch."""

    addresses: list[str]
    last_seen: Instant


class _File(Stored, rename="camel"):
    peers: dict[str, KnownPeer]
    kept: list[str] = msgspec.field(default_factory=list)
    bans: list[Ban] = msgspec.field(default_factory=list)


class BookFull(Exception):
    """A bound of the book is reached. ``what`` names it."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"no more than {limit} {what}")
        self.what = what
        self.limit = limit


class Book:
    """Known peers, least recently seen first. ``clock`` returns seconds of the wall clock."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.bans = Bans(clock=clock)
        self.changed = False
        self._clock = clock
        self._writing = trio.Lock()
        self._peers: dict[str, KnownPeer] = {}
        self._kept: dict[str, None] = {}
        self._leases: dict[str, set[object]] = {}  # kept addresses, each with the holders of its leases
        self._tags: dict[str, dict[str, int]] = {}
        self._protected: set[str] = set()

    # ----------------------------------------------------------------------------------------------------------------
    # The file

    def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        stored = load(
            self.path,
            lambda content: decode(content, _File),
            log,
            unreadable="known peers cannot be read",
            damaged="known peers are damaged; starting without them",
            clock=self._clock,
        )
        if stored is None:
            return
        ordered = sorted(stored.peers.items(), key=lambda item: item[1].last_seen)
        for peer_id, known in ordered[-MAX_PEERS:]:
            known.addresses = known.addresses[:MAX_ADDRESSES]
            self._peers[peer_id] = known
        self._kept = dict.fromkeys(stored.kept[:MAX_KEPT])
        self.bans.restore(stored.bans)

    def encode(self) -> bytes:
        """The current content of the file."""
        return encode(_File(VERSION, self._peers, list(self._kept), self.bans.all()))

    def save(self) -> None:
        """Write changes. Raises OSError, since the caller decides what a full disk means."""
        if self.changed:
            write_whole(self.path, self.encode())
            self.changed = False

    async def write(self) -> None:
        """As `save`, in a thread, since a disk may be slow. Raises OSError."""
        async with self._writing:
            if self.changed:
                self.changed = False
                try:
                    await on_disk(write_whole, self.path, self.encode(), abandon=True)
                except OSError:
                    self.changed = True
                    raise

    async def keep_saved(self) -> None:
        """Write changes now and then, until cancelled."""
        while True:
            await trio.sleep(SAVE_INTERVAL)
            try:
                await self.write()
            except OSError as error:
                self._warn(error.strerror)

    async def save_at_last(self) -> None:
        """As `write`, when the node stops. A disk that hangs does not delay the stop; a failure is logged."""
        with trio.move_on_after(LAST_SAVE, shield=True) as scope:
            try:
                await self.write()
            except OSError as error:
                self._warn(error.strerror)
        if scope.cancelled_caught:
            self._warn("the disk does not answer")

    def _warn(self, error: str | None) -> None:
        log.warning("known peers could not be saved", file=str(self.path), error=error)

    # ----------------------------------------------------------------------------------------------------------------
    # Known peers

    def seen(self, peer_id: str, addresses: Iterable[str]) -> None:
        """The peer is connected, or was dialled, at these addresses (with ``/p2p/``). They come before older ones."""
        old = self._peers.pop(peer_id, None)
        merged = dict.fromkeys([*addresses, *(old.addresses if old else [])])
        self._peers[peer_id] = KnownPeer(list(merged)[:MAX_ADDRESSES], int(self._clock() * 1000))
        while len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self.changed = True

    def heard(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Somebody reports addresses of a peer. They come after those already known, and such a peer is forgotten
        first."""
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
        """The known addresses of a peer, with ``/p2p/``, newest first; empty for an unknown peer."""
        known = self._peers.get(peer_id)
        return list(known.addresses) if known else []

    def latest(self, most: int) -> list[str]:
        """The peers connected most recently, newest first. Peers that were only reported are not among them."""
        return [peer_id for peer_id, known in reversed(self._peers.items()) if known.last_seen][:most]

    def __len__(self) -> int:
        return len(self._peers)

    # ----------------------------------------------------------------------------------------------------------------
    # Kept addresses

    @property
    def kept(self) -> list[str]:
        """The addresses kept for good or by a lease."""
        return list(dict.fromkeys([*self._kept, *self._leases]))

    def keep(self, address: str) -> None:
        """Keep an address for good. Raises `BookFull`."""
        self._room_for(address)
        self._kept[address] = None
        self.changed = True

    def lease(self, address: str, holder: object) -> None:
        """Keep an address as long as ``holder`` lives: until `end_lease` or `end_leases`. Raises `BookFull`."""
        self._room_for(address)
        self._leases.setdefault(address, set()).add(holder)

    def forget(self, address: str) -> bool:
        """Stop keeping an address for good; leases go on. Whether it was kept for good."""
        found = address in self._kept
        if found:
            del self._kept[address]
            self.changed = True
        return found

    def leased(self, holder: object) -> list[str]:
        """The addresses that ``holder`` leases."""
        return [address for address, holders in self._leases.items() if holder in holders]

    def end_lease(self, address: str, holder: object) -> bool:
        """End a lease; whether ``holder`` had it."""
        holders = self._leases.get(address, set())
        found = holder in holders
        holders.discard(holder)
        if found and not holders:
            del self._leases[address]
        return found

    def _room_for(self, address: str) -> None:
        if address not in self._kept and address not in self._leases and len(self.kept) >= MAX_KEPT:
            raise BookFull("kept addresses", MAX_KEPT)

    # ----------------------------------------------------------------------------------------------------------------
    # Tags and protection

    def tags(self, peer_id: str) -> dict[str, int]:
        return dict(self._tags.get(peer_id, {}))

    def tag(self, peer_id: str, tag: str, value: int) -> None:
        """Set a tag of a peer. Raises `BookFull`."""
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
        """The sum of a peer's tags."""
        return sum(self._tags[peer_id].values()) if peer_id in self._tags else 0

    def protect(self, peer_id: str) -> None:
        """Protect a peer. Raises `BookFull`."""
        if peer_id not in self._protected and len(self._protected) >= MAX_TAGGED:
            raise BookFull("protected peers", MAX_TAGGED)
        self._protected.add(peer_id)

    def unprotect(self, peer_id: str) -> None:
        self._protected.discard(peer_id)

    def is_protected(self, peer_id: str) -> bool:
        return peer_id in self._protected

    def bounds(self) -> dict[str, tuple[int, int]]:
        """The amounts that are bounded, and their bounds."""
        return {
            "knownPeers": (len(self._peers), MAX_PEERS),
            "keptAddresses": (len(self.kept), MAX_KEPT),
            "taggedPeers": (len(self._tags), MAX_TAGGED),
            "protectedPeers": (len(self._protected), MAX_TAGGED),
            "bans": (len(self.bans), MAX_BANS),
        }
