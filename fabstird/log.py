"""Logging: structlog in front, the standard library's loggers (libp2p, hypercorn) joined to the same stream.

One line an event on stderr: JSON with stable keys (``time level event logger`` and then the details), or readable text
on a terminal; each with the journal's level in front where systemd's journal reads it. No value that a caller must keep
secret is ever passed to a logger; the API never logs a request's query.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from fabstird.loglines import Memory, Repeats, Throttle, harmless, indented, ordered, to_journal, with_prefix

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN = "fabstird"
# Libraries whose loggers may be turned up. hypercorn's access log is not among them: it shows requests' queries.
LIBRARIES = ("libp2p", "trio-websocket", "hypercorn.error", "quart.app", "quart.serving")
_SILENT = ("hypercorn.access",)

memory = Memory()  # of this process: the standard library has one root logger for it, too
_names: set[str] = {_OWN}  # of our own loggers
_turned: dict[str, str] = {}  # levels that were set for single loggers


class UnknownLogger(ValueError):
    """There is no such logger; the message names those that there are."""


def configure(level: str, form: str) -> None:
    """Set up logging for the process; ``form`` is ``auto``, ``console`` or ``json``. Call before anything else logs:
    a library that finds the root logger bare puts a handler of its own there (LAB.md, trap 16)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                _add_logger,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                ordered,
                _renderer(console, to_journal(os.environ)),
            ],
        )
    )
    handler.addFilter(Repeats(_past_filters(handler)))
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


def _past_filters(handler: logging.Handler) -> Callable[[logging.LogRecord], None]:
    def write(record: logging.LogRecord) -> None:
        handler.acquire()
        try:
            handler.emit(record)
        finally:
            handler.release()

    return write


def _renderer(console: bool, journal: bool) -> Processor:
    """The last step. Python's JSON encoder escapes everything outside printable ASCII, so what a peer sent stays where
    it belongs; for people the same is done to each text."""
    as_json = structlog.processors.JSONRenderer(default=repr)
    colors = console and sys.stderr.isatty()
    as_text = structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time", sort_keys=False)

    def render(logger: WrappedLogger, name: str, event: EventDict) -> str:
        line = as_json(logger, name, dict(event))
        assert isinstance(line, str)
        level = str(event.get("level", "info"))
        memory.add(level, line, event)
        if console:
            exception = event.pop("exception", None)
            line = str(as_text(logger, name, {str(key): harmless(value) for key, value in event.items()}))
            if exception:
                line += "\n" + indented(str(exception))
        return with_prefix(level, line) if journal else line

    return render


def set_level(level: str, logger: str | None = None) -> None:
    """Change the level of the running process: ``debug``, ``info``, ``warning`` or ``error``.

    With ``logger``, of that logger and those below it: one of ours, with or without ``fabstird.`` in front, or one of
    `LIBRARIES`; ``inherit`` takes that back. Raises `UnknownLogger`.
    """
    if logger is None:
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger(_OWN).setLevel(_LEVELS[level])
    else:
        name = _full(logger)
        if level == "inherit":
            _turned.pop(name, None)
            logging.getLogger(name).setLevel(logging.NOTSET)
        else:
            _turned[name] = level
    adopt_libraries()


def debugging(logger: str = _OWN) -> bool:
    """Whether lines of level debug are shown, of the logger with that whole name."""
    return logging.getLogger(logger).isEnabledFor(logging.DEBUG)


def levels() -> tuple[str, dict[str, str]]:
    """The level, and those of single loggers that were given one of their own."""
    own = logging.getLogger(_OWN).getEffectiveLevel()
    return next(name for name, number in _LEVELS.items() if number == own), dict(sorted(_turned.items()))


def known() -> list[str]:
    """Loggers that can be given a level of their own: ours without ``fabstird.``, then libraries'."""
    return [*sorted(name.removeprefix(f"{_OWN}.") for name in _ours() if name != _OWN), *LIBRARIES]


def _ours() -> set[str]:
    return {name.rsplit(".", depth)[0] for name in _names for depth in range(name.count(".") + 1)}


def _full(logger: str) -> str:
    """The whole name of a logger that exists: an unknown one would be made, and stay."""
    for name in (logger, f"{_OWN}.{logger}"):
        if name in LIBRARIES or (name in _ours() and name != _OWN):
            return name
    raise UnknownLogger(f'there is no logger "{logger}"; known are {", ".join(known())}')


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
    for name in (*LIBRARIES[1:], *_SILENT):
        logging.getLogger(name).setLevel(logging.WARNING if debugging() else logging.ERROR)
    for name, level in _turned.items():
        logging.getLogger(name).setLevel(_LEVELS[level])


class Throttled:
    """Warnings that a peer or a full disk can cause a thousand times a second, each with other details: one a minute is
    written, with the number of those that were not."""

    def __init__(self, logger: FilteringBoundLogger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._throttle = Throttle()

    def warning(self, event: str, **details: Any) -> None:
        now = self._clock()
        if not self._throttle.due(now):
            self._throttle.held_back += 1
            return
        if held := self._throttle.take(now):
            details["held_back"] = held
        self._logger.warning(event, **details)


class _OnceAMinute(logging.Filter):
    """The same for a library's logger."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if not self._throttle.due(now):
            return False
        self._throttle.take(now)
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
        return True


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger below ``fabstird``; bind details to it, pass values as keywords."""
    _names.add(f"{_OWN}.{name}")
    logger: FilteringBoundLogger = structlog.get_logger(f"{_OWN}.{name}")
    return logger


def _add_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event
