"""The two processes that the connection bench compares: a fabstird daemon, and js-libp2p on Node.

Each is asked over a line of JSON and measured from outside, by what the kernel says of its process.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.interop.jspeer import ensure_installed

PLENTY = 100_000
START_TIMEOUT = 60.0
SETTLED = 1.5  # seconds after which a connection costs nothing more: identify has ended, the first yamux ping too

Json = dict[str, Any]


class Server:
    """A running server."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], requests: IO[bytes], answers: IO[bytes]) -> None:
        self.name = name
        self.version = ""
        self.address = ("", 0)
        self._process = process
        self._requests = requests
        self._answers = answers

    def call(self, method: str) -> Any:
        self._requests.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
        self._requests.flush()
        answer: Json = json.loads(self._answers.readline())
        return answer["result"]

    def delay(self) -> float:
        """Seconds that a small call takes: how long its event loop is busy with something else, and a little."""
        begun = time.perf_counter()
        self.call("status")
        return time.perf_counter() - begun

    def cpu(self) -> float:
        """Seconds of CPU that the process has used, all threads, user and system."""
        clock = (
            ~self._process.pid << 3 | 2
        )  # linux/posix-timers.h, CPUCLOCK_SCHED: the sum of /proc/PID/task/*/schedstat
        return time.clock_gettime(clock)

    def resident(self) -> int:
        """Bytes of resident memory."""
        statm = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def peers(self) -> int:
        return int(self.call("status")["peers"])

    def tasks(self) -> int | None:
        """Tasks that live in it; None where it has none to count."""
        return None

    def collect(self) -> None:
        """Have it free what it can, where it can be told to."""

    def stop(self) -> float:
        """Seconds until the node has stopped, with all its connections."""
        begun = time.perf_counter()
        self.call("stop")
        return time.perf_counter() - begun

    def _listens_on(self, addresses: list[str]) -> None:
        [port] = [
            text.split("/")[4] for text in addresses if text.startswith(("/ip4/127.0.0.1/tcp/", "/ip4/127.0.0.1/udp/"))
        ]
        self.address = "127.0.0.1", int(port)


class Fabstird(Server):
    """`python -m fabstird` of the working directory, which must be the repository."""

    def __init__(self, process: subprocess.Popen[bytes], api: socket.socket, log: Path) -> None:
        super().__init__("fabstird", process, api.makefile("wb"), api.makefile("rb"))
        self._log = log
        while (status := self.call("status"))["state"] != "started":
            time.sleep(0.02)
        self._listens_on(status["listenAddresses"])
        libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("libp2p", "trio"))
        self.version = f"fabstird {status['version']} on Python {platform.python_version()}, {libraries}"

    def tasks(self) -> int:
        before = self._log.stat().st_size
        self._process.send_signal(signal.SIGUSR1)
        while True:
            time.sleep(0.05)
            with self._log.open("rb") as log:
                log.seek(before)
                for line in log.read().splitlines(keepends=True):
                    if line.endswith(b"\n") and b'"task tree"' in line:
                        return len(json.loads(line)["tree"])


class Js(Server):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__("js-libp2p", process, process.stdin, process.stdout)
        about = self.call("about")
        self._listens_on(about["addresses"])
        self.version = about["version"]

    def collect(self) -> None:
        self.call("gc")


def settle(server: Server, peers: int) -> None:
    """Wait until the server has these peers and is done with all that came and went."""
    deadline = time.monotonic() + 30
    while server.peers() != peers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} has {server.peers()} peers, not {peers}")
        time.sleep(0.1)
    time.sleep(SETTLED)


@contextmanager
def fabstird(listen: str = "/ip4/127.0.0.1/tcp/0") -> Iterator[Server]:
    """A daemon with its defaults, but for limits that nothing here reaches."""
    settings: Json = {f"connections.{key}": PLENTY for key in ("max", "max_per_ip", "high_water", "low_water")}
    settings |= {"node.listen_addresses": [listen], "node.bootstrap_nodes": []}
    settings |= {"node.enable_mdns": False, "node.enable_dht": False, "api.http": "", "log.format": "json"}
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory, contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "fabstird", "run", "--data-dir", directory]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]  # JSON of these types is TOML, too
        log = Path(directory) / "log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FABSTIR")}
        with log.open("wb") as stderr:
            process = stack.enter_context(_running(command, stderr=stderr, env=environment))
        api = stack.enter_context(_reached(Path(directory) / "api.sock", process))
        yield Fabstird(process, api, log)


@contextmanager
def js() -> Iterator[Server]:
    """js-libp2p with its defaults, but for limits that nothing here reaches and its ping of all peers (server.mjs)."""
    node, installed = ensure_installed()
    content = Path(__file__).with_name("server.mjs").read_bytes()
    # Node looks for packages beside the script. The copy's name tells its content.
    script = installed.with_name(f"bench-{hashlib.sha256(content).hexdigest()[:16]}.mjs")
    if not script.exists():
        with tempfile.NamedTemporaryFile(dir=script.parent, delete=False) as file:
            file.write(content)
        Path(file.name).rename(script)
    command = [str(node), "--expose-gc", str(script)]
    with _running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Js(process)


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _reached(path: Path, process: subprocess.Popen[bytes]) -> Iterator[socket.socket]:
    deadline = time.monotonic() + START_TIMEOUT
    with socket.socket(socket.AF_UNIX) as api:
        while True:
            try:
                api.connect(str(path))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = path.with_name("log").read_text()
                    raise RuntimeError(f"the daemon has no API at {path}; its last words:\n{log[-2000:]}") from None
                time.sleep(0.02)
        yield api


__all__ = ["SETTLED", "Server", "fabstird", "js", "settle"]
