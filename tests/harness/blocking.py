"""Daemons as processes, for tests that are no trio tasks: the client's, which run in threads, asyncio and trio. Users'
tests have the same, by `fabstir_client.testing`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabstir_client.testing import Daemon
from tests.harness.launch import STOP_TIMEOUT


class RunningDaemon(Daemon):
    """One data directory, and the daemon in it, without a DHT; `start` again after `stop` or `kill` is a restart."""

    def __init__(self, data_dir: Path, settings: dict[str, Any]) -> None:
        super().__init__(data_dir, {"node.enable_dht": False, **settings})

    def stop(self, within: float = STOP_TIMEOUT) -> None:
        """SIGTERM, which must end it well and in time."""
        super().stop(within)

    def end(self) -> None:
        """It must exit with 0, because of what was asked of it."""
        self.wait_ended(STOP_TIMEOUT)


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
