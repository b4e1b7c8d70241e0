"""Shows a spinner on a terminal while a command takes longer than a second. Elsewhere it prints nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds before it appears
FRAME = 0.1  # seconds that each frame is shown
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_FRAMES = "|/-\\"
ERASE = "\r\x1b[K"


@contextmanager
def progress(doing: str | Callable[[], str]) -> Iterator[None]:
    """Show what is being done, and for how long, until the context is left. A callable ``doing`` is called for each
    frame."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(doing, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(doing: str | Callable[[], str], done: threading.Event) -> None:
    began = time.monotonic()
    if done.wait(PATIENCE):
        return
    utf8 = (sys.stderr.encoding or "").lower().startswith("utf")
    frames = FRAMES if utf8 else PLAIN_FRAMES
    number = 0
    while True:
        text = doing if isinstance(doing, str) else doing()
        line = f"{frames[number % len(frames)]} {time.monotonic() - began:.0f} s, {text}"
        columns = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 80
        sys.stderr.write(ERASE + line[: max(1, columns - 1)])
        sys.stderr.flush()
        number += 1
        if done.wait(FRAME):
            break
    sys.stderr.write(ERASE)
    sys.stderr.flush()
