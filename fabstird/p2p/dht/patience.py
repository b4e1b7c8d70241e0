"""How long a lookup waits for one peer: as long as almost all peers that answer at all take. Pure; times are seconds.

Where round trips are short, a peer that is silent for a second is gone, and waiting longer is what makes a search slow.
Behind a satellite, or across an ocean, every peer takes that long.
"""

from __future__ import annotations

from collections import deque

LEAST, MOST = 1.0, 3.0
UNKNOWN = 1.75  # until there are `ENOUGH` answers
ENOUGH = 16
ANSWERS = 128  # answers remembered
SHARE = 0.95  # the quantile of answer times that is used
TIMES = 1.75  # times that quantile is how long to wait


class Patience:
    """The waiting time of one node, for all its lookups."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=ANSWERS)

    def observe(self, seconds: float) -> None:
        """A peer answered after ``seconds``, its dial included."""
        self._took.append(seconds)

    @property
    def give_up(self) -> float:
        """After how many seconds a peer is no longer awaited."""
        if len(self._took) < ENOUGH:
            return UNKNOWN
        took = sorted(self._took)
        return min(max(LEAST, TIMES * took[int(len(took) * SHARE)]), MOST)
