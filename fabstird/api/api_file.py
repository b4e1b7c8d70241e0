"""``api.json`` tells clients where the API listens. One copy is in the data directory, one beside the IPC socket.

The second is for users who may connect to the socket but not read the data directory, such as members of the service's
group. The file holds no secret.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fabstird.datadir import DataDirError, read_regular, write_whole
from fabstird.log.logger import get_logger

log = get_logger("api")

NAME = "api.json"


@contextlib.contextmanager
def written(data_dir: Path, ipc: Path | None, ipc_mode: int, content: bytes) -> Iterator[None]:
    """Keep the files for as long as the context lasts. ``ipc_mode`` is the mode of the socket. Raises
    `DataDirError`."""
    file = data_dir / NAME
    try:
        write_whole(file, content)
    except OSError as error:
        raise DataDirError(f"{file}: {error.strerror}") from error
    files = [file]
    beside = ipc.parent / NAME if ipc is not None and ipc.parent != data_dir and ipc.is_absolute() else None
    if beside is not None:
        try:
            write_whole(beside, content, 0o600 | _readable(ipc_mode))
            files.append(beside)
        except OSError as error:  # a directory that a socket unit made; clients then try the socket itself
            log.info("no api.json is written beside the socket", file=str(beside), reason=error.strerror)
    try:
        yield
    finally:
        for path in files:
            with contextlib.suppress(OSError):
                # only our own, not that of another daemon with its socket in the same directory
                if read_regular(path, len(content) + 1) == content:
                    path.unlink()


def _readable(mode: int) -> int:
    """Whoever may connect, which is write permission on the socket, may read the file."""
    return (mode & 0o222) << 1
