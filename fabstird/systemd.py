"""The daemon's side of systemd without its library: sd_notify(3), sd_listen_fds(3), the watchdog and credentials.

Each is a few lines over the environment and a datagram socket. Without systemd they do nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fabstird.log.logger import get_logger

FIRST = 3  # the first passed descriptor, SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class Passed:
    """A listening socket from a socket unit. ``name`` is its ``FileDescriptorName=``. ``where`` is its path, or its
    host and port as in ``[api] http``."""

    name: str
    where: str
    socket: socket.socket

    @property
    def is_unix(self) -> bool:
        return self.socket.family == socket.AF_UNIX


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Notify systemd: ``READY=1``, ``STOPPING=1``, ``STATUS=…``. False where no systemd listens.

    It never raises and never blocks, since the service must not depend on its supervisor's health.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        get_logger("systemd").warning("systemd was not told", assignments=list(assignments), error=error.strerror)
        return False
    return True


def status(text: str) -> str:
    """The assignment that shows ``text`` in ``systemctl status``, as one line of printable characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return f"STATUS={line[:500]}"


def reloading() -> tuple[str, str]:
    """The assignments that begin a reload; ``Type=notify-reload`` requires the time."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which systemd requires ``WATCHDOG=1``; None where it does not, or requires it of another
    process."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    if microseconds <= 0 or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return microseconds / 1_000_000


def listen_sockets(environ: MutableMapping[str, str] = os.environ) -> list[Passed]:
    """The sockets that a socket unit passes, in the unit's order. They are taken once: a child inherits neither them
    nor the variables."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    passed = []
    for number in range(int(count)):
        sock = socket.socket(fileno=FIRST + number)
        sock.set_inheritable(False)
        sock.setblocking(False)
        name = names[number] if number < len(names) else ""
        passed.append(Passed(name, _where(sock), sock))
    return passed


def _where(sock: socket.socket) -> str:
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(address)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def credential(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file of a credential (``LoadCredential=``); None where the unit passes none of that name."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        return None
    path = Path(directory) / name
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except PermissionError:  # a container whose systemd could not mount it for us; nothing says what it would hold
        get_logger("systemd").warning("the unit's credentials cannot be read", directory=directory)
        return None
    return path
