"""A daemon as a process, configured in every way that a user can: its exit status, its log, its files."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.harness.launch import (
    OWN,
    START_TIMEOUT,
    STOP_TIMEOUT,
    Json,
    command,
    environment,
    is_error,
    listening,
    parsed,
)
from tests.harness.waiting import until


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
            self.api = listening(self.popen, self.data_dir) or {}
            return bool(self.api)

        await until(look, within=START_TIMEOUT)

    async def started(self) -> None:
        """Wait until the node is started too."""
        await self.ready()
        await self.line("p2p:started")

    async def exited(self, within: float = STOP_TIMEOUT) -> int:
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
        self.popen.wait(STOP_TIMEOUT)

    def text(self) -> str:
        # Its last line may be half written, and end in the middle of a character
        return self._log.read_text(errors="replace") if self._whole is None else self._whole

    def end(self) -> None:
        """Kill it if it still runs, and keep its log beyond the file."""
        self.kill()
        self._whole = self.text()

    def lines(self) -> list[Json]:
        """The entries of the log so far; a line that is none is of level "" and has the line as its `event`."""
        return [parsed(line) for line in self.text().split("\n")[:-1]]  # behind the last newline none is whole

    async def line(self, event: str, *, after: int = 0, within: float = START_TIMEOUT, **values: Any) -> Json:
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
