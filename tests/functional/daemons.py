"""Daemons as processes, for tests that are no trio tasks: the client's, which run in threads, asyncio and trio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = 30.0  # seconds for the API to listen, on a machine that is busy with other things
STOP = 5.0  # CONTRACT, section 1: SIGTERM to exit 0
QUIET: dict[str, Any] = {
    "node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"],
    "node.enable_mdns": False,
    "node.enable_dht": False,
    "api.http": "127.0.0.1:0",
}


class RunningDaemon:
    """One data directory, and the daemon in it; `start` again after `stop` or `kill` is a restart."""

    def __init__(self, data_dir: Path, settings: dict[str, Any]) -> None:
        self.data_dir = data_dir
        self.api: dict[str, Any] = {}  # `api.json`, once it listens
        self._settings = {**QUIET, **settings}
        self._log = data_dir.with_name("log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the API listens."""
        command = [sys.executable, "-m", "fabstird", "run", "--data-dir", str(self.data_dir)]
        for key, value in self._settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
        self._process = process

        def listens() -> bool:
            assert process.poll() is None, f"it ended with {process.returncode}: {self.log}"
            try:
                self.api = json.loads((self.data_dir / "api.json").read_bytes())
            except FileNotFoundError:
                return False
            return bool(self.api["pid"] == process.pid)

        until(listens, START)

    def stop(self) -> None:
        """SIGTERM, which must end it well and in time."""
        self.end(signal.SIGTERM)

    def end(self, number: int | None = None) -> None:
        """It must exit with 0: because of a signal, or of what was asked of it."""
        if self._process is not None:
            if number is not None:
                self._process.send_signal(number)
            process, self._process = self._process, None
            try:
                assert process.wait(STOP) == 0, self.log
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"it did not stop within {STOP} s: {self.log}") from None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def http(self) -> str:
        return f"http://{self.api['http']}"

    @property
    def ipc(self) -> str:
        return f"ipc:{self.api['ipc']}"


@contextmanager
def stopped_daemon(**settings: Any) -> Iterator[RunningDaemon]:
    """A `RunningDaemon` that is still to be started; ``node__max_retries=1`` sets ``node.max_retries``."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:  # a Unix socket's path has at most 107 bytes
        daemon = RunningDaemon(Path(short) / "data", {key.replace("__", "."): v for key, v in settings.items()})
        try:
            yield daemon
        except BaseException:
            daemon.kill()
            raise
        daemon.stop()


@contextmanager
def running_daemon(**settings: Any) -> Iterator[RunningDaemon]:
    """A daemon whose API listens; at the end it must stop well."""
    with stopped_daemon(**settings) as daemon:
        daemon.start()
        yield daemon


def until(condition: Callable[[], Any], within: float = 15) -> Any:
    """The first true value of ``condition``; fails after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still {value!r} after {within} s"
        time.sleep(0.01)
    return value
