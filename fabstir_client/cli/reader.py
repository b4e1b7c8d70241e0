"""Whether anybody still reads what a command prints.

A command that waits learns only from its next write that its reader has gone, and it may never have anything to write.
"""

from __future__ import annotations

import os
import select
import stat
import threading

from fabstir_client import _stdio


def end_without(status: int) -> None:
    """From now on, end the process with ``status``, quietly, when whoever reads standard output goes away."""
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch, args=(status,), name="reader of the output", daemon=True).start()


def _watch(status: int) -> None:
    poll = select.poll()
    poll.register(1, 0)  # of POLLERR and POLLHUP one is always told
    poll.poll()
    _stdio.discard(1)
    os._exit(status)
