"""Daemons as processes, configured in every way a user can; and connections to them as any language makes them.

`tests.interop.daemon` drives a daemon whose node is started. Here the process itself is what is looked at, and what
goes over its endpoints byte by byte.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.interop.daemon import Json, command, environment, is_error, parsed
from tests.support.schema import Conversation
from tests.support.waiting import until

START = 30.0  # seconds for a daemon to answer, on a machine that is busy with other things
ANSWER = 20.0
STOP = 5.0  # CONTRACT, section 1
OWN: Mapping[str, Any] = {"node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"], "api.http": "127.0.0.1:0"}


class Process:
    """`fabstird run`, its log in a file beside the data directory."""

    def __init__(self, popen: subprocess.Popen[bytes], data_dir: Path, log: Path) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.data_dir = data_dir
        self.api: Json = {}  # what `api.json` said when it was ready
        self._log = log
        self._whole: str | None = None

    async def ready(self) -> None:
        """Wait until the API listens, as any program would: by `api.json`."""

        def look() -> bool:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.text()}"
            try:
                self.api = json.loads((self.data_dir / "api.json").read_bytes())
            except FileNotFoundError:
                return False
            return bool(self.api["pid"] == self.pid)

        await until(look, within=START)

    async def started(self) -> None:
        """Wait until the node is started too."""
        await self.ready()
        await self.line("p2p:started")

    async def exited(self, within: float = STOP) -> int:
        """Its exit status; negative where a signal ended it."""
        await until(lambda: self.popen.poll() is not None, within=within)
        return int(self.popen.returncode)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """It must end well and in time, and must not have complained of itself."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        status = await self.exited()
        assert status == 0, f"exit status {status}: {self.text()}"
        lines = [line for line in self.lines() if not line.get("logger", "").startswith("libp2p")]  # shown at debug
        errors = [line for line in lines if is_error(line)]
        assert errors == [], "errors in the log:\n" + "\n".join(str(line.get("exception", line)) for line in errors)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(STOP)

    def text(self) -> str:
        return self._log.read_text() if self._whole is None else self._whole

    def end(self) -> None:
        """Kill it if it still runs, and keep its log beyond the file."""
        self.kill()
        self._whole = self.text()

    def lines(self) -> list[Json]:
        """The entries of the log so far; a line that is none is of level "" and has the line as its `event`."""
        return [parsed(line.rstrip("\n")) for line in self.text().splitlines(keepends=True) if line.endswith("\n")]

    async def line(self, event: str, *, after: int = 0, within: float = START, **values: Any) -> Json:
        """The first line of the log, after the first `after` ones, with this event and these values."""

        def look() -> Json | None:
            for line in self.lines()[after:]:
                if line["event"] == event and all(line.get(key) == value for key, value in values.items()):
                    return line
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.text()}"
            return None

        found = await until(look, within=within)
        assert found is not None
        return found

    @property
    def token(self) -> str:
        return (self.data_dir / "api.token").read_text().strip()

    @property
    def port(self) -> int:
        return int(self.api["http"].rpartition(":")[2])


@contextmanager
def process(
    settings: Mapping[str, Any] | None = None,
    *,
    data_dir: Path | None = None,
    arguments: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    give_data_dir: bool = True,
    module: str = "fabstird",
) -> Iterator[Process]:
    """Start one; at the end it is killed if it still runs. `settings` go over `OWN`."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as short:  # a Unix socket's path has at most 107 bytes
        data_dir = data_dir or Path(short) / "data"
        words = [*command(data_dir, {**OWN, **(settings or {})}), *arguments]
        words[words.index("-m") + 1] = module
        if not give_data_dir:
            at = words.index("--data-dir")
            del words[at : at + 2]
        log = Path(short) / "log"
        with log.open("wb") as stderr:
            popen = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env={**environment(), **(environ or {})}
            )
        running = Process(popen, data_dir, log)
        try:
            yield running
        finally:
            running.end()


@asynccontextmanager
async def daemon(settings: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Process]:
    """A daemon whose API listens; at the end it must stop well."""
    with process(settings, **options) as running:
        await running.ready()
        yield running
        await running.stop()


# --------------------------------------------------------------------------------------------------------------------
# Connections


class Connection:
    """A connection that carries calls and notifications: IPC or WebSocket. All that comes is held to the document."""

    def __init__(self) -> None:
        self.held = Conversation()
        self._ids = itertools.count(1)
        self.notifications: list[Json] = []  # those that came while an answer was waited for

    async def send(self, message: Any) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.held.sent(text)
        await self.send_text(text)

    async def send_text(self, text: bytes) -> None:
        raise NotImplementedError

    async def receive_text(self) -> bytes | None:
        """The next text; None at the end."""
        raise NotImplementedError

    async def receive(self) -> Any:
        with trio.fail_after(ANSWER):
            text = await self.receive_text()
        assert text is not None, "the connection was closed"
        self.held.received(text)
        return json.loads(text)

    async def answer(self, method: str, params: Any = None) -> Json:
        """The whole answer to one call."""
        number = next(self._ids)
        await self.send(
            {"jsonrpc": "2.0", "id": number, "method": method, **({} if params is None else {"params": params})}
        )
        while True:
            message = await self.receive()
            if message.get("id") == number:
                return dict(message)
            self.notifications.append(message)

    async def call(self, method: str, params: Any = None) -> Any:
        answer = await self.answer(method, params)
        assert "result" in answer, answer
        return answer["result"]

    async def error(self, method: str, params: Any = None) -> Json:
        answer = await self.answer(method, params)
        assert "error" in answer, answer
        return dict(answer["error"])

    async def notification(self, method: str | None = None) -> Json:
        """The next notification, of this method if one is given, with its place among those that have come."""
        while True:
            message = self.notifications.pop(0) if self.notifications else await self.receive()
            assert "id" not in message, message
            if method in (None, message["method"]):
                return dict(message)


class Ipc(Connection):
    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__()
        self.stream = stream
        self._buffer = bytearray()

    async def send_text(self, text: bytes) -> None:
        await self.stream.send_all(text + b"\n")

    async def receive_text(self) -> bytes | None:
        while b"\n" not in self._buffer:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # closed with something of ours unread
                return None
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return bytes(line)


class Ws(Connection):
    def __init__(self, websocket: WebSocketConnection) -> None:
        super().__init__()
        self.websocket = websocket

    async def send_text(self, text: bytes) -> None:
        await self.websocket.send_message(text.decode())

    async def receive_text(self) -> bytes | None:
        try:
            message = await self.websocket.get_message()
        except ConnectionClosed:
            return None
        assert isinstance(message, str)
        return message.encode()


@asynccontextmanager
async def ipc(running: Process) -> AsyncIterator[Ipc]:
    async with await trio.open_unix_socket(running.api["ipc"]) as stream:
        yield Ipc(stream)


@asynccontextmanager
async def ws(running: Process, token: str | None = None) -> AsyncIterator[Ws]:
    headers = [(b"authorization", f"Bearer {token or running.token}".encode())]
    failure: BaseException | None = None
    async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream, trio.open_nursery() as nursery:
        host = f"127.0.0.1:{running.port}"
        try:
            yield Ws(await wrap_client_stream(nursery, stream, host, "/ws", extra_headers=headers))
        except BaseException as error:  # noqa: BLE001 - raised again below, not inside the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(port: int, request: bytes) -> Reply:
    """Send the bytes as they are, and read one response and the end of the connection."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            received = bytearray()
            try:
                await stream.send_all(request)
            except trio.BrokenResourceError:
                pass  # it would not read all of it; its answer is there all the same
            try:
                async for data in stream:
                    received += data
            except trio.BrokenResourceError:
                pass  # closed with something of ours unread
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split(" ")[1]), headers, body)


def request_text(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def fetch(running: Process, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Reply:
    """A right request, but for the headers that are given (`None` leaves one out; `_` stands for `-`)."""
    right: dict[str, str | None] = {
        "host": f"127.0.0.1:{running.port}",
        "authorization": f"Bearer {running.token}",
        "connection": "close",
    }
    if body is not None:
        right |= {"content-type": "application/json", "content-length": str(len(body))}
    right |= {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in right.items() if value is not None}
    return await exchange(running.port, request_text(method, path, kept, body or b""))


async def post(running: Process, message: Any, **headers: str | None) -> Reply:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    reply = await fetch(running, "POST", "/rpc", body, **headers)
    if reply.status == 200:
        held = Conversation()
        held.sent(body)
        held.received(reply.body)
    return reply
