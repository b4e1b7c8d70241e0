"""Bounds the memory of texts that are still arriving. All callers share a limited number of places for long texts, each
large enough for the largest text allowed.

A connection that needs a place and finds none is not read until one is free. A text that has held its place for a while
and is still incomplete loses it if others wait: first a text of the caller with the most places, and of these the one
that has taken longest. So a caller that sends incomplete texts, on however many connections, delays nobody for long.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable

import trio

from fabstir_client.api.errors import LimitExceeded

SHORT = 64 * 1024  # bytes of an incomplete text that any connection may hold without a place
LONG = 16 * 1024 * 1024  # bytes for all longer texts together
PATIENCE = 5.0  # seconds that a text has to arrive before it can lose its place


class Room:
    """Places for texts of up to ``longest`` bytes each."""

    def __init__(self, longest: int) -> None:
        self.count = max(4, LONG // longest)
        self._held: dict[Arriving, float] = {}  # since when; oldest first
        self._waiting: dict[Arriving, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, arriving: Arriving) -> bool:
        return arriving in self._held

    async def take(self, arriving: Arriving) -> None:
        """Wait for a place. The caller calls `leave` in any case."""
        self._waiting[arriving] = granted = trio.Event()
        self._hand_out()
        try:
            while not granted.is_set():
                with trio.move_on_at(self._next_overdue()):
                    await granted.wait()
                if not granted.is_set():
                    self._evict()
        finally:
            self._waiting.pop(arriving, None)

    def leave(self, arriving: Arriving) -> None:
        """Free a text's place; does nothing if it has none."""
        if self._held.pop(arriving, None) is not None:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give free places to waiting texts, those of the callers with the fewest places first."""
        while self._waiting and len(self._held) < self.count:
            places = Counter(arriving.caller for arriving in self._held)
            chosen = min(self._waiting, key=lambda arriving: places[arriving.caller])
            self._held[chosen] = trio.current_time()
            self._waiting.pop(chosen).set()

    def _next_overdue(self) -> float:
        """When the next incomplete text will have held its place for `PATIENCE`."""
        incomplete = (since for arriving, since in self._held.items() if not arriving.complete)
        return min(incomplete, default=math.inf) + PATIENCE

    def _evict(self) -> None:
        """Make one overdue text give up its place, if there is one."""
        latest = trio.current_time() - PATIENCE
        places = Counter(arriving.caller for arriving in self._held)
        overdue = [arriving for arriving, since in self._held.items() if since <= latest and not arriving.complete]
        if overdue:
            max(overdue, key=lambda arriving: places[arriving.caller]).give_up()


class Arriving:
    """The text arriving on one connection of a ``caller``. A long text needs a place, which it keeps until `leave`. If
    it has to give the place up to another, the scope of `until` is cancelled."""

    def __init__(self, room: Room, caller: Hashable) -> None:
        self.caller = caller
        self.complete = False  # all of it has arrived; it then keeps its place until `leave`
        self.refused = False
        self._room = room
        self._scope: trio.CancelScope | None = None

    async def received(self, size: int) -> bool:
        """Note that ``size`` bytes of the text have arrived, and wait until more may be read. Returns whether it had to
        take a place."""
        if size <= SHORT or self in self._room:
            return False
        self.refused = self.complete = False
        await self._room.take(self)
        return True

    def until(self, deadline: float) -> trio.CancelScope:
        """A scope for reading more of the text, until a time of trio's clock."""
        self._scope = trio.CancelScope(deadline=deadline)
        return self._scope

    def refusal(self) -> LimitExceeded | None:
        """The error for a text that had to give up its place; None if it did not."""
        if not self.refused:
            return None
        count = self._room.count
        words = f"{count} long texts are arriving, this one takes too long, and others wait for its place"
        return LimitExceeded(words, limit=count, current=count, configKey="api.max_request_bytes")

    def give_up(self) -> None:
        self.refused = True
        self.leave()
        if self._scope is not None:
            self._scope.cancel()

    def leave(self) -> None:
        """Free the place: the text was handled, or never will be."""
        self.complete = False
        self._room.leave(self)
