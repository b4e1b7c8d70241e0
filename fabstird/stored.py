"""JSON files with a version in the data directory, read when the daemon starts.

A file that is damaged or cannot be read is set aside, never overwritten, and never fatal. `datadir.write_whole` writes
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fabstird.datadir import read_regular

VERSION = 1
MAX_FILE = 32 * 1024 * 1024  # bytes; the largest that this daemon writes, except the DHT's records, has some 10 MB

T = TypeVar("T")


class Stored(msgspec.Struct):
    """The content of such a file. A version that this daemon does not know counts as damage."""

    version: int


S = TypeVar("S", bound=Stored)


def decode(content: bytes, kind: type[S]) -> S:
    """Parse a file. Raises `msgspec.MsgspecError`, UnicodeDecodeError."""
    try:
        stored = msgspec.json.decode(content, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    if stored.version != VERSION:
        raise msgspec.ValidationError(f"version {stored.version} is not known to this daemon")
    return stored


def encode(stored: Stored) -> bytes:
    """The content of a file, readable by people."""
    return msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"


def load(
    path: Path,
    parse: Callable[[bytes], T],
    log: Any,
    *,
    unreadable: str,
    damaged: str,
    clock: Callable[[], float],
    most: int = MAX_FILE,
) -> T | None:
    """Load a file.

    Args:
        path: The file.
        parse: Makes the result from its content.
        log: Where a warning goes.
        unreadable: The warning for a file that cannot be read.
        damaged: The warning for a damaged file.
        clock: Returns seconds of the wall clock, for the name of a file that is set aside.
        most: The largest size in bytes.

    Returns:
        The result of ``parse``; None where there is no file, where it cannot be read or is too large, or where
        ``parse`` raises `msgspec.MsgspecError` or ValueError.
    """
    try:
        content = read_regular(path, most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        # The next write would replace it; a directory cannot be replaced
        aside = {} if isinstance(error, IsADirectoryError) else _aside(path, "unreadable", clock)
        log.warning(unreadable, file=str(path), error=error.strerror, **aside)
        return None
    try:
        if len(content) > most:
            raise ValueError(f"it has more than {most} bytes")
        return parse(content)
    except (msgspec.MsgspecError, ValueError) as error:
        log.warning(damaged, error=str(error), **_aside(path, "damaged", clock))
        return None


def _aside(path: Path, why: str, clock: Callable[[], float]) -> dict[str, str | None]:
    """Rename the file. Returns the new name, or the error, for the log."""
    aside = path.with_name(f"{path.name}.{why}-{int(clock() * 1000)}")
    try:
        os.replace(path, aside)
    except OSError as failure:
        return {"kept": failure.strerror}
    return {"set_aside": str(aside)}
