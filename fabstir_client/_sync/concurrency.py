"""What differs between threads and event loops, with the same names as in `fabstir_client._async.concurrency`."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabstir_client._core.emitter import Handler, Handlers

MOMENT = 0.001  # seconds; the shortest wait

Lock = threading.RLock
Flag = threading.Event
Signal = threading.Event


def now() -> float:
    """The current time of the clock for deadlines, in seconds."""
    return time.monotonic()


def remaining(deadline: float) -> float:
    """Seconds until a time of the clock, always more than 0: the deadline may pass between two readings of the clock,
    and `time.sleep` and sockets refuse a negative duration."""
    return max(MOMENT, deadline - now())


def checkpoint() -> None:
    """Does nothing: threads need not yield."""


def shielded() -> AbstractContextManager[None]:
    """Does nothing: threads cannot be cancelled."""
    return nullcontext()


class Closeable(ABC):
    """An object with a ``close()`` that does not wait."""

    @abstractmethod
    def close(self) -> None: ...


class Serving(ABC):
    """Something that yields streams."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    def serve(self, handler: Callable[[Any], None]) -> None:
        """Call ``handler`` with each stream, in its own thread, until the listener is closed. A stream is closed when
        its handler returns, and reset when it raises; the error is logged and affects no other stream."""
        for stream in self:
            threading.Thread(target=_serve, args=(handler, stream), name="fabstir_client stream", daemon=True).start()


def _serve(handler: Callable[[Any], None], stream: Any) -> None:
    import logging  # not needed by the command line, which starts sooner without it

    try:
        handler(stream)
    except Exception as error:  # noqa: BLE001 - an error of the handler, or a lost peer, affects that stream only
        logging.getLogger("fabstir_client.streams").warning(
            "the handler of a stream from %s failed: %r", stream.peer_id, error
        )
        stream.reset()
    else:
        stream.close()


def accepted(handler: Handler) -> Handler:
    """``handler``, if a thread can run it. Raises `TypeError`."""
    import inspect  # not needed by the command line, which starts sooner without it

    if inspect.iscoroutinefunction(handler):
        raise TypeError("a coroutine function cannot be a handler here; use fabstir_client.P2PClient in an event loop")
    return handler


def delivering(handlers: Handlers, owner: object) -> Callable[[str, Any], bool]:
    """A function for the thread that follows events. It calls the handlers of one event."""

    def deliver(name: str, payload: Any) -> bool:
        handlers.emit(owner, name, payload)
        return True

    return deliver
