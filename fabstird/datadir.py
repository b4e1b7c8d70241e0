"""The data directory and the API's paths: where they are, who may hold them, and files written whole or not at all.

CONTRACT, section 1. The lock is a kernel lock on ``lock``: it goes with the process however that ends, so a kill -9
leaves nothing behind that blocks the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

WRITTEN = ("identity.key", "api.token", "api.json", "peers.json", "tokens.json", "dht.json")  # by `write_whole`
SUN_PATH_MAX = 107  # bytes in sockaddr_un.sun_path on Linux, less the final zero; unix(7)


class DataDirError(Exception):
    """The data directory or a file in it cannot be used; the message says which, why, and what to do."""


class DataDirInUse(Exception):
    """Another daemon holds the data directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"the daemon with pid {pid}" if pid is not None else "another daemon"
        super().__init__(f"{path} is in use by {who}; stop it first, or choose another directory with --data-dir")
        self.pid = pid


def locate(option: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The data directory: ``--data-dir``, else systemd's, else XDG's, else ``~/.local/state/fabstird``."""
    if option is not None:
        return Path(option).absolute()
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"]) / "fabstird"
    return Path.home() / ".local" / "state" / "fabstird"


def locate_ipc(
    setting: str, data_dir: Path, *, data_dir_given: bool, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """The path of the IPC socket; ``setting`` is ``[api] ipc``. None where IPC is switched off."""
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
    """Make the directory (0700) where it does not exist, and see that it can be written. Raises `DataDirError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataDirError(f"data directory {path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the data directory. Raises `DataDirInUse` with the pid of the daemon that holds it, or `DataDirError`."""
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
    """Replace ``path`` so that a reader, or a crash at any moment, finds the old content or the new, never a part."""
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


def sweep(path: Path) -> None:
    """Remove what a killed daemon had begun to write. For the holder of the lock."""
    for name in WRITTEN:
        for temporary in path.glob(f".{name}.*"):
            with contextlib.suppress(OSError):  # it is in nobody's way
                temporary.unlink()


def read_token(data_dir: Path) -> str:
    """The API token, made where there is none. Raises `DataDirError` where the file is there but holds no token."""
    path = data_dir / "api.token"
    try:
        token = path.read_text("ascii").strip()
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
    """Whether group or others have any right on a file that is for its owner alone."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
