"""A real daemon for one interop test: a process of its own, driven over its IPC socket, its whole event log kept."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from fabstir_client.errors import from_error_object
from tests.interop.lines import lines
from tests.support.schema import hold_message

START_TIMEOUT = 30.0  # seconds from exec to a started node, on a machine that is busy with other things
CALL_TIMEOUT = 30.0
EVENT_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0  # CONTRACT, section 1: SIGTERM to exit 0
LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
LAST_LINES = 80
TASK_TREE = "task tree"
QUIET = ("debug", "info")  # levels of the log at which nothing is amiss

Json = dict[str, Any]


class Daemon:
    """Made by `fabstird`. `events` is everything the daemon published since its start, in order."""

    def __init__(self, process: trio.Process) -> None:
        self.events: list[Json] = []
        self.status: Json = {}  # as it was when the node had started
        self.log: deque[str] = deque(maxlen=LAST_LINES)
        self.errors: list[str] = []  # lines of the log in which the daemon says that something is wrong with itself
        self.said: list[Json] = []  # the log's entries above debug
        self.process = process
        self._stream: trio.SocketStream | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, Json | None] = {}
        self._asked: dict[int, str] = {}
        self._news = trio.Event()
        self._write_lock = trio.Lock()
        self._gone: str | None = None
        self._log_ended = trio.Event()

    @property
    def peer_id(self) -> str:
        return str(self.status["peerId"])

    def address(self, transport: str) -> str:
        """The listen address over "tcp" or "ws", with its /p2p/ part."""
        (address,) = [a for a in self.status["listenAddresses"] if ("/ws/" in a) == (transport == "ws")]
        return str(address)

    async def call(self, method: str, **params: Any) -> Any:
        """The result of a call; raises what the client raises (`fabstir_client.errors`)."""
        assert self._stream is not None
        number = next(self._ids)
        self._answers[number] = None
        self._asked[number] = method
        line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n"
        try:
            with trio.move_on_after(CALL_TIMEOUT):
                async with self._write_lock:
                    await self._stream.send_all(line.encode())
                await self._until(lambda: self._answers[number] is not None)
            answer = self._answers[number]
        finally:
            del self._answers[number]
        assert answer is not None, f"no answer to {method} within {CALL_TIMEOUT} s{self.last_words()}"
        if "error" in answer:
            raise from_error_object(answer["error"])
        return answer["result"]

    async def peer(self, peer_id: str) -> Json | None:
        """The peer's entry in `peers()`, None where it has none. Two entries for one peer are an error."""
        entries = [entry for entry in await self.call("peers") if entry["peerId"] == peer_id]
        assert len(entries) <= 1, entries
        return entries[0] if entries else None

    def found(self, kind: str, *, after: int = 0, **data: Any) -> list[Json]:
        """The events of one type whose data has these values, after the first `after` events."""
        return [
            event
            for event in self.events[after:]
            if event["type"] == kind and all(event["data"].get(key) == value for key, value in data.items())
        ]

    async def wait_event(
        self, kind: str, *, count: int = 1, after: int = 0, timeout: float = EVENT_TIMEOUT, **data: Any
    ) -> Json:
        """The data of the `count`th such event, at once if it has come already."""
        with trio.move_on_after(timeout):
            await self._until(lambda: len(self.found(kind, after=after, **data)) >= count)
        found = self.found(kind, after=after, **data)
        assert len(found) >= count, (
            f"{len(found)} of {count} {kind} {data} within {timeout} s; "
            f"seen: {[(e['type'], e['data']) for e in self.events]}{self.last_words()}"
        )
        return dict(found[count - 1]["data"])

    async def whole_log(self) -> list[Json]:
        """Stops the node and returns all its events: what has not come by `p2p:stopped` does not come."""
        await self.call("stop")
        await self.wait_event("p2p:stopped")
        return self.events

    def last_words(self) -> str:
        return "".join(f"\n  daemon: {line}" for line in self.log)

    # -- the machinery ------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self._gone is None, f"{self._gone}{self.last_words()}"
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def warnings(self) -> list[str]:
        """What the log says at level warning and above, but for the task trees that SIGUSR1 asks for."""
        return [e["event"] for e in self.said if e["level"] not in QUIET and e["event"] != TASK_TREE]

    async def _start(self, nursery: trio.Nursery, path: Path, started: bool) -> None:
        with trio.move_on_after(START_TIMEOUT):
            while self._stream is None:
                assert self.process.poll() is None, f"it ended with {self.process.returncode}{self.last_words()}"
                try:
                    self._stream = await trio.open_unix_socket(str(path))
                except (FileNotFoundError, ConnectionRefusedError):
                    await trio.sleep(0.02)  # then look again
        assert self._stream is not None, f"no API at {path} within {START_TIMEOUT} s{self.last_words()}"
        nursery.start_soon(self._read_api, self._stream)
        await self.call("subscribe", after=0)
        if started:
            await self.wait_event("p2p:started", timeout=START_TIMEOUT)
        self.status = await self.call("status")

    async def _stop(self) -> None:
        if self.process.poll() is None:  # else the test has ended it
            self.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_TIMEOUT):
                await self.process.wait()
            status = self.process.returncode
            assert status == 0, f"{STOP_TIMEOUT} s after SIGTERM its exit status is {status}{self.last_words()}"
        await self._log_ended.wait()
        assert not self.errors, "errors in the daemon's log:\n" + "\n".join(self.errors)

    async def _read_api(self, stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                async for line in lines(stream):
                    self._take(json.loads(line))
        self._gone = "the daemon has closed its API"
        self._tell()

    def _take(self, message: Json) -> None:
        hold_message(message, self._asked.pop(message.get("id", 0), None))
        if message.get("id") in self._answers:
            self._answers[message["id"]] = message
        elif message.get("method") == "event":
            self.events.append(message["params"])
        elif "id" in message:
            pass  # the answer to a call that nobody waits for any more
        else:
            assert message.get("method") == "heartbeat", message  # `lagged` would mean that some are missing
        self._tell()

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async with self.process.stderr as stream:
            async for line in lines(stream):
                self.log.append(line)
                entry = parsed(line)
                if entry["level"] != "debug":
                    self.said.append(entry)
                if is_error(entry):
                    self.errors.append(line)
                self._tell()
        self._log_ended.set()


def parsed(line: str) -> Json:
    """An entry of the log; a line that is none is of level "" and has the line as its `event`."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) and "level" in entry else {"level": "", "event": line}


def is_error(entry: Json) -> bool:
    return entry["level"] in ("error", "critical") or (not entry["level"] and "Traceback" in entry["event"])


def command(
    data_dir: Path, settings: Mapping[str, Any] | None = None, *, prefix: Sequence[str] = (), **node: Any
) -> list[str]:
    """The command that runs a daemon for a test. `node` is its [node] section, `settings` has other keys by their
    names (`{"connections.max": 20}`), `prefix` is a command that runs it in other circumstances (`nsenter …`)."""
    own = {"listen_addresses": LISTEN, "enable_mdns": False, "enable_dht": False, **node}
    keys = {"api.http": "", "log.format": "json", **{f"node.{key}": value for key, value in own.items()}}
    options = [*prefix, sys.executable, "-m", "fabstird", "run", "--data-dir", str(data_dir)]
    for key, value in (keys | dict(settings or {})).items():
        options += ["--set", f"{key}={json.dumps(value)}"]  # JSON of these types is TOML, too
    return options


def environment() -> dict[str, str]:
    """The environment of a daemon for a test: nothing in it configures one."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("FABSTIR", "XDG_"))}


@contextlib.asynccontextmanager
async def fabstird(
    data_dir: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    prefix: Sequence[str] = (),
    started: bool = True,
    **node: Any,
) -> AsyncIterator[Daemon]:
    """A daemon whose node is started, in a new data directory unless one is given. `node`, `settings` and `prefix` are
    as in `command`. Without `started` it is handed over as soon as its API answers.

    At the end SIGTERM must end it with status 0 in time, and an ERROR in its log fails the test. What the body raises
    leaves here as it is, not inside an exception group.
    """
    with contextlib.ExitStack() as stack:
        if data_dir is None:  # short: a Unix socket's path has at most 107 bytes
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fabstir-")))
        process = await trio.lowlevel.open_process(
            command(data_dir, settings, prefix=prefix, **node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        daemon = Daemon(process)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon._read_log)
            try:
                await daemon._start(nursery, data_dir / "api.sock", started)
                yield daemon
                await daemon._stop()
            except BaseException as error:  # noqa: BLE001 - raised again below, outside the nursery
                failure = error
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
