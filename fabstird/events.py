"""The event log: one numbered timeline for each run of the daemon; readers follow it with a cursor.

`EventLog.publish` is synchronous, bounded and never raises, because libp2p's connection path calls it. An entry is
serialised once, however many read it. A reader that falls behind the ring is told how many entries it missed; nothing
is queued for anybody, so a slow reader costs no memory and delays nobody (CONTRACT, section 5).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import trio

from fabstir_client.types import EventData

Tap = Callable[["Entry"], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. ``body`` is its JSON from ``"epoch"`` to the end of ``data``, without braces, so that a transport only
    has to put its own envelope around it."""

    seq: int
    type: str
    data: EventData
    body: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands where entries are missing. ``missed`` is None where the reader came from another run of the daemon."""

    missed: int | None
    resume: int


@dataclass(slots=True, eq=False)
class Reader:
    """A subscription, as far as the log knows it: where it stands. ``name`` is its transport."""

    name: str
    after: int
    types: frozenset[str] | None


class AfterHead(ValueError):
    """A reader asked for what comes after an entry that does not exist yet."""


class EventLog:
    """``epoch`` names this run; ``head`` is the number of the newest entry, 0 before the first."""

    def __init__(self, capacity: int, *, clock: Callable[[], float] = time.time) -> None:
        self.epoch = secrets.token_hex(8)
        self.head = 0
        self._clock = clock
        self.capacity = capacity  # entries that are kept
        self._ring: list[Entry] = []  # entry n is at (n - 1) % capacity
        self._more = trio.Event()
        self._taps: list[Tap] = []
        self.emitted: Counter[str] = Counter()  # by type
        self.readers: set[Reader] = set()
        self.sent: Counter[str] = Counter()  # entries sent to readers, by their name
        self.lagged = 0  # times that a reader was told of a gap
        self.missed = 0  # entries in those gaps, as far as they can be counted

    def tap(self, tap: Tap) -> None:
        """Call ``tap`` with every entry as it is published: for metrics and the log; must be quick and never raise."""
        self._taps.append(tap)

    def publish(self, data: EventData) -> Entry:
        self.head += 1
        self.emitted[data.TYPE] += 1
        head = {"epoch": self.epoch, "seq": self.head, "time": int(self._clock() * 1000), "type": data.TYPE}
        body = msgspec.json.encode(head)[1:-1] + b',"data":' + msgspec.json.encode(data)
        entry = Entry(self.head, data.TYPE, data, body)
        if len(self._ring) < self.capacity:
            self._ring.append(entry)
        else:
            self._ring[(self.head - 1) % self.capacity] = entry
        for tap in self._taps:
            tap(entry)
        # Waking through a fresh event costs one object for a publish with readers, and nothing without.
        if self._more.statistics().tasks_waiting:
            self._more.set()
            self._more = trio.Event()
        return entry

    def note_gap(self, gap: Gap) -> None:
        """Count a gap that a reader is told of."""
        self.lagged += 1
        self.missed += gap.missed or 0

    @property
    def oldest(self) -> int:
        """The number of the oldest entry that is kept; ``head + 1`` where none is."""
        return self.head + 1 - len(self._ring)

    def start_after(self, after: int | None, epoch: str | None) -> tuple[int, Gap | None]:
        """Where a reader that has seen ``after`` of run ``epoch`` begins, and the gap it must be told of first.

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
        """What is kept after entry ``after``, at most ``limit`` entries, led by a `Gap` where some of it is gone."""
        if after >= self.head:
            return []
        first = max(after + 1, self.oldest)
        last = self.head if limit is None else min(self.head, first + limit - 1)
        found: list[Entry | Gap] = [Gap(first - after - 1, first)] if first > after + 1 else []
        ring, capacity = self._ring, self.capacity
        found += [ring[(number - 1) % capacity] for number in range(first, last + 1)]
        return found

    async def wait_beyond(self, after: int) -> None:
        """Return once there is an entry after ``after``; unbounded: the caller brings the deadline."""
        while after >= self.head:
            await self._more.wait()
