"""Finds the daemon: by the caller's arguments, by the environment, and in the usual places, in this order.

Nothing here connects. `candidates` lists what to try, and `unreachable` makes one error from the failures, which says
what was tried and what to run.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from fabstir_client._core.frames import Framing, Lines, WebSocket
from fabstir_client.api.errors import DaemonUnreachable, InvalidConfig

CONNECT_TIMEOUT = 5.0  # seconds for one candidate to accept the connection, handshake included
SEND_TIMEOUT = 10.0  # seconds for the daemon to take what is sent
RETRY_CONNECT = 0.02  # seconds until a Unix socket whose backlog was full is tried again
CHUNK = 65536  # bytes a read
DENIED = "permission denied"
ABSENT = "not there"
NO_PATH = "holds characters that no path has"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SERVICE = "/run/fabstird"  # the directory of the service's socket
LONGEST_FILE = 65536  # bytes read of a file that others may have written

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a daemon may listen: a Unix socket at ``path``, or TCP at ``host`` and ``port``.

    ``prefix`` is None for JSON lines; otherwise WebSocket is used, at ``prefix`` + ``/ws``, with ``token``.
    """

    path: str | None = None
    host: str = "localhost"
    port: int = 0
    prefix: str | None = None
    token: str | None = None
    token_origin: str = "none was found; set FABSTIR_TOKEN or FABSTIR_TOKEN_FILE, or name the data directory"

    def __str__(self) -> str:
        if self.prefix is None:
            return f"ipc:{self.path}"
        return f"http at unix:{self.path}" if self.path is not None else f"http://{self.authority}{self.prefix}"

    def __repr__(self) -> str:
        # Keeps the token out of logs and tracebacks
        return f"<Endpoint {self}>"

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def websocket_uri(self) -> str:
        authority = "localhost" if self.path is not None else self.authority
        return f"ws://{authority}{self.prefix or ''}/ws"

    def framing(self) -> Framing:
        return Lines() if self.prefix is None else WebSocket(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ``endpoint`` to try; or None, and the ``reason`` why ``label`` gives none."""

    label: str
    endpoint: Endpoint | None = None
    reason: str = ""


class _ApiFile(msgspec.Struct):
    """``api.json``, which a daemon keeps in its data directory while its API listens."""

    pid: int | None = None
    ipc: str | None = None
    http: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The caller's arguments for finding the daemon. The rest comes from the environment, read at each connection, so
    that a daemon that restarts at another port is found again."""

    api: str | None = None
    data_dir: StrPath | None = None
    token: str | None = None

    def candidates(self, environ: Mapping[str, str] = os.environ) -> Iterator[Candidate]:
        """The candidates to try, in order. Raises `InvalidConfig` for a malformed address."""
        if address := self._given_address(environ):
            source = address if self.api else f"{address} (FABSTIR_API)"
            yield Candidate(source, self._parse(address, environ))
            return
        own = self.data_directory(environ)
        folders = [own]  # each may hold api.json and a socket
        if self.data_dir is None:
            runtime = environ.get("XDG_RUNTIME_DIR", "")
            beside = [os.path.join(runtime, "fabstird")] if runtime.startswith("/") else []
            folders = [*beside, own, SERVICE]
        seen: set[str] = set()
        for folder in folders:
            found = self._from_file(os.path.join(folder, "api.json"), environ)
            if found.endpoint is None and found.reason == ABSENT and folder != own:
                continue  # the socket is a candidate of its own, below
            if found.endpoint is None or str(found.endpoint) not in seen:
                seen.add(str(found.endpoint))
                yield found
        for folder in folders:
            endpoint = Endpoint(path=os.path.join(folder, "api.sock"))
            if str(endpoint) not in seen and _is_path(folder):
                yield Candidate(str(endpoint.path), endpoint)

    def start(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The command that starts a daemon where this caller looks for one; None if there is no such command."""
        from shlex import quote
        from urllib.parse import urlsplit

        address = self._given_address(environ)
        if not address:
            given = "" if self.data_dir is None else f" --data-dir {quote(os.fspath(self.data_dir))}"
            return f"fabstird run{given}"
        if address.startswith("ipc:"):
            return f"fabstird run --set {quote(address.replace('ipc:', 'api.ipc=', 1))}"
        parts = urlsplit(address)
        local = parts.hostname in LOOPBACK and parts.port and not parts.path.strip("/")
        return f"fabstird run --set {quote(f'api.http={parts.netloc}')}" if local else None

    def _given_address(self, environ: Mapping[str, str]) -> str | None:
        """The address given by the caller, or by the environment if no data directory is given."""
        return self.api or (None if self.data_dir is not None else environ.get("FABSTIR_API"))

    def data_directory(self, environ: Mapping[str, str] = os.environ) -> str:
        """The data directory of the daemon to talk to. Raises `InvalidConfig` if it cannot be determined."""
        if self.data_dir is not None:
            try:
                return os.path.abspath(os.fspath(self.data_dir))
            except OSError as error:
                raise InvalidConfig(f"{self.data_dir}: the folder that this begins in is gone") from error
        state = environ.get("XDG_STATE_HOME", "")
        if not state.startswith("/"):
            state = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
        return os.path.join(state, "fabstird")

    def _parse(self, api: str, environ: Mapping[str, str]) -> Endpoint:
        if api.startswith("ipc:") and len(api) > len("ipc:") and _is_path(api):
            return Endpoint(path=api.removeprefix("ipc:"))
        from urllib.parse import urlsplit  # not needed for IPC

        try:
            parts = urlsplit(api)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port or 80
        except ValueError:
            host, port = "", 0
        if not host or parts.scheme != "http" or parts.query or parts.fragment or parts.username:
            raise InvalidConfig(f"{api!r} is no address of a daemon; it must be ipc:/path or http://host:port")
        return self._http(Endpoint(host=dialable(host), port=port, prefix=parts.path.rstrip("/")), environ)

    def _from_file(self, path: str, environ: Mapping[str, str]) -> Candidate:
        if not _is_path(path):
            return Candidate(path, reason=NO_PATH)
        try:
            found = msgspec.json.decode(read_regular(path), type=_ApiFile)
        except FileNotFoundError:
            return Candidate(path, reason=ABSENT)
        except OSError as error:
            return Candidate(path, reason=error.strerror or str(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Candidate(path, reason=f"not readable as JSON ({error})")
        if not _is_path(found.ipc or found.http or ""):
            return Candidate(path, reason="names an invalid path")
        if found.ipc:
            return Candidate(f"{found.ipc} (from {path})", Endpoint(path=found.ipc))
        if not found.http:
            return Candidate(path, reason="names no endpoint")
        # A killed daemon leaves the file, and another program may listen at its port by now: it must not get the token
        if found.pid is None or not _alive(found.pid):
            return Candidate(path, reason=f"left by a daemon that is gone (pid {found.pid})")
        if found.http.startswith("unix:"):
            endpoint = self._http(Endpoint(path=found.http.removeprefix("unix:"), prefix=""), environ)
        else:
            address = found.http if found.http.startswith("http://") else f"http://{found.http}"
            try:
                endpoint = self._parse(address, environ)
            except InvalidConfig:
                return Candidate(path, reason="names an invalid address")
        return Candidate(f"{found.http} (from {path})", endpoint)

    def _http(self, endpoint: Endpoint, environ: Mapping[str, str]) -> Endpoint:
        """``endpoint`` with the token: the caller's, FABSTIR_TOKEN, FABSTIR_TOKEN_FILE or the data directory's."""
        token, origin = self.token, "given by the caller"
        if token is None and environ.get("FABSTIR_TOKEN"):
            token, origin = environ["FABSTIR_TOKEN"], "from FABSTIR_TOKEN"
        if token is None and environ.get("FABSTIR_TOKEN_FILE"):
            path = environ["FABSTIR_TOKEN_FILE"]
            if not _is_path(path):
                raise InvalidConfig(f"FABSTIR_TOKEN_FILE: {path!a} {NO_PATH}")
            try:
                token, origin = _read_token(path), f"from {path}"
            except OSError as error:
                raise InvalidConfig(f"FABSTIR_TOKEN_FILE: {path}: {error.strerror}") from error
        if token is None:
            path = os.path.join(self.data_directory(environ), "api.token")
            if not _is_path(path):
                return endpoint
            try:
                token, origin = _stripped(read_regular(path)), f"from {path}"
            except FileNotFoundError:
                return endpoint
            except OSError as error:
                unread = f"{path} could not be read: {error.strerror}"
                return _with(endpoint, None, unread)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidConfig(f"the token ({origin}) holds characters that no token has")
        return _with(endpoint, token, origin)


def _with(endpoint: Endpoint, token: str | None, origin: str) -> Endpoint:
    return Endpoint(endpoint.path, endpoint.host, endpoint.port, endpoint.prefix, token, origin)


def _is_path(text: str) -> bool:
    """Whether it can be passed to the kernel: without NUL, and encodable for the file system (in a C locale, or with a
    lone surrogate, not every text is)."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _alive(pid: int) -> bool:
    """Whether a process with that number exists."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return pid > 0


def read_regular(path: str) -> bytes:
    """The beginning of a regular file. Raises OSError, also for any other kind of file, since reading a pipe may never
    end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read(LONGEST_FILE)


def _read_token(path: str) -> str:
    """The token in a file that the caller has named. It may be a pipe, such as a shell's ``<(command)``."""
    with open(path, "rb") as file:
        return _stripped(file.read(LONGEST_FILE))


def _stripped(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()


def dialable(host: str) -> str:
    """``host``, or loopback for a wildcard address, which can be listened on but not dialled."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def describe(error: Exception, path: str | None = None, within: float = CONNECT_TIMEOUT) -> str:
    """A short reason why a candidate did not answer within ``within`` seconds; ``path`` is that of a Unix socket."""
    if isinstance(error, FileNotFoundError):
        return "not there"
    if isinstance(error, ConnectionRefusedError):
        return "refused, nobody listens there"
    if isinstance(error, TimeoutError):
        return f"no answer within {max(0.0, within):.3g} s"
    if isinstance(error, PermissionError):
        return DENIED + (_whose(path) if path is not None else "")
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _whose(path: str) -> str:
    """Who may use the socket, as far as its file, or the directory that hides it, shows."""
    import grp  # rarely needed, and Unix only
    import pwd

    for place in (path, os.path.dirname(path)):
        try:
            found = os.stat(place)
        except OSError:
            continue  # not visible to us
        try:
            if not found.st_mode & 0o070:
                return f", it is for the user {pwd.getpwuid(found.st_uid).pw_name} alone"
            group, own = grp.getgrgid(found.st_gid).gr_name, pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return ""  # there is no such user or group
        return f", it is for members of the group {group}: as root, usermod -aG {group} {own}; then log in again"
    return ""


def unreachable(tried: Iterable[tuple[str, str]], target: Target) -> DaemonUnreachable:
    """The error for when no candidate of ``target`` answered."""
    listed = [f"{label}: {reason}" for label, reason in tried]
    command = None if any(DENIED in reason for reason in listed) else target.start()
    cure = f". Start one with: {command}" if command is not None else ""
    return DaemonUnreachable(f"no daemon was reached (tried {'; '.join(listed)}){cure}", tried=listed)
