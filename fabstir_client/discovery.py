"""Where the daemon is: what the caller says, what the environment says, and the usual places, in this order.

Nothing here connects; `candidates` only tells the shells what to try, and `unreachable` turns what they found into one
error that says what was tried and what to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from fabstir_client.errors import DaemonUnreachable, InvalidConfig
from fabstir_client.framing import Framing, Lines, WebSocket

CONNECT_TIMEOUT = 5.0  # seconds for one candidate to take the connection, handshake included
SEND_TIMEOUT = 10.0  # seconds for the daemon to take what is sent
RETRY_CONNECT = 0.02  # seconds until a Unix socket whose queue was full is tried again
CHUNK = 65536  # bytes a read
DENIED = "permission denied"

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that a daemon may listen at: a Unix socket at ``path``, or TCP at ``host`` and ``port``.

    ``prefix`` is None for JSON lines; else WebSocket is spoken, at ``prefix`` + ``/ws``, with ``token``.
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
        # The token must not end up in a log or a traceback.
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
    """``endpoint`` to try, or, where it is None, the ``reason`` why ``label`` gives none."""

    label: str
    endpoint: Endpoint | None = None
    reason: str = ""


class _ApiFile(msgspec.Struct):
    """``api.json``, as a daemon leaves it in its data directory while its API listens."""

    pid: int | None = None
    ipc: str | None = None
    http: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What the caller said about where the daemon is; the rest comes from the environment, anew at each connection, so
    that a daemon that comes back at another port is found again."""

    api: str | None = None
    data_dir: StrPath | None = None
    token: str | None = None

    def candidates(self, environ: Mapping[str, str] = os.environ) -> Iterator[Candidate]:
        """What to try, in order. Raises `InvalidConfig` for an address that is none."""
        said = self.api or (None if self.data_dir is not None else environ.get("FABSTIR_API"))
        if said:
            source = said if self.api else f"{said} (FABSTIR_API)"
            yield Candidate(source, self._parse(said, environ))
            return
        directory = self.data_directory(environ)
        found = self._from_file(os.path.join(directory, "api.json"), environ)
        yield found
        sockets = [os.path.join(directory, "api.sock")]
        if self.data_dir is None:
            runtime = environ.get("XDG_RUNTIME_DIR", "")
            sockets = [os.path.join(runtime, "fabstird", "api.sock")] if runtime.startswith("/") else []
            sockets.append("/run/fabstird/api.sock")
        for path in sockets:
            if found.endpoint is None or found.endpoint.path != path:
                yield Candidate(path, Endpoint(path=path))

    def data_directory(self, environ: Mapping[str, str] = os.environ) -> str:
        """The data directory of the daemon that is meant."""
        if self.data_dir is not None:
            return os.path.abspath(os.fspath(self.data_dir))
        state = environ.get("XDG_STATE_HOME", "")
        if not state.startswith("/"):
            state = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
        return os.path.join(state, "fabstird")

    def _parse(self, api: str, environ: Mapping[str, str]) -> Endpoint:
        if api.startswith("ipc:") and len(api) > len("ipc:") and "\0" not in api:
            return Endpoint(path=api.removeprefix("ipc:"))
        from urllib.parse import urlsplit  # IPC alone does without it

        try:
            parts = urlsplit(api)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port or 80
        except ValueError:
            host, port = "", 0
        if not host or parts.scheme != "http" or parts.query or parts.fragment or parts.username:
            raise InvalidConfig(f"{api!r} is no address of a daemon; it must be ipc:/path or http://host:port")
        return self._http(Endpoint(host=host, port=port, prefix=parts.path.rstrip("/")), environ)

    def _from_file(self, path: str, environ: Mapping[str, str]) -> Candidate:
        try:
            with open(path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=_ApiFile)
        except FileNotFoundError:
            return Candidate(path, reason="not there")
        except OSError as error:
            return Candidate(path, reason=error.strerror or str(error))
        except msgspec.MsgspecError as error:
            return Candidate(path, reason=f"not readable as JSON ({error})")
        if found.ipc:
            return Candidate(f"{found.ipc} (from {path})", Endpoint(path=found.ipc))
        if not found.http:
            return Candidate(path, reason="names no endpoint")
        # A killed daemon leaves the file, and anybody may listen at its port by now: the token is not for them.
        if found.pid is None or not _alive(found.pid):
            return Candidate(path, reason=f"left by a daemon that is gone (pid {found.pid})")
        if found.http.startswith("unix:"):
            endpoint = self._http(Endpoint(path=found.http.removeprefix("unix:"), prefix=""), environ)
        else:
            address = found.http if found.http.startswith("http://") else f"http://{found.http}"
            endpoint = self._parse(address, environ)
        return Candidate(f"{found.http} (from {path})", endpoint)

    def _http(self, endpoint: Endpoint, environ: Mapping[str, str]) -> Endpoint:
        """``endpoint`` with the token: the caller's, FABSTIR_TOKEN, FABSTIR_TOKEN_FILE or the data directory's."""
        token, origin = self.token, "given by the caller"
        if token is None and environ.get("FABSTIR_TOKEN"):
            token, origin = environ["FABSTIR_TOKEN"], "from FABSTIR_TOKEN"
        if token is None and environ.get("FABSTIR_TOKEN_FILE"):
            path = environ["FABSTIR_TOKEN_FILE"]
            try:
                token, origin = _read_token(path), f"from {path}"
            except OSError as error:
                raise InvalidConfig(f"FABSTIR_TOKEN_FILE: {path}: {error.strerror}") from error
        if token is None:
            path = os.path.join(self.data_directory(environ), "api.token")
            try:
                token, origin = _read_token(path), f"from {path}"
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


def _alive(pid: int) -> bool:
    """Whether a process of ours has that number."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return pid > 0


def _read_token(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def describe(error: Exception, path: str | None = None) -> str:
    """In a few words, why a candidate, a Unix socket at ``path`` if that is given, did not answer."""
    if isinstance(error, FileNotFoundError):
        return "not there"
    if isinstance(error, ConnectionRefusedError):
        return "refused, nobody listens there"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT:g} s"
    if isinstance(error, PermissionError):
        return DENIED + (_whose(path) if path is not None else "")
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _whose(path: str) -> str:
    """Who may use the socket, as far as its file, or the folder that hides it, says so."""
    import grp  # rarely needed, and Unix only
    import pwd

    for place in (path, os.path.dirname(path)):
        try:
            found = os.stat(place)
        except OSError:
            continue  # hidden from us
        try:
            if not found.st_mode & 0o070:
                return f", it is for the user {pwd.getpwuid(found.st_uid).pw_name} alone"
            group, own = grp.getgrgid(found.st_gid).gr_name, pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return ""  # nobody has that number
        return f", it is for members of the group {group}: as root, usermod -aG {group} {own}; then log in again"
    return ""


def unreachable(tried: Iterable[tuple[str, str]]) -> DaemonUnreachable:
    """The error for when no candidate answered."""
    listed = [f"{label}: {reason}" for label, reason in tried]
    cure = "" if any(DENIED in reason for reason in listed) else ". Start one with: fabstird run"
    return DaemonUnreachable(f"no daemon was reached (tried {'; '.join(listed)}){cure}", tried=listed)
