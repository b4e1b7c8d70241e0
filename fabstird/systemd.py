"""sd_notify(3), the part a ``Type=notify`` service needs: a datagram to the socket that systemd named."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from fabstird.log import get_logger


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd ``READY=1``, ``STOPPING=1``, ``STATUS=…``. False where no systemd listens.

    Never raises, never blocks: the service must not depend on its supervisor's health."""
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
