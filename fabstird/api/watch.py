"""Pings the WebSockets on which calls are made, and closes them when their grant ends.

One task pings all of them, and one task for each grant waits for its end. Tasks for each WebSocket would be a third of
its cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from fabstird.p2p.fence import Fence
from fabstird.rpc.access import Grant

GOING_AWAY, POLICY_VIOLATION = 1001, 1008  # close codes, RFC 6455


class Watched(Protocol):
    def ping(self) -> None:
        """Send a ping. Raises `trio.BrokenResourceError` and `trio.ClosedResourceError` where the client has gone."""

    def end(self, code: int, reason: str) -> None:
        """Close it, with a close code and a reason."""


@dataclass(slots=True)
class _Holders:
    """The WebSockets that use a grant, and the scope of the task that waits for its end."""

    waiting: trio.CancelScope = field(default_factory=trio.CancelScope)
    watched: set[Watched] = field(default_factory=set)


class Watch:
    """Runs its tasks in ``nursery``. Each WebSocket is pinged every ``interval`` seconds, because proxies close silent
    connections, often after 60 s."""

    def __init__(self, nursery: trio.Nursery, fence: Fence, interval: float) -> None:
        self._nursery = nursery
        self._fence = fence
        self._interval = interval
        self._due: dict[Watched, float] = {}  # when to ping; in order, since the interval is the same for all
        self._some = trio.Event()  # there is something to ping
        self._holders: dict[Grant, _Holders] = {}
        self._stopping = ""
        fence.keep(nursery, "caller", self._ping)

    @contextmanager
    def over(self, watched: Watched, grant: Grant) -> Iterator[None]:
        """Watch a WebSocket until the context is left."""
        self._due[watched] = trio.current_time() + self._interval
        self._some.set()
        holders = self._holders.get(grant)
        if holders is None:
            holders = self._holders[grant] = _Holders()
            self._fence.spawn(self._nursery, "caller", self._wait, grant, holders)
        holders.watched.add(watched)
        if self._stopping:
            watched.end(GOING_AWAY, self._stopping)
        try:
            yield
        finally:
            self._due.pop(watched, None)
            holders.watched.discard(watched)
            if not holders.watched and self._holders.get(grant) is holders:
                del self._holders[grant]
                holders.waiting.cancel()

    def stop(self, reason: str) -> None:
        """Close all WebSockets, and any that are added later."""
        self._stopping = reason
        for watched in list(self._due):
            watched.end(GOING_AWAY, reason)

    async def _ping(self) -> None:
        while True:
            if not self._due:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep_until(next(iter(self._due.values()), 0.0))
            now = trio.current_time()
            while self._due and (first := next(iter(self._due.items())))[1] <= now:
                watched = first[0]
                del self._due[watched]
                self._due[watched] = now + self._interval
                try:
                    watched.ping()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    del self._due[watched]  # it has gone; its reader notices too

    async def _wait(self, grant: Grant, holders: _Holders) -> None:
        with holders.waiting:
            reason = await grant.wait_ended()
            if self._holders.get(grant) is holders:  # otherwise the last holder has just gone
                del self._holders[grant]
            for watched in list(holders.watched):
                watched.end(POLICY_VIOLATION, reason)
