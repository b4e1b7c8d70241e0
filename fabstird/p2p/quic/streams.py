"""The streams of one QUIC connection, and what they may keep: which there are, who handles them, who waits, and the
bytes that nobody has read, or that the peer has not acknowledged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import trio
from aioquic.quic.stream import QuicStream

from fabstird.p2p.budget import Scope
from fabstird.p2p.muxer.frame import RESOURCE_LIMIT_EXCEEDED
from fabstird.p2p.muxer.muxed import CapableConn, Changes, Muxed
from fabstird.p2p.quic.engine import MAX_LEFT, MAX_STREAMS, Engine
from fabstird.p2p.quic.identity import WINDOW
from fabstird.p2p.quic.stream import Stream
from fabstird.p2p.transport.pipe import Progress
from fabstird.p2p.wire.errors import ConnectionLost

OWED, OWED_AT_LEAST = 2 * 1024 * 1024, 64 * 1024  # bytes that one peer has not acknowledged: at most, and in any case
GROWTH = 8 * 1024 * 1024  # bytes by which the windows of one connection may grow together; as yamux
LINGER = 10.0  # seconds that a peer has to end its side of a stream, once its handler has ended; as yamux


class Owing(Protocol):
    """Where it is counted what all peers together do."""

    def opens_stream(self) -> None:
        """A peer has opened a stream."""

    def owe(self, size: int) -> None:
        """So many bytes more, or less, are held until peers acknowledge them."""

    def owes(self) -> bool:
        """There is room for more of them."""


class Carrying(CapableConn):
    """A connection, as far as its streams are concerned. ``engine`` is set by whoever makes it: the two need each
    other."""

    engine: Engine

    def __init__(self, owing: Owing) -> None:
        self._owing = owing
        self._memory: Scope | None = None
        self.streams: dict[int, Stream] = {}
        self._seen: set[int] = set()  # numbers of streams that the peer has opened, as long as the engine has them
        self._serve: Callable[[Muxed], object] | None = None
        self.early: list[Stream] = []  # streams that came before `run`
        self._inbound = 0
        self._handled = 0
        self._ending: dict[int, float] = {}  # streams whose handler has ended, and when the peer must have ended them
        self.waiting: set[Stream] = set()  # whose writer waits
        self.changes = Changes()
        self._unsaid = 0  # bytes read since the connection's window was looked at
        self._grown = 0
        self.owed = 0
        self._over = False
        self._pumping = False

    @abstractmethod
    def send_soon(self) -> None:
        """There may be something to send."""

    def grown(self, number: int, size: int) -> None:
        """As the engine's owner is told."""
        stream = self.stream_of(number)
        if stream is not None:
            stream.grown(size)

    def stream_of(self, number: int) -> Stream | None:
        """The stream of this number, which the peer may open by it; None for one that is gone or turned away."""
        if self._over:
            return None
        stream = self.streams.get(number)
        if stream is not None or number in self._seen or not self._is_theirs(number):
            return stream
        half = self.engine.stream(number)
        if half is None:
            return None
        self._seen.add(number)
        if len(self._seen) > 4 * MAX_STREAMS:
            self._seen = {one for one in self._seen if self.engine.stream(one) is not None}
        return self._opened(half, number)

    def _is_theirs(self, number: int) -> bool:
        """The peer opens streams of such a number (RFC 9000, 2.1)."""
        return number % 2 == (1 if self.engine.is_client else 0)

    def _opened(self, half: QuicStream, number: int) -> Stream | None:
        if self._inbound >= MAX_STREAMS:
            for one in [one for one in self.streams.values() if one.ended_here]:
                one.cut_off()
        stream = Stream(self, half, number)
        if max(self._inbound, self._handled) >= MAX_STREAMS:
            stream.cut_off(RESOURCE_LIMIT_EXCEEDED)
            return None
        self.streams[number] = stream
        self._inbound += 1
        self._handled += 1
        self._owing.opens_stream()
        if self._serve is not None:
            self._serve(stream)
        else:
            self.early.append(stream)
        return stream

    # ----------------------------------------------------------------------------------------------------------------
    # Streams

    def open_stream(self) -> Stream:
        """A new stream, of which its first bytes tell the peer. Raises `ConnectionLost`."""
        if self._over or self.engine.over:
            raise ConnectionLost("the connection is closed")
        if self.engine.streams_left >= MAX_LEFT:
            raise ConnectionLost("the peer does not end its streams")
        number, half = self.engine.open()
        stream = self.streams[number] = Stream(self, half, number)
        return stream

    def handled(self, muxed: Muxed) -> None:
        """The handler of a stream that the peer has opened is done with it. What nobody reads is not kept; a stream
        that neither has ended is reset, one that the peer does not end has `LINGER` for it."""
        self._handled -= 1
        stream = self.streams.get(muxed.number)
        if stream is None:
            return
        stream.discard()
        self.settle(stream)
        if stream.done:
            return
        if stream.ended_here:
            self._ending[stream.number] = trio.current_time() + LINGER
        else:
            stream.cut_off()

    def settle(self, stream: Stream) -> None:
        """Forget a stream on which nothing comes or goes any more; what was written of it is still sent."""
        if stream.done and self.streams.pop(stream.number, None) is not None:
            self._grown -= stream.extra_window
            self._ending.pop(stream.number, None)
            self.waiting.discard(stream)
            self._inbound -= self._is_theirs(stream.number)

    def waits(self, stream: Stream) -> None:
        self.waiting.add(stream)

    def wake_writers(self) -> None:
        if self.waiting:
            waiting, self.waiting = self.waiting, set()
            for stream in waiting:
                stream.took_some()

    def call_soon(self, stream: Muxed) -> None:
        self.changes.add(stream)
        if not self._pumping:
            self.changes.tell()

    # ----------------------------------------------------------------------------------------------------------------
    # Accounts

    @property
    def buffered(self) -> int:
        """Bytes that have come on its streams and that nobody has read."""
        return self.engine.unread

    def take(self, size: int) -> bool:
        assert self._memory is not None  # before it is there nothing is received
        if not self._memory.take(size):
            return False
        self.engine.unread += size
        return True

    def give(self, size: int) -> None:
        self.engine.unread -= size
        if self._memory is not None:
            self._memory.give(size)
        self._unsaid += size
        if self._unsaid >= WINDOW // 4:
            self._unsaid = 0
            self.send_soon()

    def grow(self, wanted: int) -> int:
        allowed = min(wanted, GROWTH - self._grown)
        self._grown += allowed
        return allowed

    def spare(self) -> int:
        """Bytes that may be written now, on all its streams together."""
        owed = self.engine.owed()
        self.count_owed(owed)
        return (OWED if self._owing.owes() else OWED_AT_LEAST) - owed

    def count_owed(self, size: int) -> None:
        self._owing.owe(size - self.owed)
        self.owed = size

    def rtt(self) -> float:
        return self.engine.rtt

    def progress(self) -> Progress:
        """Packets that were the peer's, and new: what anybody may send in its name is no sign of life."""
        return Progress(self.engine.received, 0, 0)

    def each_turn(self) -> None:
        now = trio.current_time()
        for number in [number for number, until in self._ending.items() if until <= now]:
            self._ending.pop(number, None)
            if (stream := self.streams.get(number)) is not None:
                stream.cut_off()
