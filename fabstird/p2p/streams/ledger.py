"""Every stream of a user's protocol: whose it is, how it stands, and for a minute how it ended. Decides who may open
another one."""

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
MAX_KEPT = 4096  # that have ended
FEW = 8  # streams of one opener, for which the last sixteenth of all places is


@dataclass(slots=True, eq=False)
class Stream:
    """One stream. Whoever has opened or accepted it joins it to a local end, or drops it."""

    peer: PeerStream
    protocol: str
    identity: object  # whose it is
    ledger: Ledger
    opener: Hashable  # by whom it counts: as in `Ledger.over`
    on_end: Callable[[Stream, Outcome], None] | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: StreamState = "open"
    outcome: Outcome | None = None
    opened_at: int = field(default_factory=lambda: int(time.time() * 1000))
    joint: Joint | None = None
    settled: trio.Event | None = None  # of one that waits: it was accepted, or has ended
    done: trio.Event | None = None  # of one that a peer has opened

    async def join(self, local: Local, first: bytes = b"") -> None:
        """Pass bytes on until it has ended; ``first`` was read from the local end already. Cancelled, it is cut."""
        if self.outcome is not None:  # between its opening and here
            local.close(self.outcome)
            return
        joint = self.joint = Joint(self.peer, local)
        try:
            await joint.run(first)
        finally:
            assert joint.outcome is not None
            self.ledger.ended(self, joint.outcome)

    async def drop(self, outcome: Outcome, code: int = NO_ERROR) -> bool:
        """Cut it; whether it had not ended yet. ``code`` tells the peer why."""
        if self.outcome is not None or (self.joint is not None and self.joint.outcome is not None):
            return False
        if self.joint is not None:
            self.joint.cut(outcome)
        else:
            self.ledger.ended(self, outcome)
            await self.peer.reset(code)
        return True

    def watch_waiting(self) -> None:
        """See the peer's reset while nobody has taken the stream."""

        def look() -> None:
            if self.peer.cut:
                self.ledger.ended(self, self.peer.how_cut())

        self.peer.watch(look)
        look()

    def take(self) -> None:
        """It waits no longer: the caller joins it to something, or drops it."""
        self.state = "open"
        self.peer.watch(None)
        if self.settled is not None:
            self.settled.set()

    def give_up(self) -> None:
        """It will not be accepted; who keeps it waiting resets it."""
        if self.settled is not None:
            self.settled.set()

    def lose(self) -> None:
        """The connection below it ends; does nothing where it has ended already."""
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
    """What is left of a stream."""

    at: float
    identity: object
    record: StreamRecord


class Ledger:
    """``limits`` are read at each decision; ``tally`` counts what has ended."""

    def __init__(self, limits: StreamsConfig, tally: StreamTally) -> None:
        self.limits = limits
        self._tally = tally
        self._live: dict[str, Stream] = {}
        self._ended: deque[_Ended] = deque(maxlen=MAX_KEPT)
        self._peers: Counter[str] = Counter()  # streams, and places reserved for them, by peer
        self._openers: Counter[Hashable] = Counter()  # the same ones by who has opened them

    def __len__(self) -> int:
        return self._peers.total()

    def most_of_a_peer(self) -> int:
        return max(self._peers.values(), default=0)

    def standing(self) -> tuple[int, int]:
        """How many are open, and how many wait to be accepted."""
        waiting = sum(stream.state == "waiting" for stream in self._live.values())
        return len(self._live) - waiting, waiting

    def moved(self) -> Counter[tuple[str, str]]:
        """Bytes since the daemon started, by protocol and way."""
        moved = Counter(self._tally.moved)
        for stream in self._live.values():
            label = self._tally.label(stream.protocol)
            moved[label, "in"] += stream.bytes_in
            moved[label, "out"] += stream.bytes_out
        return moved

    # ----------------------------------------------------------------------------------------------------------------
    # Places

    def over(self, peer_id: str, opener: Hashable) -> LimitExceeded | None:
        """Why there cannot be another stream with that peer. ``opener`` is who would open it: whoever calls, or the
        network that the peer is in, since peer ids cost nothing."""
        limits, total, own = self.limits, self._peers.total(), self._peers[peer_id]
        if total >= limits.max_open:
            return _over(f"{total} streams are open", limits.max_open, total, "streams.max_open")
        left = limits.max_open - min(limits.max_open // 16, limits.max_open - limits.max_open_per_peer)
        if total >= left and self._openers[opener] >= FEW:
            words = f"{total} streams are open, and the last places are for who has opened fewer than {FEW}"
            return _over(words, left, total, "streams.max_open")
        if own >= limits.max_open_per_peer:
            words = f"{own} streams with {peer_id} are open"
            return _over(words, limits.max_open_per_peer, own, "streams.max_open_per_peer")
        return None

    def reserve(self, peer_id: str, opener: Hashable) -> None:
        """A place for a stream that is on its way. Raises `LimitExceeded`."""
        if (over := self.over(peer_id, opener)) is not None:
            raise over
        self._peers[peer_id] += 1
        self._openers[opener] += 1

    def give_back(self, peer_id: str, opener: Hashable) -> None:
        """There will be no stream in the place."""
        self._peers[peer_id] -= 1
        if not self._peers[peer_id]:
            del self._peers[peer_id]
        self._openers[opener] -= 1
        if not self._openers[opener]:
            del self._openers[opener]

    def enter(self, stream: Stream) -> None:
        """It takes the place that was reserved for it."""
        self._live[stream.id] = stream

    def ended(self, stream: Stream, outcome: Outcome) -> None:
        """Note how it ended; the first outcome counts."""
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
    # Asking

    def find(self, stream_id: str, asker: Asker) -> Stream | None:
        """None for one that has ended. Raises `InvalidState` where there is none, `NotOwner`."""
        stream = self._live.get(stream_id)
        ended = stream or next((one for one in self._listed() if one.record.stream_id == stream_id), None)
        if ended is None:
            raise InvalidState(f'there is no stream "{stream_id[:64]}"', streamId=stream_id[:64])
        if not asker.may(ended.identity):
            raise NotOwner
        return stream

    def records(self, asker: Asker) -> list[StreamRecord]:
        """Those that the asker may see, the oldest first; ended ones for a minute."""
        ended = [one.record for one in self._listed() if asker.may(one.identity)]
        return ended + [stream.record() for stream in self._live.values() if asker.may(stream.identity)]

    def _listed(self) -> deque[_Ended]:
        due = trio.current_time() - KEPT
        while self._ended and self._ended[0].at < due:
            self._ended.popleft()
        return self._ended


def _over(words: str, limit: int, current: int, key: str) -> LimitExceeded:
    return LimitExceeded(f"{words}; {limit} are allowed", limit=limit, current=current, configKey=key)
