"""Daemons that are started on purpose: their exit statuses, their words, and what they answer."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.harness import Process, environment, ipc

STOPPED, CRASHED, MISCONFIGURED, IN_USE, CANNOT_BIND = range(5)
ASLEEP = {"node.auto_start": False}


def fabstird(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fabstird", *arguments]
    return subprocess.run(command, env=environment() | environ, capture_output=True, text=True, timeout=60, check=False)


async def call(running: Process, method: str, params: Any = None) -> Any:
    async with ipc(running) as connection:
        return await connection.call(method, params)
