"""Threads for calls that may block: disks and names have separate limits.

trio's 40 threads are shared by all. With slow name servers behind every one of them, a start or a write to the disk
would wait for strangers' names. Code that needs a thread uses this module, or a limiter of its own.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import trio

DISKS = 8  # file operations at a time
NAMES = 16  # names that the system resolves at a time

_T = TypeVar("_T")
_disks = trio.CapacityLimiter(DISKS)
_names = trio.CapacityLimiter(NAMES)

# As `socket.getaddrinfo` returns them: family, kind, protocol, canonical name, address
Answer = tuple[int, int, int, str, tuple[object, ...]]


async def on_disk(run: Callable[..., _T], *args: object, abandon: bool = False) -> _T:
    """Run ``run(*args)``, which may wait for a disk. With ``abandon`` a cancelled caller does not wait for it to
    end."""
    return await trio.to_thread.run_sync(run, *args, limiter=_disks, abandon_on_cancel=abandon)


async def imported(name: str) -> Any:
    """Import a module that may take long. A cancelled caller does not wait for it: on a busy machine it takes longer
    than a stop may."""
    return await trio.to_thread.run_sync(importlib.import_module, name, abandon_on_cancel=True)


async def look_up(host: str, port: int, family: int) -> list[Answer]:
    """The stream endpoints that the system knows for a name. The caller sets the deadline. If a name server does not
    answer, the thread stays in use until the system gives up. Raises OSError, UnicodeError."""

    def ask() -> list[Answer]:
        return list(socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))

    return await trio.to_thread.run_sync(ask, limiter=_names, abandon_on_cancel=True)


def waiting() -> dict[str, tuple[int, int]]:
    """The threads of each kind in use, and their bound."""
    return {
        "diskThreads": (int(_disks.borrowed_tokens), DISKS),
        "nameThreads": (int(_names.borrowed_tokens), NAMES),
    }
