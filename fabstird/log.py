"""Logging: structlog in front, the standard library's loggers (libp2p, hypercorn) joined to the same stream.

One line an event on stderr: JSON with stable keys (``time level event`` and then the details), or readable text on a
terminal. No value that a caller must keep secret is ever passed to a logger; the API never logs a request's query.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

QUIET = 60.0  # seconds between two lines of a `Throttled` warning
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, form: str) -> None:
    """Set up logging for the process; ``form`` is ``auto``, ``console`` or ``json``. Call before anything else logs:
    a library that finds the root logger bare puts a handler of its own there (LAB.md, trap 16)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _add_logger],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _ordered, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # first: a line that is not shown costs nothing more
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of the running process: ``debug``, ``info``, ``warning`` or ``error``."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("fabstird").setLevel(_LEVELS[level])
    adopt_libraries()


def debugging() -> bool:
    """Whether lines of level debug are shown."""
    return logging.getLogger("fabstird").isEnabledFor(logging.DEBUG)


def adopt_libraries() -> None:
    """Bring loggers that a library has set up for itself back under ours; call again after importing libp2p.

    libp2p logs what any peer can cause (a failed handshake, a reset) as errors. The connection manager reports each of
    those itself, in our words and once, so the library's own lines are shown at level debug only.
    """
    shown = logging.WARNING if debugging() else logging.CRITICAL
    libp2p = logging.getLogger("libp2p")
    libp2p.handlers.clear()
    libp2p.propagate = True
    libp2p.setLevel(shown)
    accepting = logging.getLogger("trio.serve_listeners")  # complains ten times a second without file descriptors
    if not accepting.filters:
        accepting.addFilter(_OnceAMinute())
    for name in ("trio-websocket", "hypercorn.error", "hypercorn.access", "quart.app", "quart.serving"):
        logging.getLogger(name).setLevel(logging.WARNING if debugging() else logging.ERROR)


class Throttled:
    """Warnings that a peer or a full disk can cause a thousand times a second: one a minute is written, with the number
    of those that were not."""

    def __init__(self, logger: FilteringBoundLogger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._next = -math.inf
        self._held_back = 0

    def warning(self, event: str, **details: Any) -> None:
        now = self._clock()
        if now < self._next:
            self._held_back += 1
            return
        if self._held_back:
            details["held_back"] = self._held_back
        self._next, self._held_back = now + QUIET, 0
        self._logger.warning(event, **details)


class _OnceAMinute(logging.Filter):
    """The same for a library's logger."""

    def __init__(self) -> None:
        super().__init__()
        self._next = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + QUIET
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
        return True


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger below ``fabstird``; bind details to it, pass values as keywords."""
    logger: FilteringBoundLogger = structlog.get_logger(f"fabstird.{name}")
    return logger


def _add_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _ordered(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    head = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return {**head, **event}
