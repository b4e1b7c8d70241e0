"""Which socket passed by systemd belongs to which endpoint."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from fabstird.api.errors import BindError
from fabstird.config import ApiConfig
from fabstird.systemd import Passed, listen_sockets

CURE = "it may have ListenStream= only"


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
        raise BindError(f"the socket unit passes something that is no socket ({error.strerror}); {CURE}") from error
    return assign(passed, api)


def assign(passed: Iterable[Passed], api: ApiConfig) -> Activated:
    """Assign sockets to endpoints: by the name ``ipc`` or ``http`` that the unit gives them, otherwise by kind. A TCP
    socket, or a Unix socket at the path of ``[api] http``, is for HTTP; any other Unix socket is for IPC.

    Raises `BindError` for a socket that nobody can connect to, and for one that is left over: callers of either would
    wait for ever.
    """
    found: dict[str, Passed] = {}
    for one in passed:
        if not one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BindError(f"the socket unit passes {one.where}, which takes no connections; {CURE}")
        own = one.name if one.name in ("ipc", "http") else _kind(one, api)
        if own in found:
            raise BindError(
                f"the socket unit passes {found[own].where} and {one.where}, and [api] {own} can be one of them; "
                "remove the other ListenStream="
            )
        if not getattr(api, own):
            raise BindError(
                f"the socket unit listens at {one.where}, but [api] {own} is switched off; "
                "remove that ListenStream=, or switch it on"
            )
        found[own] = one
    return Activated(**found)


def _kind(one: Passed, api: ApiConfig) -> str:
    return "ipc" if one.is_unix and api.http != f"unix:{one.where}" else "http"
