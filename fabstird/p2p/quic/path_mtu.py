"""How large a datagram the path carries (RFC 9000, 14.3; RFC 8899): tried with packets that carry nothing else.

Each path carries 1,200 bytes. A connection that sends more than a few packets tries what an Ethernet carries, and where
that does not arrive, searches below. Where large ones stop arriving later, it goes back to 1,200. The network's own
words (ICMP) are not listened to: anybody can say them.
"""

from __future__ import annotations

from fabstird.p2p.quic.identity import DATAGRAM

TRIES = 3  # of one size until it is taken for too large; losses of large packets in a row, until the path is
CLOSE = 20  # bytes: the search ends where what arrives and what does not are nearer than that
AGAIN = 600.0  # seconds until a search that ended below the most begins again
BEFORE = 32  # packets of a connection before the first try: most connections never send so many
HEADERS_V4, HEADERS_V6 = 28, 48  # bytes of IP and UDP
ETHERNET = 1500  # bytes of a packet, with those


class PathMtu:
    """Pure: it is told what arrived and what was lost. ``size`` is what is sent, ``tried`` what is on its way."""

    def __init__(self, most: int) -> None:
        self.size = DATAGRAM
        self.tried: int | None = None
        self._most = most
        self._too_large = most + 1
        self._next = most
        self._failed = 0
        self._lost = 0
        self._at = 0.0

    def due(self, now: float) -> int | None:
        """The size to try now."""
        if self.tried is not None or now < self._at:
            return None
        if self.size >= self._most:
            return None
        if self._next <= self.size:  # the search had ended
            self._too_large, self._next = self._most + 1, self._most
        self.tried = self._next
        return self.tried

    def arrived(self, size: int, now: float) -> None:
        """One that was tried."""
        if size == self.tried:
            self.tried, self._failed, self._lost = None, 0, 0
            self.size = size
            self._choose(now)

    def failed(self, size: int, now: float) -> None:
        """One that was tried is lost."""
        if size != self.tried:
            return
        self.tried = None
        self._failed += 1
        if self._failed >= TRIES:
            self._too_large, self._failed = size, 0
            self._choose(now)

    def _choose(self, now: float) -> None:
        self._next = (self.size + self._too_large) // 2
        if self._too_large - self.size <= CLOSE:
            self._next, self._at = 0, now + AGAIN

    @property
    def is_doubted(self) -> bool:
        """Packets of more than 1,200 bytes were lost, and none has arrived since."""
        return self._lost > 0

    def large_arrived(self) -> None:
        self._lost = 0

    def large_lost(self, now: float) -> None:
        """Some packets of more than 1,200 bytes are lost, at once. After a few times nothing as large is sent, until
        the search begins again."""
        self._lost += 1
        if self.size > DATAGRAM and self._lost >= TRIES:
            self.size, self.tried, self._lost, self._failed = DATAGRAM, None, 0, 0
            self._next, self._at = 0, now + AGAIN


def most(remote: tuple[object, ...], peer_takes: int) -> int:
    """The largest datagram that is tried: what an Ethernet carries to ``remote``, and the peer takes."""
    return max(DATAGRAM, min(ETHERNET - (HEADERS_V6 if len(remote) > 2 else HEADERS_V4), peer_takes))
