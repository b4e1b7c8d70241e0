"""Measures how late the event loop is: a task asks to be woken at a time, and compares.

Everything in the daemon shares one loop, so every call, dial and stream suffers this delay. The watchdog (`service`)
and the metrics read the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

INTERVAL = 0.25  # seconds between two checks
MEMORY = 60.0  # seconds that `Canary.max` covers


class Canary:
    """Measures while `run` runs, and passes each delay to ``observe``. Delays are seconds."""

    def __init__(self, observe: Callable[[float], None] = lambda _: None) -> None:
        self._observe = observe
        self._delays: deque[float] = deque([0.0], maxlen=int(MEMORY / INTERVAL))

    @property
    def last(self) -> float:
        """The delay at the last check."""
        return self._delays[-1]

    @property
    def max(self) -> float:
        """The largest delay within the last minute."""
        return max(self._delays)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            delay = trio.current_time() - due
            self._delays.append(delay)
            self._observe(delay)
