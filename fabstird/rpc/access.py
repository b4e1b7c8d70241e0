"""Access control. Pure: a grant says what a caller may do, and `admit` and `admit_named` decide about one call.

Every way through the dispatcher calls `admit` at one place, before the parameters are looked at, so a refused call has
no effect and costs next to nothing. `admit_named` is called once they are known, for a grant with a limited scope.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import trio

from fabstir_client.api.access import Access
from fabstir_client.api.errors import Forbidden
from fabstird.rpc.scope import UNLIMITED, Named, Scope, listed

LEVELS: dict[str, Access] = {"read": "read", "write": "write", "admin": "admin"}  # by their names in the configuration
RANK: dict[Access, int] = {"read": 0, "write": 1, "admin": 2}
TOLD = 128  # characters of a protocol quoted in a refusal
RECHECK = 60.0  # seconds between two checks of the wall clock, which may be set


@dataclass(slots=True, eq=False)
class Grant:
    """What its holder may do, while it is in force. All connections of the holder share one object, so a change takes
    effect at once, on open connections too."""

    access: Access
    origin: str  # what granted it, as words that follow "granted by": the owner of the daemon, the token "ci"
    cure: str = ""  # how to get more access, in words; {needed} stands for the level
    token: str | None = None  # the name of the token that it belongs to
    methods: frozenset[str] | None = None  # only these methods, if given
    scope: Scope = UNLIMITED  # the protocols and peers that calls may name
    expires: int | None = None  # ms since the Unix epoch
    clock: Callable[[], float] = time.time
    _withdrawn: str | None = None
    _ended: trio.Event = field(default_factory=trio.Event)

    def withdraw(self, why: str) -> None:
        """End it. ``why`` is in words, such as "was revoked"."""
        self._withdrawn = why
        self._ended.set()

    def ended(self) -> str | None:
        """Why it is no longer in force, in words; None while it is."""
        if self._withdrawn is not None:
            return f"{self.origin} {self._withdrawn}"
        if self.expires is not None and self.clock() * 1000 >= self.expires:
            return f"{self.origin} expired {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(self.expires / 1000))}"
        return None

    async def wait_ended(self) -> str:
        """Wait until it is no longer in force; returns why, as `ended`."""
        while (why := self.ended()) is None:
            left = RECHECK if self.expires is None else self.expires / 1000 - self.clock()
            with trio.move_on_at(trio.current_time() + min(max(left, 0.001), RECHECK)):
                await self._ended.wait()
        return why


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller, as far as the transport knows it, and what it may do."""

    transport: str  # ipc, http or ws
    grant: Grant
    uid: int | None = None
    pid: int | None = None
    remote: str | None = None  # address of the other end, if it has one

    @property
    def identity(self) -> Hashable:
        """Identifies the caller across connections: a user of the machine, or the holder of a token."""
        return ("uid", self.uid) if self.transport == "ipc" else self.grant


def admit(method: str, needs: Access, caller: Caller) -> None:
    """Raise `Forbidden` where the caller may not call the method."""
    grant = caller.grant
    if (why := grant.ended()) is not None:
        raise Forbidden(f"{method} is refused: {why}", method=method, needed=needs, granted="none")
    if RANK[needs] > RANK[grant.access]:
        cure = grant.cure.format(needed=needs)
        raise Forbidden(
            f"{method} needs {needs} access; {grant.origin} grants {grant.access}" + (f": {cure}" if cure else ""),
            method=method,
            needed=needs,
            granted=grant.access,
        )
    if grant.methods is not None and method not in grant.methods:
        allowed = sorted(grant.methods)
        raise Forbidden(
            f"{method} is not among the methods of {grant.origin}: {', '.join(allowed)}; "
            "make a token that names it too, or none",
            method=method,
            needed=needs,
            granted=grant.access,
            methods=allowed,
        )


def admit_named(method: str, needs: Access, caller: Caller, named: Named) -> None:
    """Raise `Forbidden` where the call names a protocol or a peer outside the caller's scope."""
    grant, scope = caller.grant, caller.grant.scope
    for protocol in named.protocols:
        if not scope.has_protocol(protocol):
            allowed = list(scope.protocols or ())
            raise Forbidden(
                f"{method}: {grant.origin} may not use {protocol[:TOLD]}, only {listed(allowed)}; "
                "make a token whose protocols have it too",
                method=method,
                needed=needs,
                granted=grant.access,
                protocols=allowed,
            )
    for peer_id in named.peers:
        if not scope.has_peer(peer_id):
            allowed = sorted(scope.peers or ())
            what = peer_id or "what does not name its peer by id"
            raise Forbidden(
                f"{method}: {grant.origin} may not reach {what}, only {listed(allowed)}; "
                "make a token whose peers have it too",
                method=method,
                needed=needs,
                granted=grant.access,
                peers=allowed,
            )
