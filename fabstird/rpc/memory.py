"""The memory of calls in flight, in bytes, shared by all callers.

When it is used up, a caller with less than an equal share gets what it needs from those with more: their newest calls
are cancelled, if they have already waited a moment. Other callers are not read until there is room. A caller may always
have one small call under way, so it is answered whatever others do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio

from fabstir_client.api.errors import LimitExceeded

MOST = 32 * 1024 * 1024  # bytes; more if [api] allows such large answers or texts that a few would take all
FIRST = 16 * 1024  # bytes of a call that a caller may always have under way
PATIENCE = 1.0  # seconds that a call has at least before others get its memory
LOOK = 1.0  # seconds between two checks whether there is room
OF_CALL = 8192  # bytes of its task and objects
TIMES, PARSED = 16, 64 * 1024  # a text of small values takes this many times its size once parsed, up to that size


def cost(size: int) -> int:
    """The most bytes that a text of ``size`` bytes takes until it is answered."""
    return OF_CALL + size + (TIMES - 1) * min(size, PARSED)


def most_for(answer: int, request: int) -> int:
    """How many bytes calls may hold, given the largest answer and the largest text."""
    return max(MOST, 2 * answer, 4 * cost(request))


class Held:
    """What one text holds. Its calls run in ``scope``, which is cancelled when others need the memory."""

    __slots__ = ("_memory", "caller", "scope", "since", "size")

    def __init__(self, memory: Memory, caller: Hashable, size: int) -> None:
        self.caller = caller
        self.size = size
        self.since = trio.current_time()
        self.scope = trio.CancelScope()
        self._memory: Memory | None = memory

    def grow(self, size: int) -> None:
        """Hold ``size`` more bytes, of answers. If that is too much, the newest call of the caller with most is
        cancelled."""
        if self._memory is not None:
            self._memory.grow(self, size)

    def leave(self) -> None:
        """Release everything."""
        if self._memory is not None:
            self._memory.leave(self)
            self._memory = None

    def give_up(self) -> None:
        self.leave()
        self.scope.cancel()


class Memory:
    """The memory; ``used`` of ``most`` bytes."""

    def __init__(self, most: int = MOST) -> None:
        self.used = 0
        self.most = most
        self._held: dict[Hashable, dict[Held, None]] = {}  # by caller, oldest first
        self._sizes: dict[Hashable, int] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    def take(self, caller: Hashable, size: int) -> Held | None:
        """Reserve ``size`` bytes; None where the caller must wait."""
        own = self._sizes.get(caller, 0)
        if self.used + size > self.most and (own or size > FIRST):
            self._make_room(own, size)
            if self.used + size > self.most:
                return None
        held = Held(self, caller, size)
        self._held.setdefault(caller, {})[held] = None
        self._add(caller, size)
        return held

    async def room(self) -> None:
        """Return when there may be room, after `LOOK` seconds at the latest."""
        with trio.move_on_after(LOOK):
            await self._waiting.park()

    @asynccontextmanager
    async def holding(self, caller: Hashable, size: int) -> AsyncIterator[Held]:
        """As `take`, once there is room."""
        while (held := self.take(caller, size)) is None:
            await self.room()
        try:
            yield held
        finally:
            held.leave()

    def refusal(self, why: str) -> LimitExceeded:
        words = f"the calls in flight of all callers may hold {self.most} bytes: {why}"
        return LimitExceeded(words, limit=self.most, current=self.used, configKey=None)

    def grow(self, held: Held, size: int) -> None:
        held.size += size
        self._add(held.caller, size)
        while self.used > self.most:
            caller = max(self._sizes, key=self._sizes.__getitem__)
            next(reversed(self._held[caller])).give_up()

    def leave(self, held: Held) -> None:
        mine = self._held[held.caller]
        del mine[held]
        if not mine:
            del self._held[held.caller]
        self._add(held.caller, -held.size)
        self._waiting.unpark()

    def _add(self, caller: Hashable, size: int) -> None:
        self.used += size
        self._sizes[caller] = self._sizes.get(caller, 0) + size
        if not self._sizes[caller]:
            del self._sizes[caller]

    def _make_room(self, own: int, size: int) -> None:
        """Make room, if the caller would then have at most its share."""
        share = self.most // (len(self._sizes) + (not own))
        if own + size > share:
            return
        due = trio.current_time() - PATIENCE
        for caller in [caller for caller, held in self._sizes.items() if held > share]:
            for one in [one for one in reversed(self._held[caller]) if one.since <= due]:
                if self.used + size <= self.most or self._sizes.get(caller, 0) <= share:
                    break
                one.give_up()
