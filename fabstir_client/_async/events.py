"""A stream of events for trio and asyncio that survives restarts of the daemon.

It reads its own connection only within a step of the iteration. Nothing runs in the background, so it may be iterated,
interrupted and dropped anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fabstir_client._async.calling import request
from fabstir_client._async.concurrency import Closeable, Flag, checkpoint, now
from fabstir_client._async.link import Link
from fabstir_client._core.cursor import SILENCE, Cursor
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Call, Notification, Pending, Session, earlier
from fabstir_client.api.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.api.types import Event, Lagged, Status, SubscribeResult


class EventStream(Closeable):
    """An iterator of `Event` and `Lagged`, and a context manager.

    A step that is interrupted closes the connection; the next step opens another and continues at the same position.

    Args:
        typed: With False, the data of events stays plain values.
        on_subscribed: Called with each subscription.
        on_lost: Called each time the connection broke, before the stream reconnects. Without it, that is logged.
        then: Calls to make on each connection, for what lasts only as long as the connection: leases.
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
        then: Sequence[Call[Any]] = (),
    ) -> None:
        self._target = target
        self._cursor = Cursor(kinds, after, epoch)
        self._silence = silence
        self._patience = patience
        self._typed = typed
        self._on_subscribed = on_subscribed
        self._on_lost = on_lost
        self._then = then
        self._link: Link | None = None
        self._session: Session[None] = Session()
        self._arrived: deque[Notification] = deque()
        self._heard = 0.0  # when the daemon last sent anything
        self._closed = Flag()
        self._in_step = False  # somebody uses the connection, and will close it

    @property
    def snapshot(self) -> SubscribeResult | None:
        """Status and peers at the newest subscription; None before the first."""
        return self._cursor.snapshot

    async def __aenter__(self) -> EventStream:
        """Subscribe now. Raises as entering the client does."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        self._drop()

    async def open(self, timeout: float | None = None) -> None:
        """Subscribe now, within ``timeout`` seconds if given. Raises as entering the client does."""
        if self._cursor.snapshot is None:
            with self._step():
                await self._subscribe(None if timeout is None else now() + timeout)

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event | Lagged:
        try:
            item = await self._next(None)
        except BaseException:
            self._drop()
            raise
        if item is None:
            raise StopAsyncIteration
        return item

    async def get(self, timeout: float) -> Event | Lagged:
        """The next item, within ``timeout`` seconds. Raises `ClientTimeout`; the stream can still be used then."""
        item = await self._next(now() + timeout)
        if item is None:
            raise ClientTimeout("the stream of events is closed" if self._closed.is_set() else "no event came in time")
        return item

    def close(self) -> None:
        """End the iteration and close the connection; whoever waits in the iteration is woken."""
        self._closed.set()
        link = self._link
        if not self._in_step:
            self._drop()
        elif link is not None:
            link.wake()  # if it were closed here, its number could be another file's while it is still being read

    @contextmanager
    def _step(self) -> Iterator[None]:
        """A period in which the connection is used. If `close` is called in another thread meanwhile, either that or
        this closes it."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
            if self._closed.is_set():
                self._drop()

    async def _next(self, deadline: float | None) -> Event | Lagged | None:
        """The next item; None after `close`, or at the deadline."""
        with self._step():
            return await self._next_in_step(deadline)

    async def _next_in_step(self, deadline: float | None) -> Event | Lagged | None:
        while not self._closed.is_set():
            while self._arrived:
                await checkpoint()
                item = self._cursor.take(self._arrived.popleft())
                if item is not None:
                    return item
            if deadline is not None and now() >= deadline:
                return None
            if self._link is not None:
                await self._read(self._link, deadline)
                continue
            try:
                await self._resume(deadline)
            except FabstirError:
                if not self._closed.is_set():
                    raise
        return None

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def _read(self, link: Link, deadline: float | None) -> None:
        silent = self._heard + self._silence
        try:
            messages = await link.receive(earlier(silent, deadline))
            self._heard = now()
            for message in messages:
                item = self._session.receive(message)
                if item is not None and not isinstance(item, Pending):
                    self._arrived.append(item)
        except TimeoutError:
            if now() >= silent:
                self._lost(ConnectionLost(f"the daemon has sent nothing for {self._silence:g} s"))
        except (ConnectionLost, BadAnswer) as error:
            self._lost(error)

    def _lost(self, error: FabstirError) -> None:
        self._drop()
        if self._closed.is_set():
            return
        if self._on_lost is not None:
            self._on_lost(error)
        else:
            _log("warning", f"{error}; reconnecting")

    async def _resume(self, deadline: float | None) -> None:
        """Connect and subscribe: once for the first connection, later until it succeeds or patience or time ends."""
        if self._cursor.snapshot is None:
            await self._subscribe(deadline)
            return
        given_up = None if self._patience is None else now() + self._patience
        while not self._closed.is_set():
            try:
                await self._subscribe(deadline)
            except (ConnectionLost, DaemonUnreachable, BadAnswer) as error:
                reason: FabstirError = error
            except FabstirError as error:
                if not error.retryable:
                    raise
                reason = error
            else:
                if self._on_lost is None:
                    _log("info", "connected to the daemon again")
                return
            if given_up is not None and now() >= given_up:
                raise DaemonUnreachable(f"the daemon did not come back within {self._patience:g} s: {reason}")
            if deadline is not None and now() >= deadline:
                return
            again = now() + self._cursor.delay()
            await self._closed.wait(max(0.0, earlier(again, deadline) - now()))

    async def _subscribe(self, deadline: float | None) -> None:
        link = await Link.open(self._target, deadline)
        # From here on `close` can wake us, during the calls below too
        self._link = link
        session: Session[None] = Session(typed=self._typed)
        early: list[Notification] = []
        try:
            if self._closed.is_set():
                raise ConnectionLost("the stream of events is closed")
            probe = self._cursor.probe()
            probed: Status | None = None
            if probe is not None:
                probed = await request(link, session, probe, early, deadline)
            result = await request(link, session, self._cursor.subscribe(probed), early, deadline)
            for call in self._then:
                await request(link, session, call, early, deadline)
        except BaseException:
            self._drop()
            raise
        self._session = session
        self._heard = now()
        self._arrived.extend(self._cursor.subscribed(result) + early)
        if self._on_subscribed is not None:
            self._on_subscribed(result)


def _log(level: str, words: str) -> None:
    import logging  # needed only when something is wrong, so the command line starts sooner

    getattr(logging.getLogger("fabstir_client.events"), level)(words)
