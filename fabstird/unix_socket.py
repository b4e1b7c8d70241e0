"""A Unix socket at a path: it is bound with its mode, replaces only a dead one, and is removed when closed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fabstird.datadir import SUN_PATH_MAX

BACKLOG = 4096  # callers that wait to be accepted; the kernel allows as many as net.core.somaxconn


class BindError(Exception):
    """A socket cannot be bound; the message says which, why, and what to do."""


@contextmanager
def listening(path: Path, mode: int, config_key: str) -> Iterator[socket.socket]:
    """A listening, non-blocking socket at ``path``. Raises `BindError`, which names ``config_key``.

    A socket file left by a killed daemon is replaced; that of a living program never is.
    """
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise BindError(
            f"the path {path} is {length} bytes long; a Unix socket's may have {SUN_PATH_MAX}: "
            f"set a shorter {config_key}, or another --data-dir"
        )
    with ExitStack() as held:
        try:
            sock = _bind(path, mode, config_key, held)
            ours = path.stat()
        except OSError as error:
            raise BindError(f"cannot serve the socket {path}: {error.strerror or error}") from error
        try:
            yield sock
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), ours):
                    path.unlink()


def _bind(path: Path, mode: int, config_key: str, held: ExitStack) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two daemons with the same path must not both find a dead socket there and replace each other's.
    guard = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, guard)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BindError(f"the socket {path} is served by another daemon; set another {config_key}") from None
    _remove_dead(path, config_key)
    sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.bind(os.fspath(path))
    os.chmod(path, mode)  # before listen(), so that nobody can connect in between
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _remove_dead(path: Path, config_key: str) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(f"{path} exists and is not a socket; move it away, or set another {config_key}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except PermissionError:  # nobody can tell whether it is alive
            raise BindError(
                f"the socket {path} belongs to {_name(found.st_uid)}; only that user may access it; "
                f"remove it, or set another {config_key}"
            ) from None
        except OSError:
            pass  # alive with a full backlog, or of another user
    raise BindError(f"the socket {path} is served by another program; set another {config_key}")


def _name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"
