"""What `P2PClient`, `FabstirSDK` and their blocking versions share: handlers by name, without I/O."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from fabstir_client.api.errors import FabstirError, InvalidConfig
from fabstir_client.api.types import Event, Record

logger = logging.getLogger("fabstir_client.p2p")

Handler = Callable[[Any], Any]
Tap = Callable[[str, Any], Any]

# The object whose handler is running here: waiting for handlers must not wait for itself
handling: ContextVar[object | None] = ContextVar("fabstir_client.handling", default=None)


class Handlers:
    """Handlers by event name; ``tap``, if given, gets every event before them."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[Handler, ...]] = {}
        self.tap: Tap | None = None

    def add(self, name: str, handler: Handler) -> None:
        if not callable(handler):
            raise TypeError(f"the handler for {name!r} is not callable")
        self._by_name[name] = (*self._by_name.get(name, ()), handler)

    def remove(self, name: str, handler: Handler) -> None:
        handlers = list(self._by_name.get(name, ()))
        if handler in handlers:
            handlers.remove(handler)
        self._by_name[name] = tuple(handlers)

    def wants(self, name: str) -> bool:
        return self.tap is not None or bool(self._by_name.get(name))

    def emit(self, owner: object, name: str, payload: Any) -> None:
        """Call the handlers one by one. An exception of one is logged, and the others still run."""
        token = handling.set(owner)
        try:
            if self.tap is not None:
                self.tap(name, payload)
            for handler in self._by_name.get(name, ()):
                try:
                    handler(payload)
                except Exception:
                    logger.exception("a handler of %r raised", name)
        finally:
            handling.reset(token)

    async def emit_async(self, owner: object, name: str, payload: Any) -> None:
        """As `emit`, for handlers that may be coroutine functions; each is awaited before the next."""
        token = handling.set(owner)
        try:
            if self.tap is not None:
                await _finished(self.tap(name, payload))
            for handler in self._by_name.get(name, ()):
                try:
                    await _finished(handler(payload))
                except Exception:
                    logger.exception("a handler of %r raised", name)
        finally:
            handling.reset(token)


async def _finished(result: Any) -> None:
    if inspect.isawaitable(result):
        awaitable: Awaitable[Any] = result
        await awaitable


def payload_of(event: Event) -> Any:
    """The argument for handlers: the peer id for ``peer:connect`` and ``peer:disconnect``, as in the TypeScript SDK,
    otherwise the data under its names on the wire."""
    data = event.data.to_dict() if isinstance(event.data, Record) else event.data
    if event.type in ("peer:connect", "peer:disconnect"):
        return data["peerId"]
    return data


def failure(error: FabstirError) -> dict[str, Any]:
    """An error of the client in the shape of the daemon's ``error`` events: ``{type, message, …details}``."""
    return {"type": error.code, "message": str(error), **error.data}


def check_mode(mode: str, p2p_config: object) -> None:
    """Check the arguments of `FabstirSDK`. Raises `InvalidConfig`."""
    if mode not in ("mock", "production"):
        raise InvalidConfig(f'invalid mode {mode!r}: it must be "mock" or "production"')
    if mode == "production" and p2p_config is None:
        raise InvalidConfig("mode production needs p2p_config; an empty one will do")
