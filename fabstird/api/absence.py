"""Watches callers whose calls are waiting, and cancels the calls of a caller that disconnects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from fabstird.api.sockets import Outbox

LOOK = 1.0  # seconds between two checks whether a waiting caller is still connected


class Absence:
    """One task checks all waiting callers, and runs only while there are any. A task for each would double the cost of
    a short call."""

    def __init__(self) -> None:
        self._watched: dict[trio.CancelScope, Outbox] = {}
        self._some = trio.Event()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(LOOK)
            for scope, outbox in list(self._watched.items()):
                if outbox.gone(half_closed=False):
                    scope.cancel()
            if not self._watched:
                self._some = trio.Event()

    @contextmanager
    def watching(self, outbox: Outbox) -> Iterator[trio.CancelScope]:
        """Yield a scope that is cancelled when the caller closes its connection. A caller that only half-closes it goes
        on waiting."""
        with trio.CancelScope() as scope:
            self._watched[scope] = outbox
            self._some.set()
            try:
                yield scope
            finally:
                del self._watched[scope]
