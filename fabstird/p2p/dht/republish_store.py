"""The records that users announce, to be announced again: ``dht.json`` in the data directory.

The file is replaced atomically. A file that cannot be read is set aside, never overwritten, and never fatal. Times are
seconds of the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fabstird.datadir import write_whole
from fabstird.log.logger import get_logger
from fabstird.stored import VERSION, Stored, decode, encode, load

log = get_logger("p2p.dht")

MAX_KEPT = 1024  # records
MAX_FILE = 512 * 1024 * 1024  # bytes: room for that many records of the largest DHT message


class Entry(msgspec.Struct):
    """A record. ``value`` is None for a provided key. ``announced`` is 0 before the first time."""

    key: bytes
    value: bytes | None = None
    announced: float = 0.0

    @property
    def name(self) -> tuple[bool, bytes]:
        """Identifies the record: whether it has a value, and its key."""
        return self.value is not None, self.key


class _File(Stored):
    records: list[Entry]


class KeptFull(Exception):
    """The store is full."""


class Kept:
    """The records. ``clock`` returns seconds of the wall clock."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._entries: dict[tuple[bool, bytes], Entry] = {}  # by `Entry.name`

    def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        stored = load(
            self.path,
            lambda content: decode(content, _File),
            log,
            unreadable="records of the DHT cannot be read",
            damaged="records of the DHT are damaged",
            clock=self._clock,
            most=MAX_FILE,
        )
        for entry in stored.records[:MAX_KEPT] if stored else ():
            self._entries[entry.name] = entry

    def save(self) -> None:
        """Write the file. Raises OSError."""
        write_whole(self.path, encode(_File(VERSION, list(self._entries.values()))))

    def put(self, key: bytes, value: bytes | None) -> Entry:
        """Add a provided key, or a value. Raises `KeptFull`."""
        entry = Entry(key, value)
        if entry.name not in self._entries and len(self._entries) >= MAX_KEPT:
            raise KeptFull
        self._entries[entry.name] = entry
        return entry

    def forget(self, key: bytes) -> list[Entry]:
        """Remove the records of a key, and return them."""
        found = (self._entries.pop((valued, key), None) for valued in (False, True))
        return [entry for entry in found if entry is not None]

    def get(self, name: tuple[bool, bytes]) -> Entry | None:
        return self._entries.get(name)

    def provides(self, key: bytes) -> bool:
        return (False, key) in self._entries

    def announced(self, entry: Entry) -> None:
        """Note that a record was announced just now."""
        entry.announced = self._clock()

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
