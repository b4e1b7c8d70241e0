"""A blocking stream of events that outlives the daemon it came from: the twin of `stream`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from fabstir_client.cursor import SILENCE, Cursor
from fabstir_client.discovery import Target
from fabstir_client.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.protocol import Notification, Pending, Session
from fabstir_client.sync_link import SyncLink, request
from fabstir_client.types import Event, Lagged, Status, SubscribeResult


class EventStream:
    """An iterator of `Event` and `Lagged`, for one thread; also a context manager. `close` may come from any thread.

    ``typed=False`` leaves the data of events as plain values. ``on_subscribed`` is told of each subscription, and
    ``on_lost`` each time the connection broke, before the stream connects anew.
    """

    def __init__(
        self,
        target: Target,
        kinds: Sequence[str] | None = None,
        after: int | None = None,
        epoch: str | None = None,
        *,
        silence: float = SILENCE,
        patience: float | None = None,
        typed: bool = True,
        on_subscribed: Callable[[SubscribeResult], None] | None = None,
        on_lost: Callable[[FabstirError], None] | None = None,
    ) -> None:
        self._target = target
        self._cursor = Cursor(kinds, after, epoch)
        self._silence = silence
        self._patience = patience
        self._typed = typed
        self._on_subscribed = on_subscribed
        self._on_lost = on_lost
        self._link: SyncLink | None = None
        self._session: Session[None] = Session()
        self._arrived: deque[Notification] = deque()
        self._heard = 0.0  # when the daemon last said anything
        self._closed = threading.Event()

    @property
    def snapshot(self) -> SubscribeResult | None:
        """Status and peers as the newest subscription found them; None before the first."""
        return self._cursor.snapshot

    def __enter__(self) -> EventStream:
        """Subscribe now. Raises as `fabstir_client.connect_sync` does."""
        if self._cursor.snapshot is None:
            self._subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._drop()

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event | Lagged:
        try:
            item = self._next(None)
        except BaseException:
            self._drop()
            raise
        if item is None:
            raise StopIteration
        return item

    def get(self, timeout: float) -> Event | Lagged:
        """The next item, within ``timeout`` seconds. Raises `ClientTimeout`; the stream goes on all the same."""
        item = self._next(time.monotonic() + timeout)
        if item is None:
            raise ClientTimeout("the stream of events is closed" if self._closed.is_set() else "no event came in time")
        return item

    def close(self) -> None:
        """End the iteration; a thread that waits in it is woken."""
        self._closed.set()
        link = self._link
        if link is not None:
            link.wake()

    def _next(self, deadline: float | None) -> Event | Lagged | None:
        """The next item; None after `close`, or where the deadline passed."""
        while not self._closed.is_set():
            while self._arrived:
                item = self._cursor.take(self._arrived.popleft())
                if item is not None:
                    return item
            if deadline is not None and time.monotonic() >= deadline:
                return None
            if self._link is None:
                self._resume(deadline)
            else:
                self._read(self._link, deadline)
        self._drop()
        return None

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _read(self, link: SyncLink, deadline: float | None) -> None:
        silent = self._heard + self._silence
        try:
            messages = link.receive(silent if deadline is None else min(silent, deadline))
            self._heard = time.monotonic()
            for message in messages:
                item = self._session.receive(message)
                if item is not None and not isinstance(item, Pending):
                    self._arrived.append(item)
        except TimeoutError:
            if time.monotonic() >= silent:
                self._lost(ConnectionLost(f"no word from the daemon for {self._silence:g} s"))
        except (ConnectionLost, BadAnswer) as error:
            self._lost(error)

    def _lost(self, error: FabstirError) -> None:
        self._drop()
        if self._on_lost is not None and not self._closed.is_set():
            self._on_lost(error)

    def _resume(self, deadline: float | None) -> None:
        """Connect and subscribe: once if it is the first time, else until it succeeds or patience or time ends."""
        if self._cursor.snapshot is None:
            self._subscribe()
            return
        given_up = None if self._patience is None else time.monotonic() + self._patience
        while not self._closed.is_set():
            try:
                self._subscribe()
            except (ConnectionLost, DaemonUnreachable, BadAnswer) as error:
                reason: FabstirError = error
            except FabstirError as error:
                if not error.retryable:
                    raise
                reason = error
            else:
                return
            if given_up is not None and time.monotonic() >= given_up:
                raise DaemonUnreachable(f"the daemon did not come back within {self._patience:g} s: {reason}")
            delay = self._cursor.delay()
            if deadline is not None:
                delay = min(delay, deadline - time.monotonic())
                if delay <= 0:
                    return
            self._closed.wait(delay)

    def _subscribe(self) -> None:
        link = SyncLink.open(self._target)
        # From here on `close` can wake us, also out of the calls below.
        self._link = link
        session: Session[None] = Session(typed=self._typed)
        early: list[Notification] = []
        try:
            if self._closed.is_set():
                raise ConnectionLost("the stream of events is closed")
            probe = self._cursor.probe()
            probed: Status | None = None
            if probe is not None:
                probed = request(link, session, probe, early)
            result = request(link, session, self._cursor.subscribe(probed), early)
        except BaseException:
            self._drop()
            raise
        self._session = session
        self._heard = time.monotonic()
        self._arrived.extend(self._cursor.subscribed(result) + early)
        if self._on_subscribed is not None:
            self._on_subscribed(result)
