"""A daemon as a process: with a new data directory, on loopback only, on ports that the kernel chooses."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fabstir_client._core.discovery import StrPath
from fabstir_client._sync.client import Client as SyncClient
from fabstir_client._sync.client import connect as connect_sync

if TYPE_CHECKING:
    from fabstir_client._async.client import Client

START_TIMEOUT = 60.0  # seconds from exec until the node is started, on a busy machine
STOP_TIMEOUT = 10.0  # seconds from SIGTERM until it has ended
EVERY = 0.01  # seconds between two checks
TAIL = 8000  # characters of the log in an error

# Settings of a test's daemon instead of the defaults, so that it is isolated from everything beyond this machine.
SETTINGS: Mapping[str, Any] = {
    "node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"],
    "node.enable_mdns": False,
    "api.http": "127.0.0.1:0",
    "log.format": "json",
}
# Variables that would configure it, or move its files
FOREIGN = (
    "FABSTIR",
    "XDG_",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "LISTEN_",
)


class DaemonFailed(AssertionError):
    """A daemon did not start, did not stop in time, or failed; the message has the end of its log."""


class Daemon:
    """``fabstird run`` in ``data_dir``, whose path must be short: that of a Unix socket has at most 107 bytes.

    ``settings`` override `SETTINGS`, with the names that `--set` takes (``{"node.max_retries": 0}``). `start` after
    `stop` or `kill` is a restart. Failures raise `DaemonFailed`.
    """

    def __init__(self, data_dir: StrPath, settings: Mapping[str, Any] | None = None) -> None:
        self.data_dir = Path(data_dir)
        self.api: dict[str, Any] = {}  # the content of `api.json`: pid, epoch, version, ipc, http
        self._settings = {**SETTINGS, **(settings or {})}
        self._log = self.data_dir.with_name(f"{self.data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    # -- its life

    def start(self) -> None:
        """Start it; returns when the API answers. The node may still be starting (`wait_started`)."""
        self.launch()
        self.wait_listening()

    def launch(self) -> None:
        """Start the process only."""
        if self._process is not None:
            raise DaemonFailed(f"the daemon in {self.data_dir} runs already")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_program(), "run", "--data-dir", str(self.data_dir), *_options(self._settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            )

    def wait_listening(self, within: float = START_TIMEOUT) -> None:
        """Wait until the API answers, at most ``within`` seconds."""
        process, due = self._process, time.monotonic() + within
        while process is not None:
            if process.poll() is not None:
                self._process = None
                raise DaemonFailed(f"the daemon ended with status {process.returncode}{self._last_words()}")
            with contextlib.suppress(FileNotFoundError):
                self.api = json.loads((self.data_dir / "api.json").read_bytes())
                if self.api["pid"] == process.pid:
                    return
            if time.monotonic() > due:
                raise DaemonFailed(f"the daemon's API did not listen within {within} s{self._last_words()}")
            time.sleep(EVERY)
        raise DaemonFailed(f"the daemon in {self.data_dir} does not run")

    def wait_started(self, within: float = START_TIMEOUT) -> None:
        """Wait until the node is started, at most ``within`` seconds."""
        with self.connect_sync() as client:
            client.wait(state="started", timeout=int(within * 1000))

    def stop(self, within: float = STOP_TIMEOUT) -> None:
        """Send SIGTERM, which must end it with status 0 ``within`` seconds. Does nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self.wait_ended(within)

    def wait_ended(self, within: float = STOP_TIMEOUT) -> None:
        """Wait until it has ended, which must be with status 0; after ``within`` seconds it is killed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            status = process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DaemonFailed(f"the daemon did not stop within {within} s{self._last_words()}") from None
        if status != 0:
            raise DaemonFailed(f"the daemon ended with status {status}{self._last_words()}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    # -- what a test does with it

    @property
    def ipc(self) -> str:
        """The address of its Unix socket, for `connect(api=…)`, FABSTIR_API and `fabstir --api`."""
        return f"ipc:{self.api['ipc']}"

    @property
    def http(self) -> str:
        """The address of HTTP, likewise; it needs the `token`."""
        return f"http://{self.api['http']}"

    @property
    def token(self) -> str:
        return (self.data_dir / "api.token").read_text().strip()

    @property
    def log(self) -> str:
        """Its log, a JSON object a line."""
        return self._log.read_text(errors="replace")

    @property
    def peer_id(self) -> str:
        with self.connect_sync() as client:
            return client.status().peer_id

    @property
    def address(self) -> str:
        """The first address that its node listens on, with its peer id, for another node's `connect`."""
        with self.connect_sync() as client:
            return client.status().listen_addresses[0]

    def connect(self) -> Client:
        """As `fabstir_client.connect`, to this daemon."""
        from fabstir_client._async.client import connect

        return connect(api=self.ipc)

    def connect_sync(self) -> SyncClient:
        """As `fabstir_client.connect_sync`, to this daemon."""
        return connect_sync(api=self.ipc)

    def _last_words(self) -> str:
        return f"; its log ends with:\n{self.log[-TAIL:]}"


class Pair(NamedTuple):
    """Two daemons whose nodes are connected; ``one`` dialled."""

    one: Daemon
    other: Daemon


@contextlib.contextmanager
def running_daemon(settings: Mapping[str, Any] | None = None) -> Iterator[Daemon]:
    """A daemon whose node is started, in a data directory that is removed afterwards. At the end it must stop
    cleanly."""
    with _running(1, settings) as [daemon]:
        yield daemon


@contextlib.contextmanager
def running_pair(settings: Mapping[str, Any] | None = None) -> Iterator[Pair]:
    """Two such daemons, connected."""
    with _running(2, settings) as [one, other]:
        with one.connect_sync() as client:
            client.connect(other.address)
        with other.connect_sync() as client:
            client.wait(peer_id=one.peer_id, timeout=int(START_TIMEOUT * 1000))
        yield Pair(one, other)


@contextlib.contextmanager
def _running(number: int, settings: Mapping[str, Any] | None) -> Iterator[list[Daemon]]:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        daemons = [Daemon(Path(folder) / str(index), settings) for index in range(number)]
        try:
            for daemon in daemons:
                daemon.launch()
            for daemon in daemons:
                daemon.wait_listening()
            if (settings or {}).get("node.auto_start", True):
                for daemon in daemons:
                    daemon.wait_started()
            yield daemons
            for daemon in daemons:
                daemon.stop()
        finally:
            for daemon in daemons:
                daemon.kill()


def _program() -> list[str]:
    """The daemon installed for this Python, otherwise that of the machine."""
    if importlib.util.find_spec("fabstird") is not None:
        return [sys.executable, "-m", "fabstird"]
    found = shutil.which("fabstird")
    if found is None:
        raise DaemonFailed("there is no fabstird here: pip install 'fabstir[daemon]', or put it on the PATH")
    return [found]


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        yield from ("--set", f"{key}={json.dumps(value)}")  # JSON of these types is TOML too
