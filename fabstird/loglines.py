"""What happens to an entry of the log until it is a line: repeats are held back, what a stranger sent is made harmless,
the last lines are kept. `log` puts these together.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

QUIET = 60.0  # seconds between two lines of the same repeating warning or error
KEPT = 1000  # lines that `Memory` keeps
LONGEST = 8192  # characters of a kept line
REPEATS = 256  # different warnings and errors that are watched for repeats
ASKED = frozenset({"task tree"})  # entries that somebody asks for, who wants each of them

# The journal's levels (sd-daemon(3)); a prefix gives a line its level there
_JOURNAL = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


def to_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether what is written to ``descriptor`` goes to systemd's journal, by the device and inode that systemd names
    in ``$JOURNAL_STREAM`` (systemd.exec(5)): a variable alone is inherited by processes whose output goes elsewhere."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def with_prefix(level: str, text: str) -> str:
    """Each line of ``text`` with the journal's prefix for ``level``."""
    prefix = _JOURNAL.get(level, _JOURNAL["info"])
    return "\n".join(prefix + line for line in text.split("\n"))


def harmless(value: Any) -> Any:
    """``value`` without a control or format character in any text: nothing a peer sends can steer a terminal, or begin
    a line that looks like one of ours."""
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
    """Many lines (a traceback), each harmless and set off from the lines of entries."""
    return "\n".join(f"    {harmless(line)}" for line in text.split("\n"))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class Memory:
    """The newest lines, as JSON texts, and how many there were of each level."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()

    def add(self, level: str, line: str, event: EventDict) -> None:
        self.counts[level] += 1
        if len(line) > LONGEST:
            head = {key: event[key] for key in ("time", "level", "event", "logger") if key in event}
            line = json.dumps({**head, "cut": line[: LONGEST // 2]}, default=repr)
        self._lines.append(line)

    def lines(self) -> list[str]:
        """Oldest first."""
        return list(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class Throttle:
    """Whether it is time again to say something, and how often it was not said meanwhile."""

    __slots__ = ("_next", "held_back")

    def __init__(self) -> None:
        self._next = -math.inf
        self.held_back = 0

    def due(self, now: float) -> bool:
        return now >= self._next

    def take(self, now: float) -> int:
        """Say it; how often it was held back since the last time."""
        held, self.held_back, self._next = self.held_back, 0, now + QUIET
        return held


class Repeats(logging.Filter):
    """Of warnings and errors that are the same in everything but their time, one a minute is let through. What was held
    back is told as ``held_back`` with the next one, or, where none follows, once the minute is over."""

    def __init__(self, tell: Callable[[logging.LogRecord], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._tell = tell  # writes a record past this filter
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[Throttle, logging.LogRecord]] = OrderedDict()  # longest ago first

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
    """A structlog processor: the keys that every line has come first."""
    head = {key: event.pop(key) for key in ("time", "level", "event", "logger") if key in event}
    return {**head, **event}
