"""``fabstir events --exec``: a command for each event, one at a time.

The command is the caller's, run by the shell. What the event says, which may be a stranger's text, never becomes a part
of it: it comes on standard input as one line of JSON, and what is safe in variables of the environment. While the
command runs, events wait in the daemon's log; what that cannot keep is told as `lagged`, for which it runs too.
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
    """Runs ``command`` for each event. ``limit`` (s) bounds each run; ``complain`` is told what went wrong."""

    def __init__(self, command: str, limit: float, complain: Callable[[str], object]) -> None:
        self._command = command
        self._limit = limit
        self._complain = complain
        self._running: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._signal: int | None = None  # that came while it was being started

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """While in it, whatever ends this program ends the command that runs, and its children, too."""
        before = {number: signal.signal(number, self._take) for number in ENDS}
        try:
            yield
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, event: Mapping[str, Any]) -> None:
        """Once, to its end or its limit. A status other than 0 is told, and the next event runs it again."""
        what = f"--exec, for {event['type']}"
        with self._started(event) as running:
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

    def _started(self, event: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """The command. A signal that comes before it can be killed waits until it can."""
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

    def _take(self, number: int, _: FrameType | None) -> None:
        if self._starting:
            self._signal = number
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        """Die of the signal, as without the hook."""
        self._kill()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _variables(event: Mapping[str, Any]) -> dict[str, str]:
    """What of an event is safe in an environment: its type, numbers, and the peer id, which the daemon has checked."""
    data = event.get("data")
    peer = data.get("peerId") if isinstance(data, dict) else None
    given = {"TYPE": event["type"], "SEQ": event.get("seq"), "EPOCH": event.get("epoch"), "PEER": peer}
    return {f"FABSTIR_EVENT_{name}": str(one).replace("\0", "") for name, one in given.items() if one is not None}
