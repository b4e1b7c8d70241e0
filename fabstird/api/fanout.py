"""Events to subscribers: one pass a turn of the event loop, over everybody who has caught up.

Waking a task for each subscriber costs ten times what its notification does. So one task for all writes straight to
their sockets, what it wrote for one used again for all that stand at the same place. Who does not take it at once is
left to a task of its connection, which goes on from the subscription's cursor and gives it back once it has caught up:
a slow reader delays nobody and holds one chunk of bytes.
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

from fabstird.api.framing import Framing
from fabstird.api.sockets import Outbox
from fabstird.events import Entry, EventLog, Gap, Reader
from fabstird.rpc.events import heartbeat, matches, notification, position

CHUNK_BYTES = 65536  # of notifications handed to a connection at once; at least one
CHUNK_ENTRIES = 1024  # of the log looked through at once
KEPT_CHUNKS = 16  # that were made last, for others at the same place
TURN = 1 << 20  # bytes written before other tasks get a turn: some milliseconds
WRITE = 512  # bytes that could be written in the time that a write takes by itself


class Follower(Protocol):
    """A connection with subscriptions."""

    outbox: Outbox
    framing: Framing
    behind: bool  # a task of its own sees to its subscriptions

    def fall_behind(self) -> None:
        """Have a task of the connection's own go on with its subscriptions, until `Fanout.catch_up` says that they
        have caught up."""


@dataclass(slots=True, eq=False)
class Subscription(Reader):
    """A reader of the log that is sent what it holds. ``label`` names it on its connection; ``gap`` is what it must be
    told first."""

    label: str
    follower: Follower
    gap: Gap | None
    active: bool = True
    spoken: float = 0.0  # when something was sent last


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Notifications as they go on the wire, the number of the last entry that they tell of or pass over, how many
    entries they tell of, and the gap that they begin with."""

    data: bytes
    after: int
    entries: int
    gap: Gap | None


class Fanout:
    """Made by `running`."""

    def __init__(self, events: EventLog, silence: float) -> None:
        """``silence``: seconds until a subscription that nothing was sent to gets a heartbeat."""
        self._events = events
        self._silence = silence
        self._subscriptions: dict[Subscription, None] = {}  # a set that keeps the order
        self._beats: list[tuple[float, int, Subscription]] = []  # a heap: when to look whether a heartbeat is due
        self._numbers = itertools.count()
        self._ended = 0  # subscriptions in it that are no more
        self._written = 0  # since other tasks had a turn
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
        """Send it what comes after its cursor, beginning with the next turn."""
        self._subscriptions[subscription] = None
        self._events.readers.add(subscription)
        subscription.spoken = trio.current_time()
        heapq.heappush(self._beats, (subscription.spoken + self._silence, next(self._numbers), subscription))
        self._wake.set()

    def remove(self, subscription: Subscription) -> None:
        """Nothing more is written for it."""
        if not subscription.active:
            return
        subscription.active = False
        if subscription not in self._subscriptions:
            return  # its reply was never sent
        del self._subscriptions[subscription]
        self._events.readers.discard(subscription)
        self._ended += 1
        if self._ended > len(self._subscriptions):
            self._beats = [beat for beat in self._beats if beat[2].active]
            heapq.heapify(self._beats)
            self._ended = 0

    def catch_up(self, subscriptions: list[Subscription]) -> bool:
        """Write a chunk for each of a connection's subscriptions as long as it takes them, for the one first that has
        waited longest; whether there was any."""
        subscriptions.sort(key=lambda one: one.spoken)
        return sum([self._deliver(one) for one in subscriptions if one.active]) > 0

    # ----------------------------------------------------------------------------------------------------------------

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
        """Write a chunk to everybody who is not at the head; whether somebody is still not."""
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
        """Write the next chunk for a subscription; whether there was one, if only of entries that it does not want."""
        if subscription.after >= self._events.head and subscription.gap is None:
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
            subscription.spoken = trio.current_time()
            self._events.sent[subscription.name] += chunk.entries
            self._write(subscription, data)
        return True

    def _chunk(self, subscription: Subscription) -> _Chunk:
        """What comes after a subscription's cursor, as it goes on the wire."""
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
        """Heartbeats for those that have heard nothing for so long. Who does not read what it was sent needs none."""
        now = trio.current_time()
        while self._beats and self._beats[0][0] <= now:
            subscription = heapq.heappop(self._beats)[2]
            if subscription.active and subscription.spoken + self._silence <= now:
                subscription.spoken = now
                if subscription.follower.outbox.clear:
                    beat = heartbeat(subscription.label, self._events.head)
                    written = self._write(subscription, subscription.follower.framing([beat]))
                    if written and subscription.follower.outbox.waiting:
                        subscription.follower.fall_behind()  # else nobody would see the rest of it out
            if subscription.active:  # still: to write to a connection that is gone removes it
                heapq.heappush(self._beats, (subscription.spoken + self._silence, next(self._numbers), subscription))
            else:
                self._ended = max(0, self._ended - 1)

    def _write(self, subscription: Subscription, data: bytes) -> bool:
        """Whether the connection was there."""
        self._written += len(data) + WRITE
        try:
            subscription.follower.outbox.write(data)
            return True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.remove(subscription)  # its reader sees that too, and ends the session
            return False
