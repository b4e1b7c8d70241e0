"""The event log: one numbered timeline for each run of the daemon. Readers follow it with a cursor.

`EventLog.publish` is synchronous, bounded and never raises, since it is called on the connection path. An entry is
serialised once, however many read it. A reader that falls behind the ring is told how many entries it missed. Nothing
is queued for any reader, so a slow one costs no memory and delays nobody.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from fabstir_client.api.types import EventData
from fabstird.foreign import encodable

Tap = Callable[["Entry"], None]

MAX_EVENT = 8 * 1024  # bytes of an event's data as JSON
MAX_TEXT = 256  # characters that a text is cut to in an event that is too large


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. ``body`` is its JSON from ``"epoch"`` to the end of ``data``, without braces, so that a transport only
    adds its own envelope."""

    seq: int
    type: str
    data: EventData
    body: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands for missing entries. ``missed`` is None for a reader that comes from another run of the daemon."""

    missed: int | None
    resume: int


@dataclass(slots=True, eq=False)
class Reader:
    """A subscription as the log knows it, with its position. ``name`` is its transport."""

    name: str
    after: int
    types: frozenset[str] | None


class AfterHead(ValueError):
    """A reader asked for entries after one that does not exist yet."""


class EventLog:
    """The events of this run.

    Attributes:
        epoch: Names this run.
        head: The number of the newest entry; 0 before the first.
        oldest: The number of the oldest entry that is kept; ``head + 1`` where none is.

    At most ``capacity`` entries, and ``max_bytes`` of JSON, are kept.
    """

    def __init__(
        self, capacity: int, max_bytes: int = 16 * 1024 * 1024, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self.head = 0
        self._clock = clock
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.size = 0  # bytes of the kept entries
        self.oldest = 1
        self._ring: list[Entry | None] = []  # entry n is at (n - 1) % capacity
        self._more = trio.Event()
        self._taps: list[Tap] = []
        self.emitted: Counter[str] = Counter()  # by type
        self.readers: set[Reader] = set()
        self.sent: Counter[str] = Counter()  # to readers, by transport
        self.lagged = 0  # times that a reader was told of a gap
        self.missed = 0  # entries in those gaps, as far as known

    def tap(self, tap: Tap) -> None:
        """Call ``tap`` with every entry as it is published, for metrics and the log. It must be quick and never
        raise."""
        self._taps.append(tap)

    def publish(self, data: EventData) -> Entry:
        try:
            encoded = msgspec.json.encode(data)
        except UnicodeEncodeError:  # half a surrogate pair, from the process's arguments or environment
            data = msgspec.convert(encodable(msgspec.to_builtins(data)), type(data))
            encoded = msgspec.json.encode(data)
        if len(encoded) > MAX_EVENT:
            data = msgspec.convert(_cut(msgspec.to_builtins(data)), type(data))
            encoded = msgspec.json.encode(data)
        self.head += 1
        self.emitted[data.TYPE] += 1
        head = {"epoch": self.epoch, "seq": self.head, "time": int(self._clock() * 1000), "type": data.TYPE}
        body = msgspec.json.encode(head)[1:-1] + b',"data":' + encoded
        entry = Entry(self.head, data.TYPE, data, body)
        if len(self._ring) < self.capacity:
            self._ring.append(entry)
        else:
            if self.oldest == self.head - self.capacity:
                self._drop()
            self._ring[(self.head - 1) % self.capacity] = entry
        self.size += len(body)
        while self.size > self.max_bytes and self.oldest < self.head:
            self._drop()
        for tap in self._taps:
            tap(entry)
        # Waking through a fresh event costs one object for each publish with readers, and nothing without.
        if self._more.statistics().tasks_waiting:
            self._more.set()
            self._more = trio.Event()
        return entry

    def note_gap(self, gap: Gap) -> None:
        """Count a gap that a reader is told of."""
        self.lagged += 1
        self.missed += gap.missed or 0

    def _drop(self) -> None:
        """Forget the oldest entry."""
        place = (self.oldest - 1) % self.capacity
        entry, self._ring[place] = self._ring[place], None
        assert entry is not None
        self.size -= len(entry.body)
        self.oldest += 1

    def start_after(self, after: int | None, epoch: str | None) -> tuple[int, Gap | None]:
        """Where a reader begins that has seen entry ``after`` of run ``epoch``, and the gap to report to it first.

        Raises `AfterHead` where ``after`` lies beyond the head of this run.
        """
        if after is None:
            return self.head, None
        if epoch is not None and epoch != self.epoch:
            return self.head, Gap(None, self.head + 1)
        if after > self.head:
            raise AfterHead(f"after is {after}, but the newest event is {self.head}")
        if after + 1 < self.oldest:
            return self.oldest - 1, Gap(self.oldest - 1 - after, self.oldest)
        return after, None

    def read(self, after: int, limit: int | None = None) -> list[Entry | Gap]:
        """The kept entries after ``after``, at most ``limit``, preceded by a `Gap` where some are gone."""
        if after >= self.head:
            return []
        first = max(after + 1, self.oldest)
        last = self.head if limit is None else min(self.head, first + limit - 1)
        found: list[Entry | Gap] = [Gap(first - after - 1, first)] if first > after + 1 else []
        ring, capacity = self._ring, self.capacity
        kept = (ring[(number - 1) % capacity] for number in range(first, last + 1))
        found += [entry for entry in kept if entry is not None]
        return found

    async def wait_beyond(self, after: int) -> None:
        """Return once there is an entry after ``after``. The caller sets the deadline."""
        while after >= self.head:
            await self._more.wait()


def _cut(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` cut to size: its texts are cut, then the longest list loses its second half, as often as needed."""
    data = {key: _short(value) for key, value in data.items()}
    while len(msgspec.json.encode(data)) > MAX_EVENT:
        longest = max(data, key=lambda key: len(data[key]) if isinstance(data[key], list) else 0)
        if not isinstance(data[longest], list) or not data[longest]:
            return data  # no event is of such a kind
        data[longest] = data[longest][: len(data[longest]) // 2]
    return data


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, list):
        return [_short(one) for one in value]
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return value
