"""Whether the peer of a connection is alive, and its round trip: yamux pings, and any other progress.

One task serves all connections of a node. A task for each would be a large part of the memory that a peer takes. Those
that are due at nearly the same time are served in one turn of the loop, and their answers mostly come in one, too.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from fabstird.p2p.security.secured import Secured
from fabstird.p2p.transport.pipe import Progress

LATE = 0.5  # seconds by which a deadline may be missed on a busy machine
FIRST_PING = 0.5  # seconds after the connection came up
TICK = 0.05  # seconds between two turns at pings, unless one is wanted sooner
FRESH = 4  # intervals after which a peer is pinged although it was heard: its round trip may have changed
AT_ONCE = 16  # connections served before other tasks get a turn
MANY = 64  # stale entries of the queue are removed when there are more than this, and more than others


@dataclass(frozen=True, slots=True)
class Liveness:
    """How often a silent connection is pinged, and how long it may then stay silent; seconds."""

    interval: float = 15.0
    timeout: float = 10.0


class Asking(Protocol):
    """What a pulse needs of its muxer. None of these waits."""

    def ask_for_life(self, number: int) -> None:
        """Send a ping."""

    def each_turn(self) -> None:
        """Called before each ping."""

    def fail(self, error: Exception) -> None:
        """End the connection because of this error."""


class Silence(Exception):
    """Nothing was heard from the peer for as long as it may be silent."""


class Pulse:
    """The pulse of one connection. ``rtt`` is the smoothed round trip in seconds; 0 until one is known. ``heard`` is
    when the peer was last heard, as far as its muxer says so."""

    __slots__ = ("_asked", "_beat", "_before", "_conn", "_muxer", "_number", "due", "entry", "heard", "rtt")

    def __init__(self, muxer: Asking, conn: Secured, beat: Beat) -> None:
        self._muxer = muxer
        self._conn = conn
        self._beat = beat
        self._number = 0
        self._asked = 0.0
        self._before: Progress | None = None  # the progress at the last ping; None once it is answered
        self.rtt = 0.0
        self.heard = -math.inf
        self.due = math.inf
        self.entry: _Entry | None = None

    def begin(self) -> None:
        """The connection is up."""
        self._beat.at(self, trio.current_time() + FIRST_PING)

    def end(self) -> None:
        """Stop."""
        self._beat.drop(self)

    def hurry(self) -> None:
        """Ping now, unless an answer is awaited."""
        if self._before is None and self.entry is not None:
            self._asked = -math.inf
            self._beat.at(self, trio.current_time())

    def answered(self, number: int) -> None:
        """The peer has answered a ping, or claims so."""
        if self._before is None or number != self._number:
            return
        now = trio.current_time()
        took = now - self._asked
        self.rtt = (self.rtt + took) / 2 if self.rtt else took
        self._before = None
        if self.entry is not None:
            self._beat.at(self, now + self._beat.liveness().interval)

    def turn(self, now: float) -> None:
        """It is due: ping, or judge whether the peer is alive if the last ping was not answered."""
        liveness = self._beat.liveness()
        timeout = liveness.timeout
        # If this runs late, the process itself was frozen, and what arrived meanwhile is still unread: ping again
        if self._before is not None and now <= self.due + LATE and self._is_silent(self._before):
            self._muxer.fail(Silence(f"nothing heard for {timeout:.0f} s"))
            return
        self._muxer.each_turn()
        if self._before is None and self.rtt:
            again = min(self.heard + liveness.interval, self._asked + FRESH * liveness.interval)
            if again > now:  # it was heard meanwhile
                self._beat.at(self, again)
                return
        self._number += 1
        self._asked, self._before = now, self._conn.progress()
        self._beat.at(self, now + timeout)
        self._muxer.ask_for_life(self._number)

    def _is_silent(self, before: Progress) -> bool:
        """Whether nothing has moved since the ping. On a slow link a ping may wait behind data in either direction, so
        any progress counts. That the peer's machine acknowledged the ping itself does not: it does so for a stopped
        process too."""
        now = self._conn.progress()
        return now.received == before.received and (now.taken == before.taken or not (now.owed or before.owed))

    def fail(self, error: Exception) -> None:
        self._muxer.fail(error)


# When it is due; a number, which orders entries of the same time; and the pulse, None once another entry replaced it.
# Lists are compared in C.
_Entry = list[Any]


class Beat:
    """Gives each pulse its turn when it is due. ``liveness`` is called each time, so a change applies from then on."""

    def __init__(self, liveness: Callable[[], Liveness]) -> None:
        self.liveness = liveness
        self._queue: list[_Entry] = []
        self._pushed = 0
        self._dropped = 0  # stale entries in the queue
        self._sooner = trio.Event()  # set where one is due long before `_until`
        self._until = math.inf

    def __len__(self) -> int:
        return len(self._queue)

    def at(self, pulse: Pulse, due: float) -> None:
        """Schedule a pulse. If it is later than before, the earlier entry stays, and then finds that it is not due
        yet."""
        pulse.due = due
        if pulse.entry is not None and pulse.entry[0] <= due:
            return
        self.drop(pulse)
        self._pushed += 1
        pulse.entry = [due, self._pushed, pulse]
        heapq.heappush(self._queue, pulse.entry)
        if due + TICK < self._until:
            self._sooner.set()

    def drop(self, pulse: Pulse) -> None:
        """Remove a pulse."""
        if pulse.entry is None:
            return
        pulse.entry[2] = None
        pulse.entry = None
        self._dropped += 1
        if self._dropped > MANY and self._dropped > len(self._queue) // 2:
            self._queue = [entry for entry in self._queue if entry[2] is not None]
            heapq.heapify(self._queue)
            self._dropped = 0

    async def run(self) -> None:
        """Run until cancelled. An error in one turn ends only that connection."""
        while True:
            now = trio.current_time()
            for _ in range(AT_ONCE):
                if not self._queue or self._queue[0][0] > now:
                    break
                self._turn(heapq.heappop(self._queue), now)
            next_due = self._queue[0][0] if self._queue else math.inf
            if next_due <= now:
                await trio.lowlevel.checkpoint()
                continue
            self._sooner, self._until = trio.Event(), max(next_due, now + TICK)
            with trio.move_on_at(self._until):
                await self._sooner.wait()

    def _turn(self, entry: _Entry, now: float) -> None:
        pulse: Pulse | None = entry[2]
        if pulse is None:
            self._dropped -= 1
            return
        pulse.entry = None
        if pulse.due > now:
            self.at(pulse, pulse.due)
            return
        try:
            pulse.turn(now)
        except Exception as error:  # noqa: BLE001 - ends this connection only
            pulse.fail(error)
