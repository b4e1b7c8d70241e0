"""One caller's connection on any transport: its calls in flight, its subscriptions, and what is sent back.

IPC and WebSocket share it. A caller that does not read stops only its own connection: nothing is queued for it but the
answers to its calls, and those are limited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from fabstir_client.api.streams import Notice
from fabstird.api.absence import LOOK, Absence
from fabstird.api.fanout import Fanout, Subscription
from fabstird.api.sockets import Outbox
from fabstird.api.wire_format import Framing
from fabstird.events import Gap
from fabstird.rpc.calls import Takeover
from fabstird.rpc.dispatch import LATER, Call, Caller, Dispatcher
from fabstird.rpc.event_messages import notice_message
from fabstird.rpc.limits import BEGUN, OF_ANSWER, over
from fabstird.rpc.memory import Held, cost
from fabstird.rpc.services import Services

if TYPE_CHECKING:
    from fabstird.p2p.streams.ledger import Stream

TURN_BYTES = 65536  # of answers written to one connection before other tasks get a turn


class Session:
    """Made by `Session.open`. ``framing`` turns messages into bytes on the wire."""

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
        self._ended = False
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
        """Open a session. On leaving, every call in flight is cancelled and every subscription ends."""
        session = cls(services, dispatcher, caller, outbox, framing, fanout)
        async with trio.open_nursery() as nursery:
            session._nursery = nursery
            services.usage.connections.add(session)
            services.usage.turn.begin()
            try:
                yield session
            finally:
                services.usage.connections.discard(session)
                session.unsubscribe_all()
                nursery.cancel_scope.cancel()
                session._ended = True
                for callback in session._endings.values():
                    callback()

    def end(self) -> None:
        """Cancel the task that has it open, and with it the session."""
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    @property
    def identity(self) -> object:
        """Identifies the caller across its connections."""
        return self._caller.identity

    def admits(self, peer_id: str) -> bool:
        """Whether the caller may deal with the peer."""
        return self._caller.grant.scope.has_peer(peer_id)

    def tell(self, notice: Notice) -> None:
        """Send a notice to this caller alone. Never raises."""
        try:
            self.outbox.write(self.framing([notice_message(notice)]))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it has gone; its reader notices too, and ends the session
        if not self.outbox.clear:
            self.fall_behind()

    async def take_over(self, text: bytes, absence: Absence) -> Stream | None:
        """Dispatch the connection's first text, which may turn it into a stream. Returns once the answer is sent; the
        caller joins the stream to the connection. Raises as `receive` does."""
        call = Call(self._services, self._caller, self, takeover=Takeover())
        assert call.takeover is not None
        with absence.watching(self.outbox):
            self.calls += 1
            try:
                answer = await self._dispatcher.dispatch(text, call)
                await self._reply([] if answer is None else [answer], call.after_reply)
            except BaseException:
                if call.takeover.stream is not None:
                    await call.takeover.stream.drop("reset")
                raise
            finally:
                self.calls -= 1
            return call.takeover.stream
        raise trio.BrokenResourceError("the caller has gone")

    def at_end(self, key: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection ends, or now if it has ended. A later call with the same key replaces
        an earlier one."""
        self._endings[key] = callback
        if self._ended:
            callback()

    async def receive(self, texts: Sequence[bytes]) -> None:
        """Take texts from the caller. Returns once their calls run and what was answered in place is sent; waits while
        too many calls are in flight. Raises `trio.BrokenResourceError`, `trio.ClosedResourceError` where the connection
        has gone."""
        if len(texts) == 1 and self.answered(texts[0]):
            return
        answers: list[bytes] = []
        callbacks: list[Callable[[], None]] = []
        size, turn = 0, self._services.usage.turn
        for text in texts:
            call = Call(self._services, self._caller, self, sender=self.outbox)
            answer = self._dispatcher.at_once(text, call)
            if answer is LATER:
                if (held := self._place(text)) is None:
                    await self._reply(answers, callbacks)
                    answers, callbacks, size = [], [], 0
                    held = await self._wait_for_place(text)
                call.held = held
                self._start(text, call)
                spent = BEGUN
            else:
                callbacks += call.after_reply
                spent = 1
                if answer is not None:
                    answers.append(answer)
                    size += len(answer)
                    spent += len(answer) // OF_ANSWER
            if turn.spend(spent) or size > TURN_BYTES:
                await self._reply(answers, callbacks)
                answers, callbacks, size = [], [], 0
                await trio.lowlevel.checkpoint()
        await self._reply(answers, callbacks)

    def answered(self, text: bytes) -> bool:
        """Answer a single text in place. Returns False if that is not possible; nothing has been done then. Raises as
        `receive` does."""
        if not self.outbox.clear:
            return False
        call = Call(self._services, self._caller, self, sender=self.outbox)
        answer = self._dispatcher.at_once(text, call)
        if answer is LATER:
            return False
        if answer is not None:
            self.outbox.write(self.framing((answer,)))
        for callback in call.after_reply:
            callback()
        if self.outbox.waiting:
            self.fall_behind()
        return True

    def _place(self, text: bytes) -> Held | None:
        """A place for one more call in flight; None where there is none."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            return None
        held = self._services.usage.memory.take(self, cost(len(text)))
        if held is None:
            self._slots.release()
        return held

    async def _wait_for_place(self, text: bytes) -> Held:
        """Wait for a place. A reader that waits here does not notice its caller leaving, so that is watched."""
        memory = self._services.usage.memory
        while True:
            with trio.move_on_after(LOOK):
                await self._slots.acquire()
                if (held := memory.take(self, cost(len(text)))) is not None:
                    return held
                self._slots.release()
                await memory.room()
            if self.outbox.gone(half_closed=self._caller.transport != "ipc"):
                raise trio.BrokenResourceError("the caller has gone")

    async def finish(self) -> None:
        """Wait until every call received is answered, or the caller has closed the connection."""
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
        """Send messages, complete and in order; returns once they are written."""
        self.outbox.write(self.framing(messages))
        if not self.outbox.clear:
            await self.outbox.flush()

    async def _reply(self, answers: list[bytes], callbacks: list[Callable[[], None]]) -> None:
        """Send answers, then call ``callbacks``: whatever those send cannot overtake the answers."""
        if answers:
            self.outbox.write(self.framing(answers))
        for callback in callbacks:
            callback()
        if not self.outbox.clear:
            await self.outbox.flush()

    def _start(self, text: bytes, call: Call) -> None:
        assert self._nursery is not None
        self.calls += 1
        if self.calls == 1:
            self._idle = trio.Event()
        self._nursery.start_soon(self._handle, text, call)

    async def _handle(self, text: bytes, call: Call) -> None:
        assert call.held is not None
        try:
            answer = await self._dispatcher.dispatch(text, call)
            call.held.leave()
            del text
            await self._reply([] if answer is None else [answer], call.after_reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the caller has gone; its reader notices too, and ends the session
        finally:
            call.held.leave()
            self._slots.release()
            self.calls -= 1
            if self.calls == 0:
                self._idle.set()

    # ----------------------------------------------------------------------------------------------------------------
    # Subscriptions

    def subscribe(self, call: Call, after: int, gap: Gap | None, types: frozenset[str] | None) -> str:
        """Subscribe. Its events are sent after the reply to ``call``. Raises `LimitExceeded`."""
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
        """End all subscriptions."""
        for name in list(self._subscriptions):
            self.unsubscribe(name)

    def fall_behind(self) -> None:
        if not self.behind:
            assert self._nursery is not None
            self.behind = True
            self._nursery.start_soon(self._catch_up)

    def _begin(self, subscription: Subscription) -> None:
        if subscription.active:  # it may have ended in the same batch
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
