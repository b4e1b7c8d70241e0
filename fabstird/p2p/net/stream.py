"""One stream of a link: bytes in both directions, on the protocol that both sides have negotiated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fabstird.p2p.muxer.muxed import Muxed
from fabstird.p2p.wire.errors import EndOfStream

if TYPE_CHECKING:
    from fabstird.p2p.net.link import Link


class Stream:
    """``protocol`` is None until one is negotiated. At most one task reads and one writes at a time."""

    __slots__ = ("_muxed", "handled", "link", "protocol")

    def __init__(self, muxed: Muxed, link: Link) -> None:
        self.link = link
        self.protocol: str | None = None
        self.handled = False  # the peer opened it, and a handler serves it
        self._muxed = muxed

    @property
    def peer_id(self) -> str:
        """The peer at the other end, as proven by Noise or TLS."""
        return self.link.peer_id

    @property
    def done(self) -> bool:
        """Both sides have ended, or it was reset."""
        return self._muxed.done

    @property
    def ended_there(self) -> bool:
        """The peer has closed its side. What it sent before may be unread."""
        return self._muxed.ended_there

    @property
    def ended_here(self) -> bool:
        """We have closed our side."""
        return self._muxed.ended_here

    @property
    def reset_code(self) -> int | None:
        """The code with which the peer reset it, 0 without one; None where the peer has not."""
        return self._muxed.reset_code

    @property
    def muxed(self) -> Muxed:
        """The muxer's stream, for code that passes bytes on without reading them."""
        return self._muxed

    @property
    def no_room(self) -> bool:
        """It was reset here, because there is no memory for more unread bytes."""
        return self._muxed.no_room

    @property
    def lost(self) -> bool:
        """The connection ended before the stream did."""
        return self._muxed.lost

    @property
    def buffered(self) -> int:
        """Bytes received that nobody has read."""
        return self._muxed.buffered

    @property
    def writable(self) -> int:
        """Bytes that can be written now without waiting for the peer."""
        return self._muxed.writable

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, at least one; None for all there are. A cancelled read takes nothing.

        Raises `EndOfStream` after the peer's last byte, `StreamReset`, `ConnectionLost`.
        """
        return await self._muxed.read(n)

    async def receive_some(self, n: int) -> bytes:
        """As `read`; empty after the peer's last byte."""
        try:
            return await self._muxed.read(n)
        except EndOfStream:
            return b""

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, waiting for the peer's window as long as the caller allows.

        Raises `StreamClosed`, `StreamReset`, `ConnectionLost`.
        """
        await self._muxed.write(data)

    async def write_last(self, data: bytes) -> None:
        """Send ``data`` and close our side, in one write where it is short."""
        await self._muxed.write_last(data)

    async def close_write(self) -> None:
        """Close our side; what the peer still sends can be read."""
        await self._muxed.close_write()

    async def reset(self, code: int = 0) -> None:
        """Reset it in both directions at once; ``code`` (32 bits) may tell the peer why."""
        await self._muxed.reset(code)

    def agree(self, protocol: str, rest: bytes) -> None:
        """A protocol is negotiated. From now on the window may grow while it is read quickly. ``rest`` was read too
        far."""
        self.protocol = protocol
        self._muxed.unread(rest)
        self._muxed.may_grow = True

    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""
        self._muxed.unread(data)

    def release(self) -> None:
        """The caller is done with it: the link no longer counts it."""
        self.link.streams.discard(self)
        self.link.used = trio.current_time()
