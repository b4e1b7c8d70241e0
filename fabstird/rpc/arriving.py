"""Texts that are on their way: the long ones of all callers together have so many places, each for a text of the
largest size that is allowed.

Who needs a place and finds none is not read until there is one. A text that has had its place for a while and has still
not come whole gives it up where others wait: first those of the caller that has most places, of these the one that has
taken longest. So a caller that sends halves of texts, over however many connections, keeps nobody waiting for long.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable

import trio

from fabstir_client.api.errors import LimitExceeded

SHORT = 64 * 1024  # bytes of a text that may have come on any connection
LONG = 16 * 1024 * 1024  # bytes of texts that are on their way and longer than that
PATIENCE = 5.0  # seconds that a text has to come whole before others get its place


class Room:
    """Places for texts of up to ``longest`` bytes each."""

    def __init__(self, longest: int) -> None:
        self.count = max(4, LONG // longest)
        self._held: dict[Arriving, float] = {}  # since when, the first to come first
        self._waiting: dict[Arriving, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, one: Arriving) -> bool:
        return one in self._held

    async def take(self, one: Arriving) -> None:
        """Return once it has a place; `leave` is called in any case."""
        self._waiting[one] = granted = trio.Event()
        self._hand_out()
        try:
            while not granted.is_set():
                with trio.move_on_at(self._due()):
                    await granted.wait()
                if not granted.is_set():
                    self._clear()
        finally:
            self._waiting.pop(one, None)

    def leave(self, one: Arriving) -> None:
        """It needs its place no longer; does nothing where it has none."""
        if self._held.pop(one, None) is not None:
            self._hand_out()

    def _hand_out(self) -> None:
        """Free places, to the callers that have fewest."""
        while self._waiting and len(self._held) < self.count:
            have = Counter(one.caller for one in self._held)
            one = min(self._waiting, key=lambda one: have[one.caller])
            self._held[one] = trio.current_time()
            self._waiting.pop(one).set()

    def _due(self) -> float:
        """When the next one has had its place for long enough."""
        return min((since for one, since in self._held.items() if not one.whole), default=math.inf) + PATIENCE

    def _clear(self) -> None:
        """Have one give its place up, if one has had it for long enough."""
        due, have = trio.current_time() - PATIENCE, Counter(one.caller for one in self._held)
        slow = [one for one, since in self._held.items() if since <= due and not one.whole]
        if slow:
            max(slow, key=lambda one: have[one.caller]).give_up()


class Arriving:
    """The text that comes on one connection of a ``caller``. Once it is long it needs a place, and keeps it until
    `leave`. Where others get that, the scope of `until` is cancelled."""

    def __init__(self, room: Room, caller: Hashable) -> None:
        self.caller = caller
        self.whole = False  # it has come to its end, and keeps its place until it is taken
        self.refused = False
        self._room = room
        self._scope: trio.CancelScope | None = None

    async def came(self, size: int) -> bool:
        """So many bytes have come of it; returns when more may. Whether it had to have a place for that."""
        if size <= SHORT or self in self._room:
            return False
        self.refused = self.whole = False
        await self._room.take(self)
        return True

    def until(self, due: float) -> trio.CancelScope:
        """For reading more of it, until a time of trio's clock."""
        self._scope = trio.CancelScope(deadline=due)
        return self._scope

    def refusal(self) -> LimitExceeded | None:
        """Why it was given up, if it was."""
        if not self.refused:
            return None
        count = self._room.count
        words = f"{count} long texts are on their way, and others wait for the place of this one, which takes too long"
        return LimitExceeded(words, limit=count, current=count, configKey="api.max_request_bytes")

    def give_up(self) -> None:
        self.refused = True
        self.leave()
        if self._scope is not None:
            self._scope.cancel()

    def leave(self) -> None:
        """It was taken, or never will be."""
        self.whole = False
        self._room.leave(self)
