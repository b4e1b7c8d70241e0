"""One connection of a caller, over whatever transport: calls in flight, subscriptions, and what is sent back.

Shared by IPC and WebSocket. A caller that does not read stops only its own connection: nothing is queued for it but the
answers of calls that it has made, and those are limited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from fabstird.events import Gap, Reader
from fabstird.rpc.dispatch import Call, Caller, Dispatcher
from fabstird.rpc.events import heartbeat, matches, notification, position
from fabstird.rpc.services import Services

MAX_CALLS = 64  # in flight on one connection; beyond that its next text is read when one has been answered
CHUNK = 64  # notifications handed to a transport at once

Send = Callable[[list[bytes]], Awaitable[None]]


@dataclass(slots=True)
class _Subscription:
    name: str
    after: int
    gap: Gap | None
    types: frozenset[str] | None
    scope: trio.CancelScope


class Session:
    """Made by `Session.open`. ``send`` writes messages in order and whole, and raises when the connection is gone."""

    def __init__(self, services: Services, dispatcher: Dispatcher, caller: Caller, send: Send) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._caller = caller
        self._send = send
        self._sending = trio.Lock()
        self._slots = trio.Semaphore(MAX_CALLS)
        self._calls = 0
        self._idle = trio.Event()
        self._idle.set()
        self._subscriptions: dict[str, _Subscription] = {}
        self._named = 0
        self._endings: dict[str, Callable[[], None]] = {}
        self._nursery: trio.Nursery | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, services: Services, dispatcher: Dispatcher, caller: Caller, send: Send
    ) -> AsyncIterator[Session]:
        """On leaving, whatever is still in flight is cancelled and every subscription ends."""
        session = cls(services, dispatcher, caller, send)
        async with trio.open_nursery() as nursery:
            session._nursery = nursery
            try:
                yield session
            finally:
                nursery.cancel_scope.cancel()
                for then in session._endings.values():
                    then()

    def at_end(self, key: str, then: Callable[[], None]) -> None:
        """Call ``then`` when the connection ends: what the caller holds here is let go. A key's later one replaces its
        earlier one."""
        self._endings[key] = then

    async def receive(self, text: bytes) -> None:
        """Take one text from the caller. Returns as soon as its calls run; waits where too many are in flight."""
        assert self._nursery is not None
        await self._slots.acquire()
        self._calls += 1
        if self._calls == 1:
            self._idle = trio.Event()
        self._nursery.start_soon(self._handle, text)

    async def finish(self) -> None:
        """Wait until every call that was received has been answered."""
        await self._idle.wait()

    async def send(self, messages: list[bytes]) -> None:
        async with self._sending:
            await self._send(messages)

    async def _handle(self, text: bytes) -> None:
        call = Call(self._services, self._caller, self)
        try:
            answer = await self._dispatcher.dispatch(text, call)
            if answer is not None:
                await self.send([answer])
            for then in call.after_reply:
                then()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the caller has gone; its reader sees that too and ends the session
        finally:
            self._slots.release()
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    # ----------------------------------------------------------------------------------------------------------------
    # Subscriptions

    def subscribe(self, call: Call, after: int, gap: Gap | None, types: frozenset[str] | None) -> str:
        """A new subscription; its stream begins once the reply to ``call`` is sent."""
        self._named += 1
        subscription = _Subscription(f"s{self._named}", after, gap, types, trio.CancelScope())
        self._subscriptions[subscription.name] = subscription
        call.after_reply.append(lambda: self._begin(subscription))
        return subscription.name

    def unsubscribe(self, name: str) -> bool:
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            return False
        subscription.scope.cancel()
        return True

    def _begin(self, subscription: _Subscription) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._follow, subscription)

    async def _follow(self, subscription: _Subscription) -> None:
        """Send what the log holds after the cursor, and a heartbeat in every silence."""
        with subscription.scope:
            try:
                await self._stream(subscription)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # as in `_handle`

    async def _stream(self, subscription: _Subscription) -> None:
        events, silence = self._services.events, self._services.config.events.heartbeat / 1000
        reader = Reader(self._caller.transport, subscription.after, subscription.types)
        events.readers.add(reader)
        try:
            await self._read(subscription, reader, silence)
        finally:
            events.readers.discard(reader)

    async def _read(self, subscription: _Subscription, reader: Reader, silence: float) -> None:
        events, name = self._services.events, subscription.name
        if subscription.gap is not None:
            events.note_gap(subscription.gap)
            await self.send([notification(name, subscription.gap)])
        beat = trio.current_time() + silence
        while True:
            with trio.move_on_at(beat) as scope:
                await events.wait_beyond(reader.after)
            if scope.cancelled_caught:
                await self.send([heartbeat(name, events.head)])
                beat = trio.current_time() + silence
                continue
            items = events.read(reader.after, CHUNK)
            messages = [notification(name, item) for item in items if matches(item, subscription.types)]
            if isinstance(items[0], Gap):
                events.note_gap(items[0])
            if messages:
                await self.send(messages)
                beat = trio.current_time() + silence
            reader.after = position(items[-1])
            events.sent[reader.name] += len(messages)
