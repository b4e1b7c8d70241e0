"""For whom a protocol is handled: a connection of the API, or a part of the daemon."""

from __future__ import annotations

from typing import Protocol

from fabstir_client.api.streams import Notice


class Owner(Protocol):
    """``identity`` identifies the owner: others with the same identity may accept, read and answer what it is notified
    of."""

    @property
    def identity(self) -> object: ...

    def admits(self, peer_id: str) -> bool:
        """Whether it may deal with the peer."""

    def tell(self, notice: Notice) -> None:
        """Send it a notice at once; never raises."""


class Part:
    """An owner that is a part of the daemon. Nobody else has its identity, and it serves every peer. It holds its
    streams itself, and needs no notices."""

    @property
    def identity(self) -> object:
        return self

    def admits(self, peer_id: str) -> bool:
        del peer_id
        return True

    def tell(self, notice: Notice) -> None:
        del notice
