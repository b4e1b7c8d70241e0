"""Sends events to subscribers: in each turn of the event loop, one pass over all who are up to date.

Waking a task for each subscriber costs ten times as much as its notification. So one task writes to all sockets, and
reuses the bytes for all subscribers at the same place. A subscriber whose socket is full is left to a task of its own
connection, which continues from the subscription's cursor and hands it back once it has caught up. A slow reader delays
nobody, and holds one chunk of bytes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from fabstird.api.sockets import Outbox
from fabstird.api.wire_format import Framing
from fabstird.events import Entry, EventLog, Gap, Reader
from fabstird.rpc.event_messages import heartbeat, matches, notification, position

CHUNK_BYTES = 65536  # of notifications handed to a connection at once; at least one notification
CHUNK_ENTRIES = 1024  # entries of the log read at once
KEPT_CHUNKS = 16  # newest chunks, kept for other subscribers at the same place
TURN = 1 << 20  # bytes written before other tasks get a turn: some milliseconds
LOOK = 0.005  # seconds between two checks whether all has been sent
WRITE = 512  # bytes that could be written in the time of one system call


class Follower(Protocol):
    """A connection with subscriptions."""

    outbox: Outbox
    framing: Framing
    behind: bool  # a task of its own connection serves its subscriptions

    def fall_behind(self) -> None:
        """Let a task of this connection serve its subscriptions, until `Fanout.catch_up` says that they have caught
        up."""


@dataclass(slots=True, eq=False)
class Subscription(Reader):
    """A subscription to the event log. ``label`` names it on its connection; ``gap`` is reported before any further
    event."""

    label: str
    follower: Follower
    gap: Gap | None
    active: bool = True
    last_sent: float = 0.0  # when something was last sent


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Notifications as sent, the number of the last entry that they cover, how many entries they report, and the gap
    that they begin with."""

    data: bytes
    after: int
    entries: int
    gap: Gap | None


class Fanout:
    """Sends events to all subscriptions. Made by `running`."""

    def __init__(self, events: EventLog, silence: float) -> None:
        """``silence`` is how many seconds a subscription may be idle until it gets a heartbeat."""
        self._events = events
        self._silence = silence
        self._subscriptions: dict[Subscription, None] = {}  # an ordered set
        self._beats: list[tuple[float, int, Subscription]] = []  # a heap: when a heartbeat may be due
        self._numbers = itertools.count()
        self._ended = 0  # entries of the heap whose subscription has ended
        self._written = 0  # bytes since other tasks had a turn
        self._chunks: OrderedDict[tuple[object, ...], _Chunk] = OrderedDict()
        self._wake = trio.Event()
        events.tap(lambda _: self._wake.set())

    @classmethod
    @asynccontextmanager
    async def running(cls, events: EventLog, silence: float) -> AsyncIterator[Fanout]:
        fanout = cls(events, silence)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fanout._run)
            yield fanout
            nursery.cancel_scope.cancel()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        """Send it everything after its cursor, from the next turn on."""
        self._subscriptions[subscription] = None
        self._events.readers.add(subscription)
        subscription.last_sent = trio.current_time()
        heapq.heappush(self._beats, (subscription.last_sent + self._silence, next(self._numbers), subscription))
        # A pass visits every subscription, so a pass for each of a thousand newcomers would make a million visits.
        if not self._at_head(subscription) or self._beats[0][2] is subscription:
            self._wake.set()

    def remove(self, subscription: Subscription) -> None:
        """Write nothing more for it."""
        if not subscription.active:
            return
        subscription.active = False
        if subscription not in self._subscriptions:
            return  # it was never added, since its reply was not sent
        del self._subscriptions[subscription]
        self._events.readers.discard(subscription)
        self._ended += 1
        if self._ended > len(self._subscriptions):
            self._beats = [beat for beat in self._beats if beat[2].active]
            heapq.heapify(self._beats)
            self._ended = 0

    def catch_up(self, subscriptions: list[Subscription]) -> bool:
        """Write a chunk for each subscription of a connection while its socket takes them, the one that has waited
        longest first. Returns whether there was anything to write."""
        subscriptions.sort(key=lambda subscription: subscription.last_sent)
        return sum([self._deliver(subscription) for subscription in subscriptions if subscription.active]) > 0

    async def all_sent(self) -> None:
        """Return once all subscribers' sockets have taken everything. The caller sets the deadline."""
        # Polled, against ruff's advice: an event would have to be set at every write, and this runs once, when the
        # daemon stops
        while not all(self._is_sent(subscription) for subscription in self._subscriptions):  # noqa: ASYNC110
            await trio.sleep(LOOK)

    # ----------------------------------------------------------------------------------------------------------------

    def _is_sent(self, subscription: Subscription) -> bool:
        return self._at_head(subscription) and subscription.follower.outbox.clear

    def _at_head(self, subscription: Subscription) -> bool:
        """Whether a subscription has been sent everything."""
        return subscription.after >= self._events.head and subscription.gap is None

    async def _run(self) -> None:
        while True:
            with trio.move_on_at(self._beats[0][0] if self._beats else math.inf):
                await self._wake.wait()
            if self._wake.is_set():
                self._wake = trio.Event()
                while await self._pass():
                    pass
            self._beat()

    async def _pass(self) -> bool:
        """Write a chunk to every subscriber that is not up to date. Returns whether any still is not."""
        more = False
        self._written = 0
        for subscription in list(self._subscriptions):
            follower = subscription.follower
            if not subscription.active or follower.behind or not self._deliver(subscription):
                continue
            if not follower.outbox.clear:
                follower.fall_behind()
            elif subscription.after < self._events.head:
                more = True
            if self._written > TURN:
                self._written = 0
                await trio.lowlevel.checkpoint()
        if more:
            await trio.lowlevel.checkpoint()
        return more

    def _deliver(self, subscription: Subscription) -> bool:
        """Write the next chunk for a subscription. Returns whether there was one, even if the subscription wants
        none of its entries."""
        if self._at_head(subscription):
            return False
        if not subscription.follower.outbox.clear:
            subscription.follower.fall_behind()
            return False
        chunk = self._chunk(subscription)
        data = chunk.data
        if subscription.gap is not None:
            self._events.note_gap(subscription.gap)
            data = subscription.follower.framing([notification(subscription.label, subscription.gap)]) + data
            subscription.gap = None
        if chunk.gap is not None:
            self._events.note_gap(chunk.gap)
        subscription.after = chunk.after
        if data:
            subscription.last_sent = trio.current_time()
            self._events.sent[subscription.name] += chunk.entries
            self._write(subscription, data)
        return True

    def _chunk(self, subscription: Subscription) -> _Chunk:
        """The next entries after a subscription's cursor, as sent."""
        key = (subscription.after, subscription.label, subscription.types, subscription.follower.framing)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._made(self._events.read(subscription.after, CHUNK_ENTRIES), subscription)
            if chunk.after > subscription.after:
                self._chunks[key] = chunk
                if len(self._chunks) > KEPT_CHUNKS:
                    self._chunks.popitem(last=False)
        return chunk

    def _made(self, items: list[Entry | Gap], subscription: Subscription) -> _Chunk:
        label, types, after = subscription.label, subscription.types, subscription.after
        messages: list[bytes] = []
        size = 0
        for item in items:
            after = position(item)
            if matches(item, types):
                messages.append(notification(label, item))
                size += len(messages[-1])
                if size >= CHUNK_BYTES:
                    break
        gap = items[0] if items and isinstance(items[0], Gap) else None
        data = subscription.follower.framing(messages) if messages else b""
        return _Chunk(data, after, len(messages) - (gap is not None), gap)

    def _beat(self) -> None:
        """Send heartbeats to idle subscriptions. A subscriber that has not read its earlier messages needs none."""
        now = trio.current_time()
        while self._beats and self._beats[0][0] <= now:
            subscription = heapq.heappop(self._beats)[2]
            if subscription.active and subscription.last_sent + self._silence <= now:
                subscription.last_sent = now
                if subscription.follower.outbox.clear:
                    beat = heartbeat(subscription.label, self._events.head)
                    written = self._write(subscription, subscription.follower.framing([beat]))
                    if written and subscription.follower.outbox.waiting:
                        subscription.follower.fall_behind()  # otherwise nobody would write the rest
            if subscription.active:  # writing to a connection that has gone removes it
                heapq.heappush(self._beats, (subscription.last_sent + self._silence, next(self._numbers), subscription))
            else:
                self._ended = max(0, self._ended - 1)

    def _write(self, subscription: Subscription, data: bytes) -> bool:
        """Write to a subscription's connection. Returns whether that was still open."""
        self._written += len(data) + WRITE
        try:
            subscription.follower.outbox.write(data)
            return True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.remove(subscription)  # its reader notices too, and ends the session
            return False
