"""Negotiates the security protocol of a connection by multistream-select, out of those that this node offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.security.noise import NOISE, Noise
from fabstird.p2p.security.secured import TLS, Secured
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.wire import multistream
from fabstird.threads import on_disk

PROTOCOLS = {"noise": NOISE, "tls": TLS}  # by their names in the configuration
BEGINS = 0.5  # seconds for who dials us to say what it wants


class Handshake(Protocol):
    """One protocol's handshakes."""

    async def secure(self, pipe: Pipe, expected: str | None = None) -> Secured: ...


class Handshakes:
    """The security protocols that a node offers and accepts. ``offered`` are keys of `PROTOCOLS`, the preferred one
    first."""

    def __init__(self, key: NodeKey, offered: Sequence[str] = ("noise",)) -> None:
        self.key = key
        self._offered = tuple(PROTOCOLS[name] for name in offered)
        self._noise = Noise(key)
        self._tls: Handshake | None = None
        self._making = trio.Lock()

    async def secure(self, pipe: Pipe, expected: str | None = None) -> Secured:
        """Secure a connection; the dialler asks for a protocol. ``expected`` is the peer that must be at the other end;
        None for any. The caller sets the deadline.

        Raises `WrongPeer`, `HandshakeFailed`, `NegotiationError`, `ConnectionLost`.
        """
        if pipe.is_initiator:
            protocol, rest = await multistream.choose(pipe.read, pipe.write, self._offered)
        else:
            protocol, rest = await multistream.answer(pipe.read, pipe.write, self._offered)
        pipe.unread(rest)
        handshake = self._noise if protocol == NOISE else await self._with_tls()
        return await handshake.secure(pipe, expected)

    async def _with_tls(self) -> Handshake:
        """TLS, loaded with the first connection that uses it: a node without one pays nothing."""
        async with self._making:
            if self._tls is None:
                self._tls = await on_disk(_load, self.key)
            return self._tls


async def begins(pipe: Pipe) -> bool:
    """Whether the other side begins, as who dials does: it wants something, behind the greeting that go-libp2p sends at
    once in either role. Raises `ConnectionLost`."""
    came = b""
    with trio.move_on_after(BEGINS):
        while len(came) <= multistream.GREETING:
            came += await pipe.read()
    pipe.unread(came)
    return len(came) > multistream.GREETING


def _load(key: NodeKey) -> Handshake:
    from fabstird.p2p.security.tls import Tls

    return Tls(key)
