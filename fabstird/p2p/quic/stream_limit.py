"""How many streams a peer may open on one connection, and how fast it gets more of them."""

from __future__ import annotations

from aioquic.quic.connection import Limit

OPENED, AT_ONCE = 2000.0, 256.0  # streams that a peer may open on one connection: a second, and at once


class StreamLimit(Limit):
    """How many streams the peer may open. aioquic raises ``value`` by one for each that has ended, which earns the peer
    another; `grant` makes it so, no faster than `OPENED`."""

    _offered = _earned = 0

    def __init__(self, frame_type: int, name: str, value: int) -> None:
        super().__init__(frame_type, name, value)
        self._offered, self._earned = value, 0
        self._tokens, self._counted = AT_ONCE, 0.0

    @property
    def value(self) -> int:
        return self._offered

    @value.setter
    def value(self, value: int) -> None:
        self._earned += value - self._offered

    def grant(self, now: float) -> None:
        """Offer what was earned, once the peer has fewer left than that (as aioquic has it)."""
        self._tokens = min(AT_ONCE, self._tokens + (now - self._counted) * OPENED)
        self._counted = now
        if self._offered - self.used < self._earned:
            granted = min(self._earned, int(self._tokens))
            self._offered += granted
            self._earned -= granted
            self._tokens -= granted

    def due(self) -> float | None:
        """When to grant again, where what was earned could not all be offered."""
        return self._counted + 1 / OPENED + 0.005 if self._offered - self.used < self._earned else None
