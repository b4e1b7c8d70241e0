"""Single-use codes for the page at ``/ui``. Pure, except for its clock and random numbers.

A code is used where a token must not be: in an address that a shell opens in a browser. So it is short-lived, valid
once, and useless without the daemon's own HTTP port.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from fabstir_client.api.access import Access

LIFETIME = 30.0  # seconds
MOST = 16  # open codes; a new one replaces the oldest


@dataclass(frozen=True, slots=True)
class Code:
    """A code. ``until`` is a monotonic time; ``issuer`` is the grant that created it, in words."""

    text: str
    access: Access
    until: float
    issuer: str


class UiCodes:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: list[Code] = []

    def issue(self, access: Access, issuer: str) -> Code:
        code = Code(secrets.token_urlsafe(24), access, self._clock() + LIFETIME, issuer)
        self._open = [*self._valid(), code][-MOST:]
        return code

    def find(self, given: str) -> Code | None:
        """A code, which stays valid until `use`; None where it is unknown or expired."""
        found = None
        for code in self._valid():
            if hmac.compare_digest(code.text.encode(), given.encode("utf-8", "surrogatepass")):
                found = code
        return found

    def use(self, code: Code) -> bool:
        """Use it up; False where it was used meanwhile."""
        if code not in self._open:
            return False
        self._open.remove(code)
        return True

    def restore(self, code: Code) -> None:
        """Make it valid again, since it was not used after all."""
        self._open.append(code)

    def _valid(self) -> list[Code]:
        now = self._clock()
        return [code for code in self._open if now < code.until]
