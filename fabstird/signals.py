"""Signals, armed before anything heavy is imported: a stop that comes during start-up is a stop, not a traceback.

The first SIGTERM or SIGINT asks for a clean stop; a second one ends the process at once with 128 + its number.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

import trio

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """Made in the main thread. Before `attach`, a stop is remembered and other signals are ignored."""

    def __init__(self) -> None:
        self._stops = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._on: dict[int, Callable[[], None]] = {}
        for number in (*_STOPPING, *_OTHERS):
            signal.signal(number, self._handle)

    def attach(self, stop: Callable[[], None], reload: Callable[[], None], tasks: Callable[[], None]) -> None:
        """From now on, run these in trio's loop: for SIGTERM and SIGINT, SIGHUP, SIGUSR1."""
        self._token = trio.lowlevel.current_trio_token()
        self._on = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload, signal.SIGUSR1: tasks}
        if self._stops:
            stop()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in _STOPPING:
            self._stops += 1
            if self._stops > 1:
                os._exit(128 + number)
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._on[number])
            except trio.RunFinishedError:
                pass  # the loop has ended, and the process is about to
