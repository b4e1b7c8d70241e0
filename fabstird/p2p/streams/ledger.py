"""The record of all streams on users' protocols: their owners, their states, and for a minute how they ended. It also
decides who may open another stream."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import trio

from fabstir_client.api.errors import InvalidState, LimitExceeded
from fabstir_client.api.streams import Outcome, StreamRecord, StreamState
from fabstird.config import StreamsConfig
from fabstird.metrics.stream_tally import StreamTally
from fabstird.p2p.muxer.frame import NO_ERROR
from fabstird.p2p.streams.asker import Asker, NotOwner
from fabstird.p2p.streams.joint import Joint, Local
from fabstird.p2p.streams.peer_stream import PeerStream

KEPT = 60.0  # seconds that a stream is listed after its end
MAX_KEPT = 4096  # ended streams
FEW = 8  # the last sixteenth of all places is reserved for openers with fewer streams than this


@dataclass(slots=True, eq=False)
class Stream:
    """One stream. Whoever opened or accepted it must join it to a local end, or drop it."""

    peer: PeerStream
    protocol: str
    identity: object  # of its owner
    ledger: Ledger
    opener: Hashable  # against whose share it counts, as in `Ledger.over`
    on_end: Callable[[Stream, Outcome], None] | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: StreamState = "open"
    outcome: Outcome | None = None
    opened_at: int = field(default_factory=lambda: int(time.time() * 1000))
    joint: Joint | None = None
    settled: trio.Event | None = None  # inbound only: it no longer waits to be accepted
    done: trio.Event | None = None  # inbound only: it has ended

    async def join(self, local: Local, first: bytes = b"") -> None:
        """Pass bytes on until the stream ends. ``first`` was already read from the local end. Cancelling this resets
        the stream."""
        if self.outcome is not None:  # it ended after it was opened and before it was joined
            local.close(self.outcome)
            return
        joint = self.joint = Joint(self.peer, local)
        try:
            await joint.run(first)
        finally:
            assert joint.outcome is not None
            self.ledger.ended(self, joint.outcome)

    async def drop(self, outcome: Outcome, code: int = NO_ERROR) -> bool:
        """Reset the stream; returns False if it had already ended. ``code`` tells the peer why."""
        if self.outcome is not None or (self.joint is not None and self.joint.outcome is not None):
            return False
        if self.joint is not None:
            self.joint.cut(outcome)
        else:
            self.ledger.ended(self, outcome)
            await self.peer.reset(code)
        return True

    def watch_waiting(self) -> None:
        """Notice a reset by the peer while the stream waits to be accepted."""

        def on_change() -> None:
            if self.peer.cut:
                self.ledger.ended(self, self.peer.how_cut())

        self.peer.watch(on_change)
        on_change()

    def take(self) -> None:
        """Accept the waiting stream; the caller must then join or drop it."""
        self.state = "open"
        self.peer.watch(None)
        if self.settled is not None:
            self.settled.set()

    def give_up(self) -> None:
        """Stop waiting for it to be accepted; the handler that holds it then resets it."""
        if self.settled is not None:
            self.settled.set()

    def lose(self) -> None:
        """End the stream because its connection ends. Does nothing if it has already ended."""
        outcome = self.peer.how_cut()
        if self.joint is not None:
            self.joint.cut(outcome)
        else:
            self.ledger.ended(self, outcome)

    def record(self) -> StreamRecord:
        return StreamRecord(
            stream_id=self.id,
            peer_id=self.peer.peer_id,
            protocol=self.protocol,
            direction=self.peer.direction,
            state=self.state,
            opened_at=self.opened_at,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            outcome=self.outcome,
        )

    @property
    def bytes_in(self) -> int:
        return self.joint.bytes_in if self.joint is not None else 0

    @property
    def bytes_out(self) -> int:
        return self.joint.bytes_out if self.joint is not None else 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is kept of a stream that has ended, and when it did."""

    at: float
    identity: object
    record: StreamRecord


class Ledger:
    """All streams. ``limits`` are read at each decision; ``tally`` counts ended streams."""

    def __init__(self, limits: StreamsConfig, tally: StreamTally) -> None:
        self.limits = limits
        self._tally = tally
        self._live: dict[str, Stream] = {}
        self._ended: deque[_Ended] = deque(maxlen=MAX_KEPT)
        self._peers: Counter[str] = Counter()  # streams and reserved places, by peer
        self._openers: Counter[Hashable] = Counter()  # the same, by opener

    def __len__(self) -> int:
        return self._peers.total()

    def most_of_a_peer(self) -> int:
        """The number of streams with the peer that has the most."""
        return max(self._peers.values(), default=0)

    def open_and_waiting(self) -> tuple[int, int]:
        """How many streams are open, and how many are waiting to be accepted."""
        waiting = sum(stream.state == "waiting" for stream in self._live.values())
        return len(self._live) - waiting, waiting

    def moved(self) -> Counter[tuple[str, str]]:
        """Bytes passed on since the daemon started, by protocol and direction."""
        moved = Counter(self._tally.moved)
        for stream in self._live.values():
            label = self._tally.label(stream.protocol)
            moved[label, "in"] += stream.bytes_in
            moved[label, "out"] += stream.bytes_out
        return moved

    # ----------------------------------------------------------------------------------------------------------------
    # Places

    def over(self, peer_id: str, opener: Hashable) -> LimitExceeded | None:
        """The limit that another stream with this peer would exceed; None if there is room. ``opener`` is the caller
        that would open it, or the network of the peer that would: peer ids cost nothing, so networks share instead."""
        limits, total, with_peer = self.limits, self._peers.total(), self._peers[peer_id]
        if total >= limits.max_open:
            return _over(f"{total} streams are open", limits.max_open, total, "streams.max_open")
        unreserved = limits.max_open - min(limits.max_open // 16, limits.max_open - limits.max_open_per_peer)
        if total >= unreserved and self._openers[opener] >= FEW:
            words = f"{total} streams are open, and the rest are reserved for those who have opened fewer than {FEW}"
            return _over(words, unreserved, total, "streams.max_open")
        if with_peer >= limits.max_open_per_peer:
            words = f"{with_peer} streams with {peer_id} are open"
            return _over(words, limits.max_open_per_peer, with_peer, "streams.max_open_per_peer")
        return None

    def reserve(self, peer_id: str, opener: Hashable) -> None:
        """Reserve a place for a stream about to be opened. Raises `LimitExceeded`."""
        if (over := self.over(peer_id, opener)) is not None:
            raise over
        self._peers[peer_id] += 1
        self._openers[opener] += 1

    def give_back(self, peer_id: str, opener: Hashable) -> None:
        """Free a place: the stream has ended, or was never opened."""
        self._peers[peer_id] -= 1
        if not self._peers[peer_id]:
            del self._peers[peer_id]
        self._openers[opener] -= 1
        if not self._openers[opener]:
            del self._openers[opener]

    def enter(self, stream: Stream) -> None:
        """List a stream whose place was reserved."""
        self._live[stream.id] = stream

    def ended(self, stream: Stream, outcome: Outcome) -> None:
        """Record how a stream ended; the first outcome counts."""
        if stream.outcome is not None:
            return
        stream.outcome, stream.state = outcome, "ended"
        del self._live[stream.id]
        self.give_back(stream.peer.peer_id, stream.opener)
        stream.peer.forget()
        self._tally.note(stream.protocol, stream.peer.direction, outcome, stream.bytes_in, stream.bytes_out)
        self._ended.append(_Ended(trio.current_time(), stream.identity, stream.record()))
        if stream.on_end is not None:
            stream.on_end(stream, outcome)
        for event in (stream.settled, stream.done):
            if event is not None:
                event.set()

    # ----------------------------------------------------------------------------------------------------------------
    # Lookups

    def find(self, stream_id: str, asker: Asker) -> Stream | None:
        """A stream by id; None if it has ended. Raises `InvalidState` for an unknown id, `NotOwner`."""
        stream = self._live.get(stream_id)
        found = stream or next((ended for ended in self._recent() if ended.record.stream_id == stream_id), None)
        if found is None:
            raise InvalidState(f'there is no stream "{stream_id[:64]}"', streamId=stream_id[:64])
        if not asker.may(found.identity):
            raise NotOwner
        return stream

    def records(self, asker: Asker) -> list[StreamRecord]:
        """The streams that the asker may see, oldest first, including those that ended in the last minute."""
        recent = [ended.record for ended in self._recent() if asker.may(ended.identity)]
        return recent + [stream.record() for stream in self._live.values() if asker.may(stream.identity)]

    def _recent(self) -> deque[_Ended]:
        oldest = trio.current_time() - KEPT
        while self._ended and self._ended[0].at < oldest:
            self._ended.popleft()
        return self._ended


def _over(words: str, limit: int, current: int, key: str) -> LimitExceeded:
    return LimitExceeded(f"{words}; {limit} are allowed", limit=limit, current=current, configKey=key)
