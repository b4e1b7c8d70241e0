"""The processes that the API's bench compares: fabstird, and what others of its kind do on the same machine.

go-libp2p-daemon comes as the binary in the PyPI wheel `hivemind`, Node and `ws` with js-libp2p's interop peer; both are
installed once into a cache outside the repository. The floor is `echo.py`, a bare socket on trio.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop import cache
from tests.interop.jspeer import ensure_installed

HERE = Path(__file__).parent
HIVEMIND = "hivemind==1.1.12"
P2PD = "hivemind/hivemind_cli/p2pd"
START_TIMEOUT = 60.0

Json = dict[str, Any]


@dataclass
class Running:
    """A server process and where it is reached: a Unix socket's path, or a port of 127.0.0.1."""

    process: subprocess.Popen[bytes]
    ipc: str = ""
    port: int = 0
    token: str = ""
    about: Json = field(default_factory=dict)

    def cpu(self) -> float:
        """Seconds of CPU that it has used, all threads, user and system."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # linux/posix-timers.h, CPUCLOCK_SCHED

    def resident(self) -> int:
        """Bytes of resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def p2pd_binary() -> Path:
    """go-libp2p-daemon, fetched first where it is not in the cache."""
    binary = cache.directory() / f"p2pd-{HIVEMIND.partition('==')[2]}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as place:
            options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q", "-d", place]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, HIVEMIND], check=True)
            (wheel,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                whole = Path(archive.extract(P2PD, place))
            whole.chmod(0o755)
            whole.rename(binary)
    return binary


def node_script(name: str) -> list[str]:
    """The command that runs a script of this directory on the interop peer's Node, with its packages."""
    node, installed = ensure_installed()
    content = (HERE / name).read_bytes()
    # Node looks for packages beside the script. The copy's name tells its content.
    script = installed.with_name(f"bench-{hashlib.sha256(content).hexdigest()[:16]}.mjs")
    if not script.exists():
        with tempfile.NamedTemporaryFile(dir=script.parent, delete=False) as file:
            file.write(content)
        Path(file.name).rename(script)
    return [str(node), str(script)]


@contextmanager
def fabstird(*, host: bool = False, **settings: Any) -> Iterator[Running]:
    """A daemon with its defaults but for ``settings`` (``node__max_retries=1``), its node started unless they say
    otherwise. With ``host`` it is run by `host.py`, which can be told to publish events."""
    chosen: Json = {"api.http": "127.0.0.1:0", "node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"]}
    chosen |= {"node.enable_mdns": False, "node.enable_dht": False, "log.level": "warning"}
    chosen |= {name.replace("__", "."): value for name, value in settings.items()}
    module = "bench.host" if host else "fabstird"
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory:
        command = [sys.executable, "-m", module, "run", "--data-dir", directory]
        for key, value in chosen.items():
            command += ["--set", f"{key}={json.dumps(value)}"]  # JSON of these types is TOML, too
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
        with running(command, env=clean) as process:
            server = Running(process)

            def listens() -> bool:
                with contextlib.suppress(FileNotFoundError):
                    server.about = json.loads((Path(directory) / "api.json").read_bytes())
                return bool(server.about)

            until(listens, process)
            server.ipc = server.about["ipc"]
            if server.about["http"]:
                server.port = int(server.about["http"].rpartition(":")[2])
                server.token = (Path(directory) / "api.token").read_text().strip()
            if settings.get("node__auto_start", True):
                until(lambda: status(server)["state"] == "started", process)
            yield server


def status(server: Running) -> Json:
    """A daemon's answer to ``status``."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as lines:
        connection.connect(server.ipc)
        lines.write(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
        lines.flush()
        answer: Json = json.loads(lines.readline())
    result: Json = answer["result"]
    return result


@contextmanager
def go() -> Iterator[Running]:
    """go-libp2p-daemon, its control socket at ``ipc``."""
    with tempfile.TemporaryDirectory(prefix="p2pd-") as directory:
        path = f"{directory}/s"
        command = [str(p2pd_binary()), "-listen", f"/unix{path}", "-hostAddrs", "/ip4/127.0.0.1/tcp/0"]
        with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until(lambda: os.path.exists(path), process)
            time.sleep(0.2)  # between bind and listen
            yield Running(process, ipc=path)


@contextmanager
def node() -> Iterator[Running]:
    """`ws.mjs`: JSON-RPC and broadcasts over ``ws``."""
    with running(node_script("ws.mjs"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Running(process, port=json.loads(process.stdout.readline())["port"])


@contextmanager
def floor() -> Iterator[Running]:
    """`echo.py`: what a socket on trio costs by itself."""
    with tempfile.TemporaryDirectory(prefix="echo-") as directory:
        path = f"{directory}/s"
        with running([sys.executable, "-m", "bench.echo", path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield Running(process, ipc=path)


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not come up")
        time.sleep(0.01)
