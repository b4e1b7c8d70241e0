"""Limits one kind of work in a turn of the event loop, over all tasks together.

A limit for each task is no limit: two hundred tasks that each stay within it keep all others waiting two hundred times
as long.
"""

from __future__ import annotations

import trio


class Turn(trio.abc.Instrument):
    """``most`` units of work; beyond that, each task does one more piece in a turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent = 0

    def begin(self) -> None:
        """Count the turns of this loop; a second call changes nothing."""
        trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        trio.lowlevel.remove_instrument(self)

    def spend(self, units: int = 1) -> bool:
        """Count work that was done. Whether other tasks should come first: the caller must then pass a checkpoint."""
        self._spent += units
        return self._spent >= self._most

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio, once in each turn."""
        self._spent = 0
