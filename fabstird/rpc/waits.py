"""Calls that wait until the node reaches a given state. After each change, one of them checks for all of them: the
state of the node is read once, however many calls wait. Callers share the places."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from fabstir_client.api.errors import LimitExceeded
from fabstir_client.api.types import Peer, Status, WaitParams, WaitResult
from fabstird.p2p.streams.places import Holder, Places

MOST = 2048  # waiting calls of all connections: each takes some 7 KiB


class Now:
    """The state of the node at one instant. ``peers`` is computed only if needed, since there may be hundreds."""

    def __init__(self, status: Status, peers: Callable[[], list[Peer]]) -> None:
        self._status = status
        self._ask = peers
        self._protocols: dict[str, frozenset[str]] = {}  # by peer
        self._spoken: frozenset[str] = frozenset()  # by any of them
        self._result: WaitResult | None = None

    def answer(self, wanted: WaitParams) -> WaitResult | None:
        """The result for a call whose conditions all hold; otherwise None. Its ``peer_id`` is normalised."""
        status = self._status
        if wanted.state not in (None, status.state) or status.peers < (wanted.peers or 0):
            return None
        result = self._result or self._look()
        if wanted.peer_id is None:
            return result if wanted.protocol is None or wanted.protocol in self._spoken else None
        protocols = self._protocols.get(wanted.peer_id)
        return None if protocols is None or (wanted.protocol and wanted.protocol not in protocols) else result

    def _look(self) -> WaitResult:
        peers = self._ask()
        self._protocols = {peer.peer_id: frozenset(peer.protocols) for peer in peers}
        self._spoken = frozenset().union(*self._protocols.values())
        self._result = WaitResult(status=self._status, peers=peers)
        return self._result


@dataclass(slots=True, eq=False)
class _Waiter:
    wanted: WaitParams
    found: WaitResult | None = None
    # set when its result is known, or when it is its turn to check
    woken: trio.Event = field(default_factory=trio.Event)


class Waits:
    """The waiting calls of one daemon. A ``caller`` is as in `Call.place`."""

    def __init__(self) -> None:
        self._places: Places[trio.CancelScope] = Places(MOST, trio.CancelScope.cancel)
        self._waiting: dict[_Waiter, None] = {}
        self._led = False  # one of them is checking

    @property
    def held(self) -> int:
        """The number of waiting calls."""
        return len(self._places)

    @contextmanager
    def place(self, caller: Holder) -> Iterator[None]:
        """Hold a place for a waiting call until the context is left. Raises `LimitExceeded` if there is none, or if
        another caller gets it meanwhile."""
        if not self._places.has_room(caller):
            raise _too_many(f"{self.held} calls are already waiting; the limit is {MOST}", self.held)
        with trio.CancelScope() as scope:
            self._places.take(scope, caller)
            try:
                yield
            finally:
                self._places.leave(scope)
        if scope.cancelled_caught:
            raise _too_many(f"{MOST} calls are waiting, most of them this caller's; another caller needs a place", MOST)

    async def until(
        self, wanted: WaitParams, caller: Holder, now: Callable[[], Now], change: Callable[[], Awaitable[None]]
    ) -> WaitResult:
        """Return once all conditions hold. ``change`` returns after the next change. The caller sets the deadline.
        Raises `LimitExceeded`."""
        if (found := now().answer(wanted)) is not None:
            return found
        with self.place(caller):
            return await self._until(wanted, now, change)

    async def _until(
        self, wanted: WaitParams, now: Callable[[], Now], change: Callable[[], Awaitable[None]]
    ) -> WaitResult:
        waiter = _Waiter(wanted)
        self._waiting[waiter] = None
        try:
            while waiter.found is None:
                if self._led:
                    waiter.woken = trio.Event()
                    await waiter.woken.wait()
                else:
                    await self._lead(waiter, now, change)
        finally:
            del self._waiting[waiter]
            if not self._led:
                self._hand_over()
        return waiter.found

    async def _lead(self, waiter: _Waiter, now: Callable[[], Now], change: Callable[[], Awaitable[None]]) -> None:
        self._led = True
        try:
            self._look(now())
            while waiter.found is None:
                await change()
                self._look(now())
        finally:
            self._led = False

    def _hand_over(self) -> None:
        """Let another call check, since the one that did so has left."""
        successor = next((waiter for waiter in self._waiting if waiter.found is None), None)
        if successor is not None:
            successor.woken.set()

    def _look(self, now: Now) -> None:
        for waiter in self._waiting:
            if waiter.found is None:
                waiter.found = now.answer(waiter.wanted)
                if waiter.found is not None:
                    waiter.woken.set()


def _too_many(words: str, current: int) -> LimitExceeded:
    return LimitExceeded(words, limit=MOST, current=current, configKey=None)
