"""Carries out the calls of a blocking client. Each call has a connection to itself, so a slow call delays no other
thread. Idle connections are kept for later calls."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque

from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Call, Session, T
from fabstir_client._sync.calling import request
from fabstir_client._sync.concurrency import now
from fabstir_client._sync.link import Link

KEPT = 4  # idle connections kept; further calls at the same time open and close their own


class Runner:
    """``bound`` is the longest that a call may take, in seconds, connecting included; None leaves that to the call."""

    def __init__(self, target: Target, bound: float | None) -> None:
        self._target = target
        self._bound = bound
        self._lock = threading.Lock()
        self._idle: deque[Link] = deque()
        self._closed = False
        _runners.add(self)

    def __enter__(self) -> Runner:
        with self._lock:
            self._closed = False
        self._give_back(self._borrow(None if self._bound is None else now() + self._bound))
        return self

    def __exit__(self, *_: object) -> bool | None:
        """Close the idle connections; calls in other threads finish on theirs."""
        with self._lock:
            self._closed = True
        self._close_all()
        return None

    def run(self, call: Call[T]) -> T:
        """Carry out a call. Raises as the methods of `fabstir_client._sync.client.Client` do."""
        ends = self._ends(call)
        link = self._borrow(ends)
        try:
            return request(link, Session(), call, [], ends)
        finally:
            self._give_back(link)

    def _ends(self, call: Call[T]) -> float:
        return now() + (call.bound if self._bound is None else min(call.bound, self._bound))

    def after_fork(self) -> None:
        """Reset this object in a forked child: the idle connections belong to the parent, and a thread that does not
        exist here may have held the lock."""
        self._lock = threading.Lock()
        self._close_all()

    def _close_all(self) -> None:
        idle, self._idle = self._idle, deque()
        for link in idle:
            link.close()

    def _borrow(self, deadline: float | None) -> Link:
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("this client is closed")
                link = self._idle.pop() if self._idle else None
            if link is None:
                return Link.open(self._target, deadline)
            if link.idle():
                return link
            link.close()

    def _give_back(self, link: Link) -> None:
        if link.closed:
            return
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append(link)
                return
        link.close()


_runners: weakref.WeakSet[Runner] = weakref.WeakSet()


def _after_fork() -> None:
    for runner in list(_runners):
        runner.after_fork()


os.register_at_fork(after_in_child=_after_fork)
