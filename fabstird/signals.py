"""Signals, armed before anything heavy is imported: a stop that comes during start-up is a stop, not a traceback.

The first SIGTERM or SIGINT asks for a clean stop; a second one ends the process at once with 128 + its number.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import trio

PATIENCE = 2.0  # seconds for the event loop to come to a SIGUSR1
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """Made in the main thread. Before `attach`, a stop is remembered and other signals are ignored."""

    def __init__(self) -> None:
        self._stops = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._on: dict[int, Callable[[], None]] = {}
        self._stuck: Callable[[], None] = lambda: None
        for number in (*_STOPPING, *_OTHERS):
            signal.signal(number, self._handle)

    def attach(
        self,
        stop: Callable[[], None],
        reload: Callable[[], None],
        tasks: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        """From now on, run these in trio's loop: for SIGTERM and SIGINT, SIGHUP, SIGUSR1. Where the loop does not come
        to a SIGUSR1 within `PATIENCE`, ``stuck`` is run in a thread."""
        self._stuck = stuck
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
            run = self._on[number]
            try:
                self._token.run_sync_soon(self._watched(run) if number == signal.SIGUSR1 else run)
            except trio.RunFinishedError:
                pass  # the loop has ended, and the process is about to

    def _watched(self, run: Callable[[], None]) -> Callable[[], None]:
        """``run``, and a thread that looks whether it is run: the loop may be what hangs."""
        came = threading.Event()

        def watch() -> None:
            if not came.wait(PATIENCE):
                self._stuck()

        def turned() -> None:
            came.set()
            run()

        threading.Thread(target=watch, name="stuck?", daemon=True).start()
        return turned
