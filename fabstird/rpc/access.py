"""Who may call what. Pure: a grant says what a caller may do, `admit` decides about one call.

`admit` is called at one place for every way that a call can take through the dispatcher, before its parameters are
looked at, so that what is refused has no effect and costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from fabstir_client.errors import Forbidden
from fabstir_client.types_access import Access

LEVELS: dict[str, Access] = {"read": "read", "write": "write", "admin": "admin"}  # by their names in the configuration
RANK: dict[Access, int] = {"read": 0, "write": 1, "admin": 2}
RECHECK = 60.0  # seconds between two looks at the wall clock, which may be set


@dataclass(slots=True, eq=False)
class Grant:
    """What whoever holds it may do, for as long as it is in force. One object is shared by all connections that it was
    given to: what changes in it is in effect at once, on open connections too."""

    access: Access
    origin: str  # what granted it, in words that follow "granted by": the owner of the daemon, the token "ci"
    cure: str = ""  # what to do for more access, in words; {needed} stands for the level
    token: str | None = None  # the name of the token that it came with
    methods: frozenset[str] | None = None  # nothing but these, where it is given
    expires: int | None = None  # ms since the Unix epoch
    clock: Callable[[], float] = time.time
    _withdrawn: str | None = None
    _ended: trio.Event = field(default_factory=trio.Event)

    def withdraw(self, why: str) -> None:
        """End it; ``why`` in words, such as: was revoked."""
        self._withdrawn = why
        self._ended.set()

    def ended(self) -> str | None:
        """Why it is in force no longer, in words; None while it is."""
        if self._withdrawn is not None:
            return f"{self.origin} {self._withdrawn}"
        if self.expires is not None and self.clock() * 1000 >= self.expires:
            return f"{self.origin} expired {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(self.expires / 1000))}"
        return None

    async def wait_ended(self) -> str:
        """Wait until it is in force no longer; why, as `ended`."""
        while (why := self.ended()) is None:
            left = RECHECK if self.expires is None else self.expires / 1000 - self.clock()
            with trio.move_on_after(min(max(left, 0.001), RECHECK)):
                await self._ended.wait()
        return why


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as the transport knows, and what it may do."""

    transport: str  # ipc, http or ws
    grant: Grant
    uid: int | None = None
    pid: int | None = None
    remote: str | None = None  # address of the other end, where it has one


def admit(method: str, needs: Access, caller: Caller) -> None:
    """Raises `Forbidden` where the caller may not call the method."""
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
