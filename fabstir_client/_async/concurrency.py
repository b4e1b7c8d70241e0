"""What differs between event loops and threads: the clock, waiting, locks, and delivering events.

`fabstir_client._sync.concurrency` has the same names for threads. Both are written by hand. Code on top of them is
written once, in `fabstir_client._async`, and `scripts/unasync` generates the blocking version.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
from anyio.lowlevel import checkpoint as checkpoint
from anyio.lowlevel import current_token

from fabstir_client._core.emitter import Handler, Handlers

Lock = anyio.Lock
log = logging.getLogger("fabstir_client.streams")


def now() -> float:
    """The current time of the clock for deadlines, in seconds."""
    return anyio.current_time()


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Raise TimeoutError if the body has not ended by ``deadline``."""
    with anyio.CancelScope(deadline=math.inf if deadline is None else deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError


def shielded() -> anyio.CancelScope:
    """For a body that ends by itself and whose every wait is bounded."""
    return anyio.CancelScope(shield=True)


class Flag:
    """Set once by a task of the same event loop."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, seconds: float) -> bool:
        """Whether it was set within ``seconds``."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


class Signal:
    """Set by a thread and awaited in an event loop, by closing one of a pair of sockets.

    So the thread never waits for the loop, which may have ended.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()

    def set(self) -> None:
        self._write.close()

    async def wait(self, seconds: float) -> bool:
        """Whether it was set within ``seconds``."""
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(self._read)
            return True
        return False

    def __del__(self) -> None:
        self._read.close()
        self._write.close()


class Closeable(ABC):
    """Gives an object with a ``close()`` that does not wait the method that asynchronous code looks for."""

    @abstractmethod
    def close(self) -> None: ...

    async def aclose(self) -> None:
        """`close`."""
        self.close()
        await checkpoint()


class Serving(ABC):
    """Something that yields streams."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def serve(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Call ``handler`` with each stream, in its own task, until the listener is closed. A stream is closed when its
        handler returns, and reset when it raises; the error is logged and affects no other stream."""
        async with anyio.create_task_group() as tasks:
            async for stream in self:
                tasks.start_soon(_serve, handler, stream)


async def _serve(handler: Callable[[Any], Awaitable[None]], stream: Any) -> None:
    try:
        await handler(stream)
    except Exception as error:  # noqa: BLE001 - an error of the handler, or a lost peer, affects that stream only
        log.warning("the handler of a stream from %s failed: %r", stream.peer_id, error)
        await stream.reset()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await stream.reset()
        raise
    else:
        await stream.aclose()


def accepted(handler: Handler) -> Handler:
    """``handler``, if events can be delivered to it here."""
    return handler


def delivering(handlers: Handlers, owner: object) -> Callable[[str, Any], bool]:
    """A function for the thread that follows events. It delivers one event to the current event loop, and returns once
    its handlers have run; False where the loop has ended."""
    token = current_token()

    def deliver(name: str, payload: Any) -> bool:
        if not handlers.wants(name):
            return True
        try:
            anyio.from_thread.run(handlers.emit_async, owner, name, payload, token=token)
        except (anyio.RunFinishedError, concurrent.futures.CancelledError, RuntimeError):
            return False  # the loop has ended
        except BaseException:  # noqa: BLE001 - trio's Cancelled, which cannot be named here: the loop is ending
            return False
        return True

    return deliver
