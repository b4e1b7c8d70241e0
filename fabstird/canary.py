"""How late the event loop is: a task that asks to be woken, and measures by how much that was missed.

Everything in the daemon shares one loop, so this is the delay that every call, dial and stream suffers. The watchdog
(`service`) and the metrics read the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

INTERVAL = 0.25  # seconds between two looks
MEMORY = 60.0  # seconds that `Canary.max` looks back


class Canary:
    """Measures while `run` runs, and tells ``observe`` each delay. Delays are seconds."""

    def __init__(self, observe: Callable[[float], None] = lambda _: None) -> None:
        self._observe = observe
        self._delays: deque[float] = deque([0.0], maxlen=int(MEMORY / INTERVAL))

    @property
    def last(self) -> float:
        """The delay at the last look."""
        return self._delays[-1]

    @property
    def max(self) -> float:
        """The largest of the last minute."""
        return max(self._delays)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            delay = trio.current_time() - due
            self._delays.append(delay)
            self._observe(delay)
