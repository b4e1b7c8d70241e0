"""Which socket passed by systemd belongs to which endpoint."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from fabstird.api.errors import BindError
from fabstird.config import ApiConfig
from fabstird.systemd import Passed, listen_sockets

HINT = "it may have ListenStream= only"


@dataclass(frozen=True, slots=True)
class Activated:
    """The socket of each endpoint; None where the endpoint binds one itself."""

    ipc: Passed | None = None
    http: Passed | None = None


def take(api: ApiConfig) -> Activated:
    """Assign the sockets that this process was started with. Raises `BindError`."""
    try:
        passed = listen_sockets()
    except OSError as error:
        raise BindError(f"the socket unit passes something that is not a socket ({error.strerror}); {HINT}") from error
    return assign(passed, api)


def assign(passed: Iterable[Passed], api: ApiConfig) -> Activated:
    """Assign sockets to endpoints: by the name ``ipc`` or ``http`` that the unit gives them, otherwise by kind. A TCP
    socket, or a Unix socket at the path of ``[api] http``, is for HTTP; any other Unix socket is for IPC.

    Raises `BindError` for a socket that nobody can connect to, and for one that no endpoint uses: callers of either
    would wait forever.
    """
    found: dict[str, Passed] = {}
    for given in passed:
        if not given.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BindError(f"the socket unit passes {given.where}, which takes no connections; {HINT}")
        endpoint = given.name if given.name in ("ipc", "http") else _kind(given, api)
        if endpoint in found:
            raise BindError(
                f"the socket unit passes {found[endpoint].where} and {given.where}, but [api] {endpoint} can use only "
                "one of them; remove the other ListenStream="
            )
        if not getattr(api, endpoint):
            raise BindError(
                f"the socket unit listens at {given.where}, but [api] {endpoint} is switched off; "
                "remove that ListenStream=, or switch it on"
            )
        found[endpoint] = given
    return Activated(**found)


def _kind(given: Passed, api: ApiConfig) -> str:
    return "ipc" if given.is_unix and api.http != f"unix:{given.where}" else "http"
