"""A peer's end of a stream, for code that passes bytes on: the only module that uses the muxer's stream for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import trio

from fabstir_client.api.streams import Outcome
from fabstir_client.api.types import Direction
from fabstird.p2p.muxer.frame import INITIAL_WINDOW, NO_ERROR, RESOURCE_LIMIT_EXCEEDED
from fabstird.p2p.net.link import cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.wire.errors import NetworkError

BUSY = RESOURCE_LIMIT_EXCEEDED


def give_up(stream: Stream) -> None:
    """Reset a stream whose place another peer gets; whatever uses it then ends. Its task is not cancelled: cancelling a
    write half-way would cost the peer its connection."""
    stream.muxed.cut_off(BUSY)


class PeerCut(Exception):
    """The stream was reset, by either side."""


class PeerStream:
    """``direction`` is outbound where it was opened here."""

    __slots__ = ("_muxed", "_stream", "address", "direction", "peer_id")

    def __init__(self, stream: Stream, direction: Direction) -> None:
        self.direction = direction
        self.peer_id = stream.peer_id
        self.address = stream.link.address
        self._stream = stream
        self._muxed = stream.muxed
        self._muxed.max_window = INITIAL_WINDOW  # bounds the unread bytes here

    @property
    def inbox(self) -> bytearray:
        """The bytes received and not taken. Only `took` may change it."""
        return self._muxed.inbox

    def took(self, size: int) -> None:
        """``size`` bytes of the inbox were passed on; the peer gets credit for them."""
        self._muxed.took(size)

    def watch(self, on_change: Callable[[], None] | None) -> None:
        """Call ``on_change`` when bytes have arrived, the peer has ended its side, or the stream was reset."""
        self._muxed.on_change = on_change

    @property
    def ended_there(self) -> bool:
        """The peer sends no more than the inbox holds."""
        return self._muxed.ended_there

    @property
    def cut(self) -> bool:
        """Nothing more is sent or received. Where the connection has ended, only once everything received was passed
        on."""
        return self._muxed.reset_seen or (self._muxed.lost and not self._muxed.inbox)

    def how_cut(self) -> Outcome:
        """Who has reset it. If nobody has, its connection is about to end."""
        if self._muxed.reset_code is not None:
            return "peer_reset"
        if self._muxed.no_room:
            return "limit"
        if self.cut and not self._muxed.lost:
            return "reset"
        reason = self._stream.link.reason or self._stream.link.pipe.ended
        return cast(Outcome, reason) if reason in ("stopped", "shutdown", "limit") else "peer_gone"

    def how_ended(self) -> Outcome:
        """Who ends it when it is no longer passed on: its connection, or the daemon."""
        return self.how_cut() if self.cut or self._stream.link.is_closed else "shutdown"

    async def room(self) -> int:
        """Wait until the peer accepts bytes; returns how many can be sent at once. Raises `PeerCut`."""
        try:
            return await self._muxed.room()
        except NetworkError as error:
            raise PeerCut from error

    async def write(self, data: bytes) -> None:
        """Send at most `room` bytes. Raises `PeerCut`."""
        with trio.CancelScope(shield=True):
            try:
                await self._muxed.write(data)
            except NetworkError as error:
                raise PeerCut from error

    async def end(self) -> None:
        """End our side. Raises `PeerCut`."""
        with trio.CancelScope(shield=True):
            try:
                await self._muxed.close_write()
            except NetworkError as error:
                raise PeerCut from error

    async def reset(self, code: int = NO_ERROR) -> None:
        """Reset it; ``code`` tells the peer why. Never raises, and takes only a moment."""
        await cut(self._stream, code)

    def forget(self) -> None:
        """It has ended."""
        self._muxed.on_change = None
        self._stream.release()
