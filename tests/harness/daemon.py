"""A daemon whose node is started: driven over its IPC socket, all its events and its log kept. And two of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from fabstir_client.api.errors import from_error_object
from tests.harness.launch import START_TIMEOUT, STOP_TIMEOUT, Json, command, environment, is_error, parsed
from tests.harness.lines import lines
from tests.harness.schema import hold_message
from tests.harness.waiting import asked_until

CALL_TIMEOUT = 60.0  # seconds, as those below
EVENT_TIMEOUT = 60.0
LAST_LINES = 80
TASK_TREE = "task tree"
QUIET = ("debug", "info")  # levels of the log at which nothing is amiss
PORT_TAKEN = "the port of the last run is taken; another is chosen"  # the kernel has given it to somebody meanwhile


class Named(Protocol):
    """A daemon, or a node of another implementation."""

    @property
    def peer_id(self) -> str: ...


class Daemon:
    """Made by `fabstird`. `events` is everything the daemon published since its start, in order."""

    def __init__(self, process: trio.Process) -> None:
        self.events: list[Json] = []
        self.path = Path()  # of its IPC socket
        self.status: Json = {}  # as it was when the node had started
        self.log: deque[str] = deque(maxlen=LAST_LINES)
        self.entries: list[Json] = []  # the whole log
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
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:  # as `_until` says it, if it hears first
            raise AssertionError(f"the daemon has closed its API before {method}{self.last_words()}") from error
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

    async def echo(self, peer_id: str) -> None:
        """Answers one request of a peer with what it says."""
        asked = await self.wait_event("protocol.request", peerId=peer_id)
        request = await self.call("protocol.read", requestId=asked["requestId"])
        await self.call("protocol.respond", requestId=asked["requestId"], data=request["data"])

    async def circuit(self, relay: Named, *, within: float = 60) -> str:
        """The address that it announces at a relay, once it has a place there."""

        def there(told: Json) -> list[str]:
            return [one for one in told["announced"] if f"/p2p/{relay.peer_id}/p2p-circuit" in one]

        return there(await asked_until(lambda: self.call("addresses"), there, within=within))[0]

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

    def warnings(self, dead: str = "") -> list[str]:
        """What the log says at level warning and above, but for the task trees that SIGUSR1 asks for, for a port that
        somebody else has got between two runs, and for what is warned of a ``dead`` bootstrap node."""
        of_tests = (TASK_TREE, PORT_TAKEN)
        loud = [entry for entry in self.said if entry["level"] not in QUIET and entry["event"] not in of_tests]
        told = ("error", "connection:failed")
        return [one["event"] for one in loud if not (dead and one["event"] in told and one["address"] == dead)]

    async def _start(self, nursery: trio.Nursery, path: Path, started: bool) -> None:
        with trio.move_on_after(START_TIMEOUT):
            while self._stream is None:
                assert self.process.poll() is None, f"it ended with {self.process.returncode}{self.last_words()}"
                try:
                    self._stream = await trio.open_unix_socket(str(path))
                except (FileNotFoundError, ConnectionRefusedError):
                    await trio.sleep(0.02)  # then look again
        self.path = path
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
                async for line in lines(stream, whole=True):  # a daemon that is killed may be in the middle of one
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
        elif message["method"].startswith(("protocol.", "stream.")):  # told to this connection alone; with no number
            self.events.append({"type": message["method"], "seq": -1, "data": message["params"]})
        else:
            assert message.get("method") == "heartbeat", message  # `lagged` would mean that some are missing
        self._tell()

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async with self.process.stderr as stream:
            async for line in lines(stream, whole=True):
                self.log.append(line)
                entry = parsed(line)
                self.entries.append(entry)
                if entry["level"] != "debug":
                    self.said.append(entry)
                if is_error(entry):
                    self.errors.append(line)
                self._tell()
        self._log_ended.set()


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


@contextlib.asynccontextmanager
async def pair(
    settings: Mapping[str, Any] | None = None, *, dialling: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two daemons that are connected: the one that has dialled, with the settings `dialling`, and the other with
    `settings`."""
    async with fabstird(settings=settings) as other, fabstird(settings=dialling) as one:
        await one.call("connect", address=other.address("tcp"))
        await other.wait_event("peer:identify", peerId=one.peer_id)
        yield one, other
