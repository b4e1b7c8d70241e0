"""Turns a log entry into a line: repeats are suppressed, text from strangers is made harmless, and the last lines are
kept. `log.logger` assembles these."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

QUIET = 60.0  # seconds between two lines of the same repeating warning or error
KEPT = 1000  # lines that `Memory` keeps
LONGEST = 8192  # characters of a kept line
REPEATS = 256  # different warnings and errors that are checked for repeats
ASKED = frozenset({"task tree"})  # entries that somebody requests, and wants each time

# The journal's levels (sd-daemon(3)), which give a line its level when put before it
_JOURNAL = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


def to_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether ``descriptor`` writes to systemd's journal: it must match the device and inode in ``$JOURNAL_STREAM``
    (systemd.exec(5)). The variable alone proves nothing, since processes with other outputs inherit it."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def with_prefix(level: str, text: str) -> str:
    """``text`` with the journal's prefix for ``level`` before each line."""
    prefix = _JOURNAL.get(level, _JOURNAL["info"])
    return "\n".join(prefix + line for line in text.split("\n"))


def harmless(value: Any) -> Any:
    """``value`` without control and format characters in any text, so that nothing a peer sends can control a terminal
    or imitate a line of ours."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in value)
    if isinstance(value, Mapping):
        return {harmless(key): harmless(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [harmless(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return harmless(repr(value))


def indented(text: str) -> str:
    """A text of several lines, such as a traceback, made harmless and indented so that it differs from entries."""
    return "\n".join(f"    {harmless(line)}" for line in text.split("\n"))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class Memory:
    """The newest lines as JSON texts, and the number of lines of each level."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, str]] = deque(maxlen=KEPT)  # level and text
        self.head = 0  # lines so far
        self.counts: Counter[str] = Counter()

    def add(self, level: str, line: str, event: EventDict) -> None:
        self.counts[level] += 1
        if len(line) > LONGEST:
            head = {key: event[key] for key in ("time", "level", "event", "logger") if key in event}
            line = json.dumps({**head, "cut": line[: LONGEST // 2]}, default=repr)
        self._lines.append((level, line))
        self.head += 1

    def lines(self) -> list[str]:
        """The lines, oldest first."""
        return [text for _, text in self._lines]

    def read(
        self, after: int | None, limit: int, levels: Collection[str]
    ) -> tuple[int, list[tuple[int, str, str]], int]:
        """Read kept lines.

        Args:
            after: Lines after this number; None for the last ``limit`` lines that are kept.
            limit: How many lines at most.
            levels: Lines of these levels only.

        Returns:
            The newest line's number; the lines, oldest first, as number, level and text; how many lines after ``after``
            are no longer kept.
        """
        oldest = self.head - len(self._lines) + 1
        start = oldest - 1 if after is None else after
        found = [
            (number, level, text)
            for number, (level, text) in enumerate(self._lines, oldest)
            if number > start and level in levels
        ]
        missed = 0 if after is None else max(0, min(oldest - 1, self.head) - after)
        return self.head, found[-limit:] if after is None else found[:limit], missed

    def __len__(self) -> int:
        return len(self._lines)


class Throttle:
    """Decides whether a message is due again, and counts how often it was suppressed meanwhile."""

    __slots__ = ("_next", "held_back")

    def __init__(self) -> None:
        self._next = -math.inf
        self.held_back = 0

    def due(self, now: float) -> bool:
        return now >= self._next

    def take(self, now: float) -> int:
        """Take the turn to log; returns how often the message was suppressed since the last time."""
        held, self.held_back, self._next = self.held_back, 0, now + QUIET
        return held


class SaidLately:
    """Remembers what was logged within `QUIET`, by subject; beyond ``most`` subjects, the newest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._next: dict[Hashable, float] = {}  # when it may be logged again, oldest first

    def take(self, about: Hashable, now: float) -> bool:
        """Whether to log: True unless the subject was logged lately."""
        if now < self._next.get(about, -math.inf):
            return False
        self._next.pop(about, None)
        if len(self._next) >= self._most:
            del self._next[next(iter(self._next))]
        self._next[about] = now + QUIET
        return True


class Repeats(logging.Filter):
    """Lets one a minute through of warnings and errors that differ only in time. ``held_back`` on the next one counts
    those suppressed; if none follows, a line says so after the minute."""

    def __init__(self, tell: Callable[[logging.LogRecord], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._tell = tell  # writes a record without this filter
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[Throttle, logging.LogRecord]] = OrderedDict()  # oldest first

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            return self._filter(record, self._clock())

    def _filter(self, record: logging.LogRecord, now: float) -> bool:
        self._sweep(now)
        event = record.msg
        if record.levelno < logging.WARNING or (isinstance(event, dict) and event.get("event") in ASKED):
            return True
        key = _signature(record)
        found = self._seen.get(key)
        if found is not None:
            found[0].held_back += 1
            return False
        if len(self._seen) == REPEATS:
            self._close(*self._seen.popitem(last=False)[1])
        throttle = Throttle()
        throttle.take(now)
        self._seen[key] = throttle, record
        return True

    def _sweep(self, now: float) -> None:
        while self._seen:
            key, (throttle, record) = next(iter(self._seen.items()))
            if not throttle.due(now):
                return
            del self._seen[key]
            self._close(throttle, record)

    def _close(self, throttle: Throttle, record: logging.LogRecord) -> None:
        if not throttle.held_back:
            return
        again = logging.makeLogRecord(record.__dict__)
        held = {"held_back": throttle.held_back}
        if isinstance(record.msg, dict):
            again.msg = {**{key: value for key, value in record.msg.items() if key != "time"}, **held}
        else:
            again.msg, again.args = f"{record.getMessage()} (held back {throttle.held_back} times)", None
        again.exc_info = again.exc_text = None
        self._tell(again)


def _signature(record: logging.LogRecord) -> str:
    event = record.msg
    if isinstance(event, dict):
        details = [(key, value) for key, value in event.items() if key != "time"]
        return f"{record.name} {record.levelno} {sorted(details, key=lambda pair: pair[0])!r}"
    return f"{record.name} {record.levelno} {record.getMessage()} {record.exc_info and record.exc_info[0]}"


def ordered(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor that puts the keys common to all lines first."""
    head = {key: event.pop(key) for key in ("time", "level", "event", "logger") if key in event}
    return {**head, **event}
