"""What users provide and have put into the DHT, to be announced again: ``dht.json`` in the data directory.

The file is replaced as a whole; one that cannot be read is set aside, never overwritten and never fatal. Instants are
seconds of the wall clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fabstird.datadir import write_whole
from fabstird.log import get_logger

log = get_logger("p2p.dht")

AGAIN = 12 * 3600.0  # seconds after which a record is announced again
MAX_KEPT = 1024  # records


class Entry(msgspec.Struct):
    """``value`` is None for a key that is provided. ``announced`` is 0 before the first time."""

    key: bytes
    value: bytes | None = None
    announced: float = 0.0


class _File(msgspec.Struct):
    version: int
    records: list[Entry]


class KeptFull(Exception):
    """No more records are kept."""


class Kept:
    """``clock`` gives seconds of the wall clock."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._entries: dict[tuple[bool, bytes], Entry] = {}  # by whether it has a value, and key

    def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("records of the DHT cannot be read", file=str(self.path), error=error.strerror)
            return
        try:
            stored = msgspec.json.decode(content, type=_File)
            if stored.version != 1:
                raise msgspec.ValidationError(f"version {stored.version} is not known to this daemon")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(self._clock() * 1000)}")
            try:
                os.replace(self.path, aside)
            except OSError as failure:
                log.warning("records of the DHT are damaged", error=str(error), kept=failure.strerror)
            else:
                log.warning("records of the DHT are damaged", set_aside=str(aside), error=str(error))
            return
        for entry in stored.records[:MAX_KEPT]:
            self._entries[entry.value is not None, entry.key] = entry

    def save(self) -> None:
        """Raises OSError."""
        content = msgspec.json.encode(_File(1, list(self._entries.values())))
        write_whole(self.path, msgspec.json.format(content, indent=1) + b"\n")

    def put(self, key: bytes, value: bytes | None) -> Entry:
        """Keep a provided key, or a value. Raises `KeptFull`."""
        where = (value is not None, key)
        if where not in self._entries and len(self._entries) >= MAX_KEPT:
            raise KeptFull
        entry = self._entries[where] = Entry(key, value)
        return entry

    def forget(self, key: bytes) -> list[Entry]:
        """Announce nothing under this key any more; what was."""
        found = (self._entries.pop((valued, key), None) for valued in (False, True))
        return [entry for entry in found if entry is not None]

    def provides(self, key: bytes) -> bool:
        return (False, key) in self._entries

    def announced(self, entry: Entry) -> None:
        """It has been, just now."""
        entry.announced = self._clock()

    def due(self) -> list[Entry]:
        """What is to be announced again now, the longest overdue first. A clock that was set back delays nothing."""
        now = self._clock()
        found = [one for one in self._entries.values() if not now - AGAIN < one.announced <= now]
        return sorted(found, key=lambda one: one.announced)

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
