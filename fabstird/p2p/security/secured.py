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

    @property
    def writes_now(self) -> bool:
        """`write_now` and `finish_now` may be called."""
        ...

    def write_now(self, data: bytes | bytearray) -> None:
        """Send ``data`` as far as the kernel takes it now; the rest is ``owing``. Raises `ConnectionLost`."""
        ...

    @property
    def owing(self) -> bool:
        """`write_now` has left something behind, which goes out with the next `write`, of nothing too."""
        ...

    def progress(self) -> Progress:
        """The progress of the connection below."""
        ...

    async def finish(self) -> None:
        """End our side, and leave reading open. The caller sets the deadline."""
        ...

    def finish_now(self) -> None:
        """As `finish`, where it needs no wait."""
        ...

    async def close(self) -> None:
        """Close the connection below at once."""
        ...
