"""What threads do in another way than trio and asyncio; the names are those of `fabstir_client._async.concurrency`."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabstir_client._core.emitter import Handler, Handlers

MOMENT = 0.001  # seconds; the least that is waited

Lock = threading.RLock
Flag = threading.Event
Signal = threading.Event


def now() -> float:
    """The clock that deadlines are instants of; in seconds."""
    return time.monotonic()


def remaining(deadline: float) -> float:
    """Seconds until an instant of the clock, and always more than 0: the deadline may pass between two readings of the
    clock, and `time.sleep` and sockets refuse a negative duration."""
    return max(MOMENT, deadline - now())


def checkpoint() -> None:
    """Other threads need no turn to be given."""


def shielded() -> AbstractContextManager[None]:
    """Nobody cancels a thread."""
    return nullcontext()


class Closeable(ABC):
    """What has a ``close()`` that waits for nothing."""

    @abstractmethod
    def close(self) -> None: ...


class Serving(ABC):
    """What has streams to hand out, one after the other."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    def serve(self, handler: Callable[[Any], None]) -> None:
        """Call ``handler`` with each stream, in a thread of its own, until the listener is closed. The stream is closed
        when its handler returns, and reset when it raises; an error is logged and ends that stream alone."""
        for stream in self:
            threading.Thread(target=_serve, args=(handler, stream), name="fabstir_client stream", daemon=True).start()


def _serve(handler: Callable[[Any], None], stream: Any) -> None:
    import logging  # the command line does without it

    try:
        handler(stream)
    except Exception as error:  # noqa: BLE001 - a handler's fault, or a peer that has gone, is that stream's alone
        logging.getLogger("fabstir_client.streams").warning(
            "the handler of a stream of %s failed: %r", stream.peer_id, error
        )
        stream.reset()
    else:
        stream.close()


def accepted(handler: Handler) -> Handler:
    """``handler``, if it is one that a thread can run. Raises `TypeError`."""
    import inspect  # the command line does without it

    if inspect.iscoroutinefunction(handler):
        raise TypeError("a coroutine function cannot be a handler here; use fabstir_client.P2PClient in an event loop")
    return handler


def delivering(handlers: Handlers, owner: object) -> Callable[[str, Any], bool]:
    """A function for the thread that follows the events: it calls the handlers of one."""

    def deliver(name: str, payload: Any) -> bool:
        handlers.emit(owner, name, payload)
        return True

    return deliver
