"""A sign of life on the terminal while a command waits for longer than a second; elsewhere, nothing at all."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds after which it shows
TURN = 0.1
SIGNS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SIGNS = "|/-\\"
ERASE = "\r\x1b[K"


@contextmanager
def progress(doing: str | Callable[[], str]) -> Iterator[None]:
    """Show what is being done, and for how long, until the context is left; ``doing`` may be asked anew each time."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(doing, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show(doing: str | Callable[[], str], over: threading.Event) -> None:
    began = time.monotonic()
    if over.wait(PATIENCE):
        return
    utf8 = (sys.stderr.encoding or "").lower().startswith("utf")
    signs = SIGNS if utf8 else PLAIN_SIGNS
    turn = 0
    while True:
        told = doing if isinstance(doing, str) else doing()
        line = f"{signs[turn % len(signs)]} {time.monotonic() - began:.0f} s, {told}"
        columns = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 80
        sys.stderr.write(ERASE + line[: max(1, columns - 1)])
        sys.stderr.flush()
        turn += 1
        if over.wait(TURN):
            break
    sys.stderr.write(ERASE)
    sys.stderr.flush()
