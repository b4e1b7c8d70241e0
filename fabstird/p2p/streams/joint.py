"""Joins a local socket and a peer's stream: bytes go in both directions, each only as fast as the other side takes
them.

Bytes from the peer are written to the socket by the task that reads the peer's connection, so nothing waits for a turn.
A task is started only while the socket takes no more. The socket is read when the peer has room. So at most one window
is held in each direction, and nothing is copied twice.
"""

from __future__ import annotations

from typing import Protocol

import trio

from fabstir_client.api.streams import Outcome
from fabstird.log.logger import get_logger
from fabstird.p2p.streams.peer_stream import PeerCut, PeerStream

log = get_logger("p2p.streams")

LOOK = 1.0  # seconds between two checks whether a program that sends no more is still there
READ = 64 * 1024  # bytes first read at once from the local end; once it sends that many, as much as the peer takes
LINGER = 60.0  # seconds that a peer has to end its side after the local program has gone


class Local(Protocol):
    """The local end. It raises OSError where the program has gone."""

    def take(self, data: memoryview) -> int:
        """Write as much as it takes now."""

    def read(self, most: int) -> bytes | None:
        """Up to ``most`` of the bytes received; empty at the end, None where there are none yet."""

    async def readable(self) -> None: ...

    async def writable(self) -> None: ...

    def end(self) -> None:
        """End the peer's side towards the program."""

    def gone(self) -> bool:
        """Whether the program has closed both directions, as far as that can be detected."""

    def close(self, outcome: Outcome) -> None:
        """Close it; after any outcome but ``ended`` so that the program sees a reset, where that is possible."""


class Joint:
    """`run` passes bytes on until both sides have ended, or one is reset. ``bytes_in`` came from the peer and were
    taken here; ``bytes_out`` went to the peer."""

    __slots__ = (
        "_draining",
        "_local",
        "_nursery",
        "_peer",
        "_peer_ended",
        "_scope",
        "bytes_in",
        "bytes_out",
        "outcome",
    )

    def __init__(self, peer: PeerStream, local: Local) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._peer = peer
        self._local = local
        self.outcome: Outcome | None = None
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._draining = False
        self._peer_ended = trio.Event()  # and everything that it sent was taken

    async def run(self, first: bytes = b"") -> Outcome:
        """Pass bytes on. ``first`` was already read from the local end. It raises only when cancelled, and has then
        reset both."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    self._peer.watch(self._changed)
                    self._changed()
                    await self._from_local(first)
                    await self._until_peer_ends()
                    self.cut("ended")
        finally:
            self._peer.watch(None)
            outcome = self.outcome = self.outcome or self._peer.how_ended()  # where it is cancelled
            if outcome != "ended" and not self._peer.cut:
                await self._peer.reset()
            self._local.close(outcome)
        return outcome

    def cut(self, outcome: Outcome) -> None:
        """End it now; the first outcome counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._scope.cancel()

    # ----------------------------------------------------------------------------------------------------------------
    # From the peer

    def _changed(self) -> None:
        """The peer has sent something, has ended its side, or the stream was reset."""
        if self._peer.cut:
            self.cut(self._peer.how_cut())
        elif not self._draining and self.outcome is None:
            self._pass_on()
            if self._peer.inbox:
                assert self._nursery is not None
                self._draining = True
                self._nursery.start_soon(self._drain)
            else:
                self._passed_on()

    def _pass_on(self) -> None:
        peer = self._peer
        try:
            while peer.inbox:
                with memoryview(peer.inbox) as data:
                    size = self._local.take(data)
                if not size:
                    return
                peer.took(size)
                self.bytes_in += size
        except OSError:
            self.cut("reset")

    async def _drain(self) -> None:
        """Write when the local end takes something again."""
        peer = self._peer
        try:
            while peer.inbox:
                await self._local.writable()
                self._pass_on()
        except (OSError, trio.ClosedResourceError):
            self.cut("reset")
        self._draining = False
        if not peer.inbox:
            self._passed_on()

    def _passed_on(self) -> None:
        """Everything received is with the local end: pass on the end of the peer's side, and end the stream."""
        if self._peer.ended_there:
            self._end_local()
        if self._peer.cut:
            self.cut(self._peer.how_cut())

    def _end_local(self) -> None:
        if not self._peer_ended.is_set():
            self._peer_ended.set()
            try:
                self._local.end()
            except OSError:
                pass  # it has gone, and everything was written

    # ----------------------------------------------------------------------------------------------------------------
    # From the local end

    async def _from_local(self, first: bytes) -> None:
        peer, local = self._peer, self._local
        bulk = False
        try:
            while True:
                room = await peer.room()
                if first:
                    data, first = first[:room], first[room:]
                else:
                    await local.readable()
                    found = local.read(room if bulk else min(room, READ))
                    if found is None:
                        continue
                    if not found:
                        break
                    data, bulk = found, len(found) >= READ
                await peer.write(data)
                self.bytes_out += len(data)
            await peer.end()
        except (OSError, trio.ClosedResourceError):
            self.cut("reset")
        except PeerCut:
            self.cut(peer.how_cut())

    async def _until_peer_ends(self) -> None:
        """Wait for the peer's end. A program that has closed is noticed only when the peer sends something, so this
        wait is bounded."""
        gone_at: float | None = None
        while not self._peer_ended.is_set():
            with trio.move_on_after(LOOK):
                await self._peer_ended.wait()
                return
            if gone_at is None and self._local.gone():
                gone_at = trio.current_time()
            if gone_at is not None and trio.current_time() > gone_at + LINGER:
                self.cut("reset")
