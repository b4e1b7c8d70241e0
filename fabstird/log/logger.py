"""Logging: structlog in front, and the standard library's loggers (libp2p, hypercorn) on the same stream.

Each entry is one line on stderr: JSON with stable keys (``time level event logger``, then the details), or readable
text on a terminal. Under systemd's journal each line begins with its level. Secrets are never passed to a logger, and
the API never logs a request's query.
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

from fabstird.log.lines import Memory, Repeats, Throttle, harmless, indented, ordered, to_journal, with_prefix
from fabstird.log.writer import Writer

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN = "fabstird"
# Libraries whose loggers may be set to a lower level. hypercorn's access log is not among them, since it shows
# requests' queries.
LIBRARIES = ("libp2p", "trio-websocket", "hypercorn.error", "quart.app", "quart.serving")
_SILENT = ("hypercorn.access", "quic")

memory = Memory()  # for the process, as the standard library's root logger is
_writer: Writer | None = None
_names: set[str] = {_OWN}  # of the daemon's own loggers
_turned: dict[str, str] = {}  # levels set for single loggers


class UnknownLogger(ValueError):
    """There is no such logger; the message lists those that exist."""


def configure(level: str, form: str) -> None:
    """Set up logging for the process. ``form`` is ``auto``, ``console`` or ``json``. Call it before anything logs: a
    library that finds the root logger without a handler adds its own."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    handler = _handler()
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
            structlog.stdlib.filter_by_level,  # first, so that a suppressed line costs nothing more
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    set_level(level)


def _handler() -> logging.Handler:
    """The handler that writes to standard error. Where that has no descriptor, as in some tests, nothing can block, and
    it is written directly."""
    global _writer
    if _writer is not None:
        _writer.close()
    try:
        handler = _writer = Writer(sys.stderr.fileno())
    except (AttributeError, OSError):
        _writer = None
        return logging.StreamHandler(sys.stderr)
    return handler


def dropped() -> int:
    """Lines dropped because nobody read standard error."""
    return _writer.dropped if _writer is not None else 0


def finish() -> bool:
    """Write what still waits, for a moment at most; whether standard error accepts it."""
    if _writer is None:
        return True
    _writer.flush()
    return not _writer.stuck


def _past_filters(handler: logging.Handler) -> Callable[[logging.LogRecord], None]:
    def write(record: logging.LogRecord) -> None:
        handler.acquire()
        try:
            handler.emit(record)
        finally:
            handler.release()

    return write


def _renderer(console: bool, journal: bool) -> Processor:
    """The last step. Python's JSON encoder escapes everything outside printable ASCII, so text from a peer stays inside
    its string; in readable output each text is escaped likewise."""
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
    """Change a level of the running process: ``debug``, ``info``, ``warning`` or ``error``.

    With ``logger`` it applies to that logger and those below it: one of the daemon's, with or without ``fabstird.`` in
    front, or one of `LIBRARIES`; ``inherit`` undoes it. Raises `UnknownLogger`.
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
    """Whether the logger with this full name shows lines of level debug."""
    return logging.getLogger(logger).isEnabledFor(logging.DEBUG)


def levels() -> tuple[str, dict[str, str]]:
    """The level, and the levels set for single loggers."""
    own = logging.getLogger(_OWN).getEffectiveLevel()
    return next(name for name, number in _LEVELS.items() if number == own), dict(sorted(_turned.items()))


def known() -> list[str]:
    """Loggers whose level can be set: the daemon's without ``fabstird.``, then libraries'."""
    return [*sorted(name.removeprefix(f"{_OWN}.") for name in _ours() if name != _OWN), *LIBRARIES]


def _ours() -> set[str]:
    return {name.rsplit(".", depth)[0] for name in _names for depth in range(name.count(".") + 1)}


def _full(logger: str) -> str:
    """The full name of an existing logger. An unknown one would be created, and stay."""
    for name in (logger, f"{_OWN}.{logger}"):
        if name in LIBRARIES or (name in _ours() and name != _OWN):
            return name
    raise UnknownLogger(f'there is no logger "{logger}"; known are {", ".join(known())}')


def adopt_libraries() -> None:
    """Take over loggers that a library has set up itself; call it again after importing libp2p.

    libp2p logs as errors what any peer can cause, such as a failed handshake or a reset. The connection manager reports
    each of those once in its own words, so the library's lines are shown at level debug only.
    """
    shown = logging.WARNING if debugging() else logging.CRITICAL
    libp2p = logging.getLogger("libp2p")
    libp2p.handlers.clear()
    libp2p.propagate = True
    libp2p.setLevel(shown)
    accepting = logging.getLogger("trio.serve_listeners")  # logs ten times a second when file descriptors run out
    if not accepting.filters:
        accepting.addFilter(_OnceAMinute())
    for name in (*LIBRARIES[1:], *_SILENT):
        logging.getLogger(name).setLevel(logging.WARNING if debugging() else logging.ERROR)
    logging.getLogger("quic").setLevel(shown)
    for name, level in _turned.items():
        logging.getLogger(name).setLevel(_LEVELS[level])


class Throttled:
    """A logger for lines that a peer or a full disk can cause a thousand times a second, each with other details. It
    writes one a minute, with the number of those suppressed."""

    def __init__(self, logger: FilteringBoundLogger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._throttle = Throttle()

    def warning(self, event: str, **details: Any) -> None:
        self._write(self._logger.warning, event, details)

    def error(self, event: str, **details: Any) -> None:
        self._write(self._logger.error, event, details)

    def _write(self, write: Callable[..., Any], event: str, details: dict[str, Any]) -> None:
        now = self._clock()
        if not self._throttle.due(now):
            self._throttle.held_back += 1
            return
        if held := self._throttle.take(now):
            details["held_back"] = held
        write(event, **details)


class _OnceAMinute(logging.Filter):
    """As `Throttled`, for a library's logger."""

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
    """A logger below ``fabstird``. Bind details to it, and pass values as keywords."""
    _names.add(f"{_OWN}.{name}")
    logger: FilteringBoundLogger = structlog.get_logger(f"{_OWN}.{name}")
    return logger


def _add_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event
