"""Signals, armed by `entry` before any heavy import. A stop during start-up is a stop, not a traceback, and one after
everything is done changes nothing.

The first SIGTERM or SIGINT asks for a clean stop; a second ends the process at once with 128 + its number. If the stop
takes longer than `LAST`, the process is ended, however many peers there are and however busy the machine is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

    import trio

LAST = 4.25  # seconds that a stop may take
PATIENCE = 5.0  # seconds for the event loop to handle a SIGUSR1; on a busy machine one that is not stuck takes 2
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """Made in the main thread. Signals before `attach` are remembered until then."""

    def __init__(self) -> None:
        self._stops = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._on: dict[int, Callable[[], None]] = {}
        self._early: dict[int, None] = {}  # numbers, in order of arrival
        self._stuck: Callable[[], None] = lambda: None
        self._late: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        for number in (*_STOPPING, *_OTHERS):
            signal.signal(number, self._handle)

    def attach(
        self,
        stop: Callable[[], None],
        reload: Callable[[], None],
        tasks: Callable[[], None],
        stuck: Callable[[], None],
        late: Callable[[], None],
    ) -> None:
        """Run these in trio's loop from now on.

        Args:
            stop: For SIGTERM and SIGINT.
            reload: For SIGHUP.
            tasks: For SIGUSR1.
            stuck: Run in a thread if the loop does not handle a SIGUSR1 within `PATIENCE`.
            late: Run in a thread before a stop that takes too long is cut off.
        """
        import trio

        self._stuck, self._late = stuck, late
        self._on = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload, signal.SIGUSR1: tasks}
        self._token = trio.lowlevel.current_trio_token()
        early, self._early = self._early, {}
        for number in early:
            self._on[number]()

    def end_within(self) -> None:
        """A stop has begun. Unless the process ends by itself, end it in `LAST` seconds with status 0."""
        if self._timer is not None:
            return
        import threading

        self._timer = threading.Timer(LAST, self._cut_off)
        self._timer.daemon = True
        self._timer.start()

    def _cut_off(self) -> None:
        try:
            self._late()
        finally:
            os._exit(0)

    def finish(self) -> None:
        """Everything is done, and the process ends with its own status: ignore signals, which have nothing to stop any
        more. Python leaves ignored signals ignored as it winds down, and resets all others."""
        for number in (*_STOPPING, *_OTHERS):
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in _STOPPING:
            self._stops += 1
            if self._stops > 1:
                os._exit(128 + number)
            self.end_within()
        if self._token is None:
            self._early[number] = None
            return
        import trio

        run = self._on[number]
        try:
            self._token.run_sync_soon(self._watched(run) if number == signal.SIGUSR1 else run)
        except trio.RunFinishedError:
            pass  # the loop has ended, and the process is about to

    def _watched(self, run: Callable[[], None]) -> Callable[[], None]:
        """``run``, with a thread that checks whether it was run: the loop itself may hang."""
        import threading

        handled = threading.Event()

        def watch() -> None:
            if not handled.wait(PATIENCE):
                self._stuck()

        def handle() -> None:
            handled.set()
            run()

        threading.Thread(target=watch, name="stuck?", daemon=True).start()
        return handle
