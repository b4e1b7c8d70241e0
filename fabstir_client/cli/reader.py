"""Ends a command when nobody reads its output any more.

Without this, a waiting command would notice that its reader has gone only at its next write, which may never come.
"""

from __future__ import annotations

import os
import select
import stat
import threading

from fabstir_client import _stdio


def end_without(status: int) -> None:
    """From now on, quietly end the process with ``status`` when the reader of standard output goes away."""
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch, args=(status,), name="reader of the output", daemon=True).start()


def _watch(status: int) -> None:
    poll = select.poll()
    poll.register(1, 0)  # POLLERR and POLLHUP are always reported
    poll.poll()
    _stdio.discard(1)
    os._exit(status)
