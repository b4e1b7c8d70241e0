"""The clients of `examples/`, each as its README says it is run: they call, follow events, and lose none of them over a
connection that is cut."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.conftest import leave_out
from tests.harness import Process, daemon, ipc, until
from tests.interop import jspeer

EXAMPLES = Path(__file__).parents[2] / "examples"
EVENTS = 8
PATIENCE = 180.0  # seconds; some of them are compiled first


def tool(config: pytest.Config, name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        leave_out(config, name, f"there is no `{name}` here (on Debian: apt-get install {package})")
    return found


def node(config: pytest.Config) -> str:
    """Node 22, as the interop tests have it."""
    try:
        return str(jspeer.ensure_installed()[0])
    except jspeer.JsMissing as error:
        leave_out(config, "js", str(error))


def curl(config: pytest.Config, _: Path) -> list[str]:
    tool(config, "curl", "curl")
    return [str(EXAMPLES / "curl" / "follow.sh")]


def node_ipc(config: pytest.Config, _: Path) -> list[str]:
    return [node(config), str(EXAMPLES / "node" / "ipc.mjs")]


def node_websocket(config: pytest.Config, _: Path) -> list[str]:
    return [node(config), str(EXAMPLES / "node" / "websocket.mjs")]


def go(config: pytest.Config, place: Path) -> list[str]:
    built = str(place / "follow")
    source = str(EXAMPLES / "go" / "follow.go")
    subprocess.run([tool(config, "go", "golang-go"), "build", "-o", built, source], check=True, timeout=300)
    return [built]


def java(config: pytest.Config, place: Path) -> list[str]:
    tool(config, "javac", "default-jdk-headless")
    source = str(EXAMPLES / "java" / "Follow.java")
    subprocess.run(["javac", "-d", str(place), source], check=True, timeout=300)
    return [tool(config, "java", "default-jdk-headless"), "-cp", str(place), "Follow"]


class Proxy:
    """Stands between a client and the daemon; its directory looks like the daemon's own. `cut` breaks what is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.connections = 0  # that were made
        self._open: set[trio.SocketStream] = set()
        self.refuses = False

    async def cut(self) -> None:
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def carry(self, connect: Callable[[], AsyncIterator[trio.SocketStream]], stream: trio.SocketStream) -> None:
        if self.refuses:
            await stream.aclose()
            return
        self.connections += 1
        async with stream, await connect() as other:  # type: ignore[misc]
            self._open |= {stream, other}
            try:
                async with trio.open_nursery() as nursery:

                    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                        try:
                            async for data in source:
                                await sink.send_all(data)
                        except (trio.BrokenResourceError, trio.ClosedResourceError):
                            pass  # cut, or closed by the other side
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(copy, stream, other)
                    nursery.start_soon(copy, other, stream)
            finally:
                self._open -= {stream, other}


@asynccontextmanager
async def proxied(running: Process, directory: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(directory)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        unix = trio.socket.socket(trio.socket.AF_UNIX)
        await unix.bind(str(directory / "proxy.sock"))
        unix.listen()
        [tcp] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = tcp.socket.getsockname()[1]
        to_ipc = partial(trio.open_unix_socket, running.api["ipc"])
        to_http = partial(trio.open_tcp_stream, "127.0.0.1", running.port)
        for connect, listener in ((to_ipc, trio.SocketListener(unix)), (to_http, tcp)):
            nursery.start_soon(trio.serve_listeners, partial(proxy.carry, connect), [listener])
        api = {**running.api, "ipc": str(directory / "proxy.sock"), "http": f"127.0.0.1:{port}"}
        (directory / "api.json").write_text(json.dumps(api, separators=(",", ":")))
        (directory / "api.token").write_text(running.token)
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.fixture
def place() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:  # a Unix socket's path has at most 107 bytes
        yield Path(short)


@pytest.mark.parametrize("make", [curl, node_ipc, node_websocket, go, java], ids=lambda make: make.__name__)
async def test_a_client_loses_nothing_over_a_cut_connection(
    make: Callable[[pytest.Config, Path], list[str]], place: Path, pytestconfig: pytest.Config
) -> None:
    command = await trio.to_thread.run_sync(make, pytestconfig, place)
    async with daemon() as running, ipc(running) as connection, proxied(running, place) as proxy:
        await running.started()
        with (place / "output").open("wb") as output:
            words = [*command, str(place), str(EVENTS)]
            client = subprocess.Popen(words, stdout=output, stderr=output)  # noqa: ASYNC220 - only started here

        def lines() -> list[str]:
            return (place / "output").read_text().splitlines()

        def events() -> list[str]:
            return [line for line in lines() if line.startswith("event ")]

        async def happens() -> None:
            for method in ("stop", "start"):
                await connection.call(method)

        try:
            await until(lambda: "state started" in lines(), within=PATIENCE)
            with trio.fail_after(PATIENCE):
                while not events():  # until it has subscribed
                    await happens()
                proxy.refuses, before = True, proxy.connections
                await proxy.cut()
                await happens()  # while nobody listens
                await until(lambda: "connection lost" in lines(), within=PATIENCE)
                proxy.refuses = False
                await until(lambda: proxy.connections > before)
                while client.poll() is None:
                    await happens()
        finally:
            client.kill()
            client.wait()
            print("\n".join(lines()))  # pytest shows it where the test fails
        assert client.returncode == 0, lines()
        log = await connection.call("events", {"after": int(events()[0].split()[1]) - 1, "limit": EVENTS})
        assert events() == [f"event {one['seq']} {one['type']}" for one in log["events"]], lines()


async def test_one_call_with_nc(place: Path, pytestconfig: pytest.Config) -> None:
    tool(pytestconfig, "nc", "netcat-openbsd")
    script = str(EXAMPLES / "curl" / "ipc.sh")
    async with daemon({"node.auto_start": False}) as running:
        for arguments, member in (([], "state"), (["version"], "libp2p"), (["events", '{"after":0}'], "events")):
            command = [script, str(running.data_dir), *arguments]
            done = await trio.run_process(command, capture_stdout=True)
            assert member in json.loads(done.stdout)["result"]


def test_every_example_is_run() -> None:
    """By its name: one that is added and not run here would rot. Those of two folders are run by tests of their own."""
    elsewhere = ("streams", "typescript")
    files = {path.name for path in EXAMPLES.glob("*/*") if path.parent.name not in elsewhere}
    assert files == {"follow.sh", "ipc.sh", "ipc.mjs", "websocket.mjs", "follow.go", "Follow.java"}
    assert sys.version_info >= (3, 11)
