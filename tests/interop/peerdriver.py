"""Drives one interop peer: a process of another libp2p implementation that speaks the JSON lines of README.md.

The protocol is the same for every implementation, and so is this driver: `jspeer.py`, `gopeer.py` and `rustpeer.py`
only say what to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from tests.harness.lines import lines

READY_TIMEOUT = 90.0  # seconds from exec to `ready`, on a machine that is busy with other things
CALL_TIMEOUT = 45.0
EVENT_TIMEOUT = 60.0
CLOSE_TIMEOUT = 20.0
LAST_LINES = 60  # of stderr, kept for the error that needs them

Json = dict[str, Any]


def transport_of(address: str) -> str:
    """What a multiaddr is carried by: "tcp", "ws" or "quic-v1"."""
    parts = address.split("/")
    return next(name for name in ("quic-v1", "ws", "tcp", "") if name in parts)


class PeerError(Exception):
    """The peer answered a command with an error, in its words."""


class PeerGone(Exception):
    """The peer's process has ended; says how, and the last it wrote to stderr."""


class PeerTimeout(Exception):
    """The peer did not answer, or the event did not come, within the bound."""


class Peer:
    """One running peer. Made by `run_peer`; every wait has a bound."""

    def __init__(self, name: str, process: trio.Process) -> None:
        assert process.stdin is not None
        self.name = name
        self.events: list[Json] = []  # all of them, oldest first, `ready` included
        self.peer_id = ""
        self.addresses: list[str] = []
        self.implementation = ""
        self.runtime = ""
        self._process = process
        self._stdin = process.stdin
        self._write_lock = trio.Lock()
        self._next_id = 0
        self._answers: dict[int, Json | None] = {}  # None while waited for
        self._news = trio.Event()  # replaced each time something arrives
        self._stderr: deque[str] = deque(maxlen=LAST_LINES)
        self._eof = False
        self._strange: list[str] = []

    # -- what a test uses ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self, transport: str) -> str:
        """The first listen address over `transport`, "tcp", "ws" or "quic-v1", with its /p2p/ part."""
        for address in self.addresses:
            if transport_of(address) == transport:
                return address
        raise LookupError(f"{self.name} does not listen on {transport}: {self.addresses}")

    async def call(self, cmd: str, *, timeout: float = CALL_TIMEOUT, **arguments: Any) -> Any:
        """Sends a command and returns its result; raises PeerError, PeerTimeout or PeerGone."""
        self._next_id += 1
        number = self._next_id
        self._answers[number] = None
        # the peer gives up a little earlier than we do, so that a slow command ends in its own words
        line = json.dumps({"id": number, "cmd": cmd, "timeout": int(timeout * 900), **arguments}) + "\n"
        try:
            with trio.move_on_after(timeout) as scope:
                await self._write(line)
                await self._until(lambda: self._answers[number] is not None)
            answer = self._answers[number]
            if scope.cancelled_caught and answer is None:
                raise PeerTimeout(f"{self.name} did not answer {cmd} within {timeout} s{self._last_words()}")
        finally:
            del self._answers[number]
        assert answer is not None
        if not answer.get("ok"):
            raise PeerError(answer.get("error", "no words"))
        return answer.get("result")

    async def exit(self) -> int:
        """Asks the peer to stop cleanly and waits for the end of its process; returns the exit status."""
        await self.call("exit")
        return await self.wait_closed()

    def kill(self) -> None:
        """SIGKILL: no goodbye to anyone. The process is reaped by `wait_closed` or at the end of the context."""
        self._process.send_signal(signal.SIGKILL)

    async def wait_closed(self, timeout: float = CLOSE_TIMEOUT) -> int:
        """Waits until the process has ended and been reaped; returns its exit status, negative for a signal."""
        with trio.move_on_after(timeout):
            return await self._process.wait()
        raise PeerTimeout(f"{self.name} is still running after {timeout} s{self._last_words()}")

    def mark(self) -> int:
        """A place in `events`: give it to `wait_event` or `found` as `after`, to see only what follows."""
        return len(self.events)

    def found(
        self, event: str, *, peer_id: str | None = None, after: int = 0, where: Callable[[Json], bool] | None = None
    ) -> list[Json]:
        """The events of one kind seen so far."""
        return [
            item
            for item in self.events[after:]
            if item["event"] == event
            and (peer_id is None or item.get("peerId") == peer_id)
            and (where is None or where(item))
        ]

    async def wait_event(
        self,
        event: str,
        *,
        peer_id: str | None = None,
        after: int = 0,
        where: Callable[[Json], bool] | None = None,
        timeout: float = EVENT_TIMEOUT,
    ) -> Json:
        """The first such event after `after`, at once if it has come already."""
        with trio.move_on_after(timeout):
            await self._until(lambda: bool(self.found(event, peer_id=peer_id, after=after, where=where)))
        matching = self.found(event, peer_id=peer_id, after=after, where=where)
        if not matching:
            seen = [item["event"] for item in self.events[after:]]
            raise PeerTimeout(f"no {event} from {self.name} within {timeout} s; seen: {seen}{self._last_words()}")
        return matching[0]

    # -- the machinery ------------------------------------------------------------------------------------------------

    async def _write(self, line: str) -> None:
        try:
            async with self._write_lock:
                await self._stdin.send_all(line.encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Dead or dying: once its last words are read, `_until` tells of it with the exit status.
            await self._until(lambda: self._eof)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._eof:
                raise PeerGone(f"{self.name} ended with status {self._process.returncode}{self._last_words()}")
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _last_words(self) -> str:
        parts = [f"; strange line on stdout: {line}" for line in self._strange]
        if self._stderr:
            parts.append("\n  stderr: " + "\n  stderr: ".join(self._stderr))
        return "".join(parts)

    def _take(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if isinstance(message, dict) and isinstance(message.get("event"), str):
            if message["event"] == "ready":
                self.peer_id = message["peerId"]
                self.addresses = message["addresses"]
                self.implementation = message["implementation"]
                self.runtime = message["runtime"]
            self.events.append(message)
        elif isinstance(message, dict) and "ok" in message:
            if message.get("id") in self._answers:  # else the caller has given up waiting
                self._answers[message["id"]] = message
        else:
            self._strange.append(line)
        self._tell()

    async def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        async with self._process.stdout as stream:
            async for line in lines(stream):
                self._take(line)
        await self._process.wait()
        self._eof = True
        self._tell()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async with self._process.stderr as stream:
            async for line in lines(stream):
                self._stderr.append(line)

    async def _end(self) -> None:
        """EOF on stdin asks it to go; after CLOSE_TIMEOUT it is killed. Always reaped."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._stdin.aclose()
                await self._process.wait()
            if self._process.returncode is None:
                self.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def run_peer(
    name: str,
    command: Sequence[str | os.PathLike[str]],
    *,
    ready_timeout: float = READY_TIMEOUT,
    prefix: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Peer]:
    """Starts `command` with `options` as its last argument in JSON, and yields the peer once it is ready. `prefix` is a
    command that runs it in other circumstances (`nsenter …`).

    What the body raises leaves here as it is, not inside an exception group.
    """
    given = json.dumps({key: value for key, value in options.items() if value is not None})
    process = await trio.lowlevel.open_process(
        [*prefix, *(os.fspath(part) for part in command), given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    peer = Peer(name, process)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer._read_stdout)
        nursery.start_soon(peer._read_stderr)
        try:
            await peer.wait_event("ready", timeout=ready_timeout)
            yield peer
            if peer._strange:
                raise PeerError(f"{name} wrote to stdout what is not the protocol: {peer._strange}")
        except BaseException as error:  # noqa: BLE001 - raised again below, outside the nursery
            failure = error
        finally:
            await peer._end()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
