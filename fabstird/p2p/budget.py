"""Limits the memory for bytes that peers have sent and nobody has read yet.

It has scopes, as go-libp2p's resource manager: a connection belongs to its IP address, and that to the process. Bytes
are reserved in all of them or in none. Where that fails, the stream that the bytes came on is reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fabstird.p2p.wire.ips import group_of_host

MIB = 1024 * 1024
OF_CONNECTION = 12 * MIB  # bytes: three streams with the largest window
OF_IP = 20 * MIB
OF_PROCESS = 32 * MIB


class Scope:
    """Bytes in use, of at most ``limit``, in this scope and its parent."""

    __slots__ = ("_parent", "limit", "refused", "used")

    def __init__(self, limit: int, parent: Scope | None = None) -> None:
        self.used = 0
        self.limit = limit
        self.refused = 0  # times that there was no room
        self._parent = parent

    def take(self, size: int) -> bool:
        """Reserve bytes, until `give` returns them; False where there is no room."""
        scope: Scope | None = self
        while scope is not None:
            if scope.used + size > scope.limit:
                scope.refused += 1
                return False
            scope = scope._parent
        scope = self
        while scope is not None:
            scope.used += size
            scope = scope._parent
        return True

    def give(self, size: int) -> None:
        """Return bytes that `take` reserved. A negative number reserves them again, regardless of the limit."""
        scope: Scope | None = self
        while scope is not None:
            scope.used -= size
            scope = scope._parent

    def close(self) -> None:
        """Return everything; what is given back later is ignored."""
        self.give(self.used)
        self._parent = None


@dataclass(slots=True)
class _Shared:
    scope: Scope
    connections: int = 0


class Memory:
    """The scopes of one node. IPv6 addresses are grouped by /64."""

    def __init__(self, process: int = OF_PROCESS, ip: int = OF_IP, connection: int = OF_CONNECTION) -> None:
        self.process = Scope(process)
        self._ip = ip
        self._connection = connection
        self._by_ip: dict[str, _Shared] = {}

    @contextmanager
    def connection(self, host: str, *, relayed: bool = False) -> Iterator[Scope]:
        """The scope of one connection with ``host``, while it lives. A relayed connection has nobody's address, and
        counts for the process only."""
        if relayed:
            scope = Scope(self._connection, self.process)
            try:
                yield scope
            finally:
                scope.close()
            return
        name = group_of_host(host)
        shared = self._by_ip.setdefault(name, _Shared(Scope(self._ip, self.process)))
        shared.connections += 1
        scope = Scope(self._connection, shared.scope)
        try:
            yield scope
        finally:
            scope.close()
            shared.connections -= 1
            if not shared.connections:
                del self._by_ip[name]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Bytes in use and their bound: of the process, and of the address that uses most."""
        most = max((shared.scope.used for shared in self._by_ip.values()), default=0)
        return {"unreadBytes": (self.process.used, self.process.limit), "unreadBytesOfOneIp": (most, self._ip)}
