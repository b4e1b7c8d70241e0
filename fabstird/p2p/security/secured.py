"""The result of every security protocol: an encrypted connection to a proven peer, or the reason of the failure."""

from __future__ import annotations

from typing import Protocol

from fabstird.p2p.transport.pipe import Progress
from fabstird.p2p.wire.errors import NetworkError

TLS = "/tls/1.0.0"


class HandshakeFailed(NetworkError):
    """The peer did not prove who it is; the message says why, in our own words."""


class WrongPeer(HandshakeFailed):
    """Another peer answered than the one that was dialled."""


class Secured(Protocol):
    """An encrypted connection to ``peer_id``, whose key is of type ``key_type``, secured by ``protocol``. It has one
    reader and one writer at a time."""

    protocol: str
    is_initiator: bool
    peer_id: str
    key_type: str

    async def read(self) -> bytes:
        """At least one byte. Raises `ConnectionLost`, and whatever a forged message makes the library raise."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of ``data``. Raises `ConnectionLost`."""
        ...

    def progress(self) -> Progress:
        """The progress of the connection below."""
        ...

    async def finish(self) -> None:
        """End our side, and leave reading open. The caller sets the deadline."""
        ...

    async def close(self) -> None:
        """Close the connection below at once."""
        ...
