"""A stream of events for trio and asyncio that outlives the daemon it came from.

It reads its own connection from within the step of the iteration: no task runs in the background, and no cancel scope
or task group is open between two steps, so it may be iterated anywhere, cancelled anywhere and dropped anywhere.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import anyio
import anyio.lowlevel

from fabstir_client.cursor import SILENCE, Cursor
from fabstir_client.discovery import Target
from fabstir_client.errors import BadAnswer, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.link import Link, request
from fabstir_client.protocol import Notification, Pending, Session
from fabstir_client.types import Event, Lagged, Status, SubscribeResult

logger = logging.getLogger("fabstir_client.events")


class EventStream:
    """An asynchronous iterator of `Event` and `Lagged`; also an asynchronous context manager.

    A step that is cancelled closes the connection; the next one opens another and goes on where the stream stood.
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
    ) -> None:
        self._target = target
        self._cursor = Cursor(kinds, after, epoch)
        self._silence = silence
        self._patience = patience
        self._link: Link | None = None
        self._session: Session[None] = Session()
        self._arrived: deque[Notification] = deque()
        self._closed = False

    @property
    def snapshot(self) -> SubscribeResult | None:
        """Status and peers as the newest subscription found them; None before the first."""
        return self._cursor.snapshot

    async def __aenter__(self) -> EventStream:
        """Subscribe now. Raises as `fabstir_client.connect` does."""
        if self._cursor.snapshot is None:
            await self._subscribe()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event | Lagged:
        try:
            while not self._closed:
                while self._arrived:
                    await anyio.lowlevel.checkpoint()
                    item = self._cursor.take(self._arrived.popleft())
                    if item is not None:
                        return item
                if self._link is None:
                    await self._resume()
                else:
                    await self._read(self._link)
        except BaseException:
            self._drop()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """End the iteration; a task that waits in it is woken."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _read(self, link: Link) -> None:
        try:
            with anyio.fail_after(self._silence):
                messages = await link.receive()
            for message in messages:
                item = self._session.receive(message)
                if item is not None and not isinstance(item, Pending):
                    self._arrived.append(item)
        except TimeoutError:
            logger.warning("no word from the daemon for %g s; connecting anew", self._silence)
            self._drop()
        except (ConnectionLost, BadAnswer) as error:
            if not self._closed:
                logger.warning("%s; connecting anew", error)
            self._drop()

    async def _resume(self) -> None:
        """Connect and subscribe: once if it is the first time, else until it succeeds or patience ends."""
        if self._cursor.snapshot is None:
            await self._subscribe()
            return
        given_up = None if self._patience is None else anyio.current_time() + self._patience
        while not self._closed:
            try:
                await self._subscribe()
            except (ConnectionLost, DaemonUnreachable, BadAnswer) as error:
                reason: FabstirError = error
            except FabstirError as error:
                if not error.retryable:
                    raise
                reason = error
            else:
                logger.info("connected to the daemon again")
                return
            if given_up is not None and anyio.current_time() >= given_up:
                raise DaemonUnreachable(f"the daemon did not come back within {self._patience:g} s: {reason}")
            await anyio.sleep(self._cursor.delay())

    async def _subscribe(self) -> None:
        link = await Link.open(self._target)
        try:
            session: Session[None] = Session()
            early: list[Notification] = []
            probe = self._cursor.probe()
            probed: Status | None = None
            if probe is not None:
                probed = await request(link, session, probe, early)
            result = await request(link, session, self._cursor.subscribe(probed), early)
        except BaseException:
            link.close()
            raise
        if self._closed:
            link.close()
            return
        self._link, self._session = link, session
        self._arrived.extend(self._cursor.subscribed(result) + early)
