"""``fabstir events --exec``: runs a command for each event, one at a time.

The shell runs the caller's command. The content of an event may come from a stranger, so it never becomes a part of the
command: it is passed on standard input as one line of JSON, and safe values also as environment variables. While the
command runs, further events wait in the daemon's log. For events that the log has dropped, the command runs once, with
`lagged`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import msgspec

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Hook:
    """Runs ``command`` for each event. ``limit`` bounds each run, in s; ``complain`` is called with each failure."""

    def __init__(self, command: str, limit: float, complain: Callable[[str], object]) -> None:
        self._command = command
        self._limit = limit
        self._complain = complain
        self._running: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._signal: int | None = None  # received while the command was being started

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Within this context, a signal that ends this program also ends the running command and its children."""
        before = {number: signal.signal(number, self._on_signal) for number in ENDS}
        try:
            yield
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, event: Mapping[str, Any]) -> None:
        """Run the command once, until it ends or the limit has passed. Failures are reported."""
        what = f"--exec, for {event['type']}"
        with self._start(event) as running:
            try:
                running.communicate(msgspec.json.encode(event) + b"\n", self._limit)
            except subprocess.TimeoutExpired:
                self._kill()
                self._complain(f"{what}: killed after {self._limit:g} s")
                return
            except BaseException:
                self._kill()
                raise
        status = running.returncode
        if status:
            self._complain(
                f"{what}: " + (f"ended with status {status}" if status > 0 else f"killed by signal {-status}")
            )

    def _start(self, event: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Start the command. A signal received meanwhile takes effect once the command can be killed."""
        self._starting = True
        try:
            self._running = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.PIPE,
                env={**os.environ, **_variables(event)},
                start_new_session=True,
            )
        finally:
            self._starting = False
        if self._signal is not None:
            self._end(self._signal)
        return self._running

    def _kill(self) -> None:
        if self._running is not None and self._running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._starting:
            self._signal = number
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        """Kill the command, and die of the signal as this program would without a hook."""
        self._kill()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _variables(event: Mapping[str, Any]) -> dict[str, str]:
    """The values of an event that are safe in an environment: its type, its numbers, and the peer id, which the daemon
    has checked."""
    data = event.get("data")
    peer = data.get("peerId") if isinstance(data, dict) else None
    given = {"TYPE": event["type"], "SEQ": event.get("seq"), "EPOCH": event.get("epoch"), "PEER": peer}
    return {f"FABSTIR_EVENT_{name}": str(value).replace("\0", "") for name, value in given.items() if value is not None}
