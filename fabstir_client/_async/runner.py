"""Carries out the calls of an asynchronous client, all over one connection, which a background task reads."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from fabstir_client._async.calling import call_once
from fabstir_client._async.concurrency import now, until
from fabstir_client._async.link import Link
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Call, Pending, Session, T, unanswered
from fabstir_client.api.errors import ConnectionLost, FabstirError


class _Connection:
    """A link and the calls in flight on it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.session: Session[anyio.Event] = Session()
        self.lost = False

    async def read(self) -> None:
        """Settle calls as their answers arrive, until the connection ends."""
        try:
            while not self.lost:
                self._settle(await self.link.receive())
        except FabstirError as error:
            self._end(error)
        finally:
            self._end(ConnectionLost("the client was closed"))

    def usable(self) -> bool:
        """Whether it can carry a call; anything already received, its end included, is processed first."""
        if not self.lost:
            try:
                self._settle(self.link.receive_now())
            except FabstirError as error:
                self._end(error)
        return not self.lost

    def _settle(self, messages: list[bytes]) -> None:
        for message in messages:
            settled = self.session.receive(message)
            if isinstance(settled, Pending):
                settled.waiter.set()

    def _end(self, error: FabstirError) -> None:
        if not self.lost:
            self.lost = True
            self.link.close()
            for pending in self.session.fail(error):
                pending.waiter.set()


class Runner:
    """``bound`` is how many seconds a call may take, connecting included; None leaves that to the call."""

    def __init__(self, target: Target, bound: float | None) -> None:
        self._target = target
        self._bound = bound
        self._tasks: TaskGroup | None = None
        self._connection: _Connection | None = None
        self._connecting = anyio.Lock()
        self._process = os.getpid()

    async def __aenter__(self) -> Runner:
        if self._tasks is not None:
            raise RuntimeError("this client is in use already")
        link = await Link.open(self._target, None if self._bound is None else now() + self._bound)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._process = os.getpid()
        self._adopt(link)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        connection, self._connection = self._connection, None
        if tasks is None:
            raise RuntimeError("this client is not in use")
        if connection is not None:
            connection.link.close()
        tasks.cancel_scope.cancel()
        try:
            return await tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            # The caller must get the body's exception as it is, not wrapped by our own task group
            if error is not None and group.exceptions == (error,):
                return False
            raise

    async def run(self, call: Call[T]) -> T:
        """Carry out a call. Raises as the methods of `fabstir_client._async.client.Client` do."""
        began = now()
        ends = began + (call.bound if self._bound is None else min(call.bound, self._bound))
        if self._process != os.getpid():  # after a fork there is neither the reader nor a connection
            return await call_once(self._target, call, ends)
        pending: Pending[anyio.Event] | None = None
        connection = await self._connected(ends)
        try:
            with until(ends):
                pending, request = connection.session.begin(call, anyio.Event())
                with contextlib.suppress(ConnectionLost):
                    # The reader settles the call then, with what the daemon may have sent before it closed
                    await connection.link.send(request, ends)
                await pending.waiter.wait()
        except TimeoutError:
            raise unanswered(call, ends - began) from None
        finally:
            if pending is not None:
                connection.session.forget(pending)
        return call.read(pending.take())

    def _adopt(self, link: Link) -> _Connection:
        if self._tasks is None:
            link.close()
            raise RuntimeError("this client is used outside of its `async with`")
        self._connection = _Connection(link)
        self._tasks.start_soon(self._connection.read, name=f"fabstir_client reader of {link.endpoint}")
        return self._connection

    async def _connected(self, deadline: float) -> _Connection:
        if self._tasks is None:
            raise RuntimeError("this client is used outside of its `async with`")
        if self._connection is not None and self._connection.usable():
            return self._connection
        # The task that connects has its own deadline, which may be later than ours
        try:
            with until(deadline):
                await self._connecting.acquire()
        except TimeoutError:
            raise ConnectionLost("the connection to the daemon was lost, and not restored in time") from None
        try:
            # Another task may have reconnected while we waited
            if self._connection is not None and self._connection.usable():
                return self._connection
            return self._adopt(await Link.open(self._target, deadline))
        finally:
            self._connecting.release()
