"""Writes the lines of the log from its own thread, so that a reader of standard error that stops reading blocks nothing
else. The event loop only appends to a bounded queue. Lines that find no room are dropped and counted, and the count is
logged when there is room again."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque

MAX_QUEUED = 1024 * 1024  # bytes of lines that wait to be written
BATCH = 64 * 1024  # bytes passed to the kernel at a time, or one longer line
LAST_WORDS = 1.0  # seconds at the end of the process to write what still waits


class Writer(logging.Handler):
    """A handler whose `emit` never waits. Its thread lives as long as the process, and does not delay the exit."""

    def __init__(self, descriptor: int, *, max_queued: int = MAX_QUEUED) -> None:
        super().__init__()
        self.dropped = 0  # lines since the process began
        self._told = 0  # how many of them were reported in the log
        self._descriptor = descriptor
        self._max_queued = max_queued
        self._queue: deque[bytes] = deque()
        self._size = 0  # bytes queued, or being written
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "replace") + b"\n"
        except Exception:  # noqa: BLE001 - as handlers of the standard library do
            self.handleError(record)
            return
        with self._changed:
            if self._size + len(line) > self._max_queued or self._ended:
                self.dropped += 1
                return
            self._queue.append(line)
            self._size += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, at most `LAST_WORDS`. For the end of the process."""
        deadline = time.monotonic() + LAST_WORDS
        with self._changed:
            while self._size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def close(self) -> None:
        """Write what waits, as `flush`, and end the thread."""
        self.flush()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        super().close()

    @property
    def stuck(self) -> bool:
        """Whether something waits to be written."""
        return self._size > 0

    def _run(self) -> None:
        while (chunk := self._next()) is not None:
            written = self._write(chunk)
            with self._changed:
                self._size -= len(chunk)
                self.dropped += chunk.count(b"\n") if not written else 0
                self._changed.notify_all()
                untold = self.dropped - self._told if written and not self._size else 0
                self._told += untold
            if untold:
                self.emit(_dropped(untold))

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._queue:
                if self._ended:
                    return None
                self._changed.wait()
            lines = [self._queue.popleft()]
            size = len(lines[0])
            while self._queue and size + len(self._queue[0]) <= BATCH:
                lines.append(self._queue.popleft())
                size += len(lines[-1])
            return b"".join(lines)

    def _write(self, chunk: bytes) -> bool:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the descriptor made it non-blocking
                time.sleep(0.05)
            except OSError:
                return False  # the reader has gone, or the disk is full; the next line tries again
        return True


def _dropped(count: int) -> logging.LogRecord:
    message = f"{count} lines of the log were dropped: standard error was not read"
    return logging.LogRecord("fabstird.log", logging.WARNING, __file__, 0, message, None, None)
