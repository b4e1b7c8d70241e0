"""One connection of a caller, over whatever transport: calls in flight, subscriptions, and what is sent back.

Shared by IPC and WebSocket. A caller that does not read stops only its own connection: nothing is queued for it but the
answers of calls that it has made, and those are limited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from fabstird.api.fanout import Fanout, Subscription
from fabstird.api.framing import Framing
from fabstird.api.sockets import Outbox
from fabstird.events import Gap
from fabstird.rpc.dispatch import LATER, Call, Caller, Dispatcher
from fabstird.rpc.services import Services
from fabstird.rpc.usage import over

LOOK = 1.0  # seconds between two looks whether a caller is still there that is waited for
TURN = 64  # calls answered in place before other tasks get a turn
TURN_BYTES = 65536  # of their answers


class Session:
    """Made by `Session.open`. ``framing`` is how messages stand on the connection's wire."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        caller: Caller,
        outbox: Outbox,
        framing: Framing,
        fanout: Fanout,
    ) -> None:
        self.outbox = outbox
        self.framing = framing
        self.behind = False
        self._services = services
        self._dispatcher = dispatcher
        self._caller = caller
        self._fanout = fanout
        self._slots = trio.Semaphore(services.config.api.max_calls)
        self.calls = 0
        self._idle = trio.Event()
        self._idle.set()
        self._subscriptions: dict[str, Subscription] = {}
        self._named = 0
        self._endings: dict[str, Callable[[], None]] = {}
        self._nursery: trio.Nursery | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        services: Services,
        dispatcher: Dispatcher,
        caller: Caller,
        outbox: Outbox,
        framing: Framing,
        fanout: Fanout,
    ) -> AsyncIterator[Session]:
        """On leaving, whatever is still in flight is cancelled and every subscription ends."""
        session = cls(services, dispatcher, caller, outbox, framing, fanout)
        async with trio.open_nursery() as nursery:
            session._nursery = nursery
            services.usage.connections.add(session)
            try:
                yield session
            finally:
                services.usage.connections.discard(session)
                session.unsubscribe_all()
                nursery.cancel_scope.cancel()
                for then in session._endings.values():
                    then()

    def at_end(self, key: str, then: Callable[[], None]) -> None:
        """Call ``then`` when the connection ends: what the caller holds here is let go. A key's later one replaces its
        earlier one."""
        self._endings[key] = then

    async def receive(self, texts: Sequence[bytes]) -> None:
        """Take texts from the caller. Returns as soon as their calls run, with what was answered in place sent; waits
        where too many are in flight. Raises `trio.BrokenResourceError` and `trio.ClosedResourceError` where the
        connection is gone."""
        answers: list[bytes] = []
        then: list[Callable[[], None]] = []
        size = 0
        for number, text in enumerate(texts, 1):
            call = Call(self._services, self._caller, self)
            answer = self._dispatcher.at_once(text, call)
            if answer is LATER:
                try:
                    self._slots.acquire_nowait()
                except trio.WouldBlock:
                    await self._reply(answers, then)
                    answers, then, size = [], [], 0
                    await self._slot()
                self._start(text, call)
                continue
            then += call.after_reply
            if answer is not None:
                answers.append(answer)
                size += len(answer)
            if number % TURN == 0 or size > TURN_BYTES:
                await self._reply(answers, then)
                answers, then, size = [], [], 0
                await trio.lowlevel.checkpoint()
        await self._reply(answers, then)

    async def _slot(self) -> None:
        """Wait until one more call may be in flight. Who waits does not read, and would not see its caller go."""
        while True:
            with trio.move_on_after(LOOK):
                await self._slots.acquire()
                return
            if self.outbox.gone(half_closed=self._caller.transport != "ipc"):
                raise trio.BrokenResourceError("the caller has gone")

    async def finish(self) -> None:
        """Wait until every call that was received has been answered, or its caller has closed the connection."""
        while not self.outbox.gone(half_closed=False):
            with trio.move_on_after(LOOK):
                await self._idle.wait()
                return

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions)

    @property
    def waiting(self) -> int:
        return self.outbox.waiting

    async def send(self, messages: Sequence[bytes]) -> None:
        """Returns when they are on their way, whole and in order."""
        self.outbox.write(self.framing(messages))
        if not self.outbox.clear:
            await self.outbox.flush()

    async def _reply(self, answers: list[bytes], then: list[Callable[[], None]]) -> None:
        """Send answers; what is to come after them does so at once, since it cannot overtake them."""
        if answers:
            self.outbox.write(self.framing(answers))
        for one in then:
            one()
        if not self.outbox.clear:
            await self.outbox.flush()

    def _start(self, text: bytes, call: Call) -> None:
        assert self._nursery is not None
        self.calls += 1
        if self.calls == 1:
            self._idle = trio.Event()
        self._nursery.start_soon(self._handle, text, call)

    async def _handle(self, text: bytes, call: Call) -> None:
        try:
            answer = await self._dispatcher.dispatch(text, call)
            await self._reply([] if answer is None else [answer], call.after_reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the caller has gone; its reader sees that too and ends the session
        finally:
            self._slots.release()
            self.calls -= 1
            if self.calls == 0:
                self._idle.set()

    # ----------------------------------------------------------------------------------------------------------------
    # Subscriptions

    def subscribe(self, call: Call, after: int, gap: Gap | None, types: frozenset[str] | None) -> str:
        """A new subscription; its stream begins once the reply to ``call`` is sent. Raises `LimitExceeded`."""
        limit = self._services.config.api.max_subscriptions
        if len(self._subscriptions) >= limit:
            raise over("subscriptions on this connection", limit, "max_subscriptions", current=len(self._subscriptions))
        self._named += 1
        subscription = Subscription(self._caller.transport, after, types, f"s{self._named}", self, gap)
        self._subscriptions[subscription.label] = subscription
        call.after_reply.append(lambda: self._begin(subscription))
        return subscription.label

    def unsubscribe(self, name: str) -> bool:
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            return False
        self._fanout.remove(subscription)
        return True

    def unsubscribe_all(self) -> None:
        """Nothing more is sent but answers."""
        for name in list(self._subscriptions):
            self.unsubscribe(name)

    def fall_behind(self) -> None:
        if not self.behind:
            assert self._nursery is not None
            self.behind = True
            self._nursery.start_soon(self._catch_up)

    def _begin(self, subscription: Subscription) -> None:
        if subscription.active:  # else it was ended in the same batch
            self._fanout.add(subscription)

    async def _catch_up(self) -> None:
        try:
            while True:
                await self.outbox.flush()
                if not self._fanout.catch_up(list(self._subscriptions.values())) and self.outbox.clear:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # as in `_handle`
        finally:
            self.behind = False
