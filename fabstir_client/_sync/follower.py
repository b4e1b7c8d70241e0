"""Follows the daemon's events in a thread, for code without a task or an event loop.

The thread belongs to a `P2PClient` from its ``start()`` to its ``stop()``. It keeps the node's state in a `NodeView`,
which can be read at once, and passes the events to ``deliver``, one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fabstir_client._core import calls
from fabstir_client._core.discovery import Target
from fabstir_client._core.emitter import failure, payload_of
from fabstir_client._core.protocol import Call
from fabstir_client._sync.calling import call_once
from fabstir_client._sync.events import EventStream
from fabstir_client.api.errors import FabstirError
from fabstir_client.api.types import Event, Lagged, Status, SubscribeResult

OPENED_WITHIN = 30.0  # seconds to subscribe
DELIVERED_WITHIN = 5.0  # seconds for handlers to process the events of `start` and `stop`
ENDED_WITHIN = 2.0  # seconds for the thread to end after `close`

Deliver = Callable[[str, Any], bool]  # returns False if there is nobody to deliver to any more


class Signal(Protocol):
    """Something that another thread or an event loop waits for."""

    def set(self) -> None: ...


class NodeView:
    """Whether the node is started, according to the newest event or answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = ""
        self._seq = -1
        self._started = False

    @property
    def started(self) -> bool:
        return self._started

    def learn(self, status: Status) -> None:
        """Apply an answer. It is newer than every event up to its ``head``."""
        with self._lock:
            if status.epoch != self._epoch or status.head >= self._seq:
                self._epoch, self._seq = status.epoch, status.head
                self._started = status.connected

    def take(self, event: Event) -> None:
        """Apply an event, unless an answer was newer."""
        with self._lock:
            if event.epoch == self._epoch and event.seq <= self._seq:
                return
            self._epoch, self._seq = event.epoch, event.seq
            if event.type in ("p2p:started", "p2p:stopped"):
                self._started = event.type == "p2p:started"

    def lost(self) -> None:
        """Note that the daemon has gone, and the node with it."""
        with self._lock:
            self._started = False


class Follower:
    """The thread and its event stream.

    Args:
        target: The daemon.
        view: Receives the node's state.
        deliver: Called with each event.
        opened: Set once subscribing has succeeded or failed (see ``error``).
        ended: Set when the thread ends.
        leases: Calls to make on each connection of the event stream.
    """

    def __init__(
        self,
        target: Target,
        view: NodeView,
        deliver: Deliver,
        opened: Signal,
        ended: Signal,
        leases: Sequence[Call[Any]],
    ) -> None:
        self.error: FabstirError | None = None
        self._target = target
        self._view = view
        self._deliver = deliver
        self._opened = opened
        self._ended = ended
        self._stream = EventStream(target, on_subscribed=self._subscribed, on_lost=self._lost, then=leases)
        self._lock = threading.Lock()
        self._epoch = ""
        self._seq = 0
        self._over = False
        self._fresh = False  # nothing has arrived since the newest subscription
        self._waiting: list[tuple[str, int, Signal]] = []
        self._thread = threading.Thread(target=self._run, name="fabstir_client events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._over

    def close(self) -> None:
        """End the thread, after the event that is being delivered."""
        self._stream.close()

    def when_delivered(self, status: Status, signal: Signal) -> bool:
        """Whether everything up to ``status.head`` has been delivered. If not, ``signal`` is set once it has been, or
        never will be."""
        with self._lock:
            if self._over or (self._epoch == status.epoch and self._seq >= status.head):
                return True
            self._waiting.append((status.epoch, status.head, signal))
            return False

    def close_when_delivered(self, status: Status) -> None:
        """Let the thread end once everything up to ``status.head`` has been delivered."""
        if self.when_delivered(status, _Closing(self)):
            self.close()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with self._stream:
                self._opened.set()
                for item in self._stream:
                    if not self._handle(item):
                        break
        except FabstirError as error:
            self.error = error
            self._view.lost()
            if self._stream.snapshot is not None:  # otherwise the caller of `start` raises it
                self._deliver("error", failure(error))
        finally:
            with self._lock:
                self._over = True
            self._release(lambda epoch, seq: True)
            self._opened.set()
            self._ended.set()

    def _handle(self, item: Event | Lagged) -> bool:
        fresh, self._fresh = self._fresh, False
        if isinstance(item, Lagged):
            if not fresh:
                self._ask()
            name, payload, seq = "lagged", item.to_dict(), item.resume - 1
        else:
            self._view.take(item)
            name, payload, seq = item.type, payload_of(item), item.seq
        listening = self._deliver(name, payload)
        with self._lock:
            self._seq = seq
        self._release(lambda epoch, wanted: epoch != self._epoch or wanted <= seq)
        return listening

    def _ask(self) -> None:
        """Ask for the node's state, since missed events may have changed it."""
        try:
            self._view.learn(call_once(self._target, calls.status()))
        except FabstirError:
            self._view.lost()  # the event stream notices too, and reconnects

    def _subscribed(self, result: SubscribeResult) -> None:
        self._view.learn(result.status)
        self._fresh = True
        with self._lock:
            if result.epoch != self._epoch:
                # The first subscription starts after the head; in a new run of the daemon, all events are delivered.
                self._seq = 0 if self._epoch else result.head
                self._epoch = result.epoch
        self._release(lambda epoch, seq: epoch != self._epoch)

    def _lost(self, error: FabstirError) -> None:
        self._view.lost()
        self._deliver("error", failure(error))

    def _release(self, done: Callable[[str, int], bool]) -> None:
        with self._lock:
            released = [entry for entry in self._waiting if done(entry[0], entry[1])]
            self._waiting = [entry for entry in self._waiting if entry not in released]
        for _, _, signal in released:
            signal.set()


class _Closing:
    """A signal that ends the follower."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def set(self) -> None:
        self._follower.close()
