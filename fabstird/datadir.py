"""The data directory and the paths of the API: where they are, who may hold them, and atomic writes of files.

The lock is a kernel lock on the file ``lock``. It ends with the process, so not even kill -9 leaves anything that
blocks the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fabstird.config import home

WRITTEN = (
    "identity.key",
    "api.token",
    "api.json",
    "peers.json",
    "tokens.json",
    "dht.json",
    "tunnels.json",
    "ports.json",
)  # made by `write_whole`
MAX_TOKEN = 4096  # bytes of `api.token`
SUN_PATH_MAX = 107  # bytes in sockaddr_un.sun_path on Linux, less the final zero; unix(7)


class DataDirError(Exception):
    """The data directory or a file in it cannot be used. The message says which, why, and what to do."""


class DataDirInUse(Exception):
    """Another daemon holds the data directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"the daemon with pid {pid}" if pid is not None else "another daemon"
        super().__init__(f"{path} is in use by {who}; stop it first, or choose another directory with --data-dir")
        self.pid = pid


def locate(option: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The data directory: ``--data-dir``, otherwise systemd's, XDG's, or ``~/.local/state/fabstird``.

    Raises `DataDirError` where there is no home directory, or where ``option`` is relative to a working directory that
    is gone.
    """
    if option is not None:
        try:
            return Path(option).absolute()
        except OSError as error:
            raise DataDirError(f"data directory {option}: the folder that this begins in is gone") from error
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"]) / "fabstird"
    own = home(environ)
    if own is None:
        raise DataDirError("no data directory: this user has no home directory; set HOME, or give --data-dir")
    return own / ".local" / "state" / "fabstird"


def locate_ipc(
    setting: str, data_dir: Path, *, data_dir_given: bool, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """The path of the IPC socket; None where IPC is switched off. ``setting`` is ``[api] ipc``."""
    if setting == "":
        return None
    if setting != "auto":
        return Path(setting)
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0]) / "api.sock"
    if not data_dir_given and environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "fabstird" / "api.sock"
    return data_dir / "api.sock"


def prepare(path: Path) -> None:
    """Create the directory (0700) if it does not exist, and check that it can be written. Raises `DataDirError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataDirError(f"data directory {path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the data directory. Raises `DataDirError`, or `DataDirInUse` with the pid of the daemon that holds it."""
    try:
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirError(f"{path / 'lock'}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise DataDirInUse(path, int(text) if text.isdecimal() else None) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise DataDirError(f"{path / 'lock'}: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: a reader, or a crash at any moment, finds the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_regular(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of a regular file. Raises OSError, also for any other kind of file, since reading a pipe
    or a device may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove temporary files of a killed daemon. Call it only while holding the lock."""
    for name in WRITTEN:
        for temporary in path.glob(f".{name}.*"):
            with contextlib.suppress(OSError):  # it is in nobody's way
                temporary.unlink()


def read_token(data_dir: Path) -> str:
    """The API token, created if there is none. Raises `DataDirError` where the file exists but holds no token."""
    path = data_dir / "api.token"
    try:
        token = read_regular(path, MAX_TOKEN).decode("ascii").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        try:
            write_whole(path, f"{token}\n".encode())
        except OSError as error:
            raise DataDirError(f"{path}: {error.strerror}") from error
        return token
    except OSError as error:
        raise DataDirError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise DataDirError(f"{path} holds no usable token; delete it, and the next start makes a new one")
    return token


def others_may_read(path: Path) -> bool:
    """Whether group or others have any right on a file that only its owner should read."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
