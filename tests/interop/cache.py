"""Peers that are installed or built once, in a folder outside the repository: whole there, or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class ToolchainMissing(Exception):
    """This machine cannot run the peer; says what it lacks."""


def directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fabstir-interop"


def home(name: str, sources: Sequence[Path], make: Callable[[Path, int], None], timeout: float) -> Path:
    """The folder of the peer `name` for this machine and the content of `sources`; `make` fills it where it is absent.

    `make` gets a folder beside the final place, which is moved there when it is whole, so what is there is whole; and
    a lock, which the programs that it runs inherit (`run`). It keeps two from making at once: what a killed one left
    behind is removed by the next, once its programs have ended too. All versions of an implementation (`go`,
    `go-0.38`) have one lock, since they share what is compiled. Blocks; `timeout` (seconds) is for that wait.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    place = directory() / f"{name}-{platform.machine()}-{digest.hexdigest()[:16]}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f"{name.partition('-')[0]}.lock"), timeout) as lock:
            if not place.is_dir():  # else somebody else was faster
                for left_behind in place.parent.glob(f"{place.name}.new-*"):
                    shutil.rmtree(left_behind)
                new = Path(tempfile.mkdtemp(prefix=f"{place.name}.new-", dir=place.parent))
                make(new, lock)
                new.chmod(0o755)  # mkdtemp's is 0700
                new.rename(place)
    return place


def sources(pattern: str, common: Path, own: Path) -> list[Path]:
    """The files in `common`, by name. A version's `own` folder may have one that stands for the file of that name: what
    differs between the versions of a library."""
    named = {path.name: path for folder in (common, own) for path in folder.glob(pattern)}
    return [named[name] for name in sorted(named)]


@contextlib.contextmanager
def _locked(path: Path, timeout: float) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another install has held {path} for {timeout} s") from None
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def run(
    command: Sequence[str | Path], cwd: Path, lock: int, timeout: float, environment: Mapping[str, str] | None = None
) -> str:
    """What the command printed; RuntimeError with the end of it where it failed. When the time is up, the programs that
    the command has started end with it: a compiler that cargo left behind would hold the lock, and wait for cargo."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} {command[1]} ended with {process.returncode}:\n{printed[-4000:]}")
    return printed
