"""Streams that peers open on users' protocols: announced to the handler's owner, and held until it accepts them."""

from __future__ import annotations

import time

import trio

from fabstir_client.api.errors import InvalidState, LimitExceeded
from fabstir_client.api.streams import Outcome, StreamClosed, StreamIncoming
from fabstird.config import LARGEST
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.stream import Stream as NetStream
from fabstird.p2p.streams.asker import Asker
from fabstird.p2p.streams.handlers import Handler
from fabstird.p2p.streams.ledger import Ledger, Stream
from fabstird.p2p.streams.owner import Owner
from fabstird.p2p.streams.peer_stream import BUSY, PeerStream
from fabstird.p2p.streams.places import Places, holder, network

BACKLOG = 16  # streams waiting to be accepted
MAX_BACKLOG = 1024
ACCEPT_TIMEOUT = 10000  # ms


class StreamHandler(Handler):
    """Notifies its owner of each incoming stream, and holds the stream until the owner accepts it or the time is up."""

    def __init__(
        self, protocol: str, owner: Owner, ledger: Ledger, backlog: int, accept_timeout: int, *, shared: bool
    ) -> None:
        super().__init__(protocol, owner, shared=shared)
        self.accept_timeout = accept_timeout
        self._ledger = ledger
        self._waiting: Places[Stream] = Places(backlog, Stream.give_up)

    @property
    def backlog(self) -> int:
        """How many streams may wait to be accepted at a time."""
        return self._waiting.count

    def has_room(self, link: Link) -> bool:
        return self._waiting.has_room(holder(link)) and self._ledger.over(link.peer_id, network(link)) is None

    @property
    def crowded(self) -> bool:
        return len(self._waiting) >= self.backlog

    async def serve(self, stream: NetStream) -> None:
        peer, opener = PeerStream(stream, "inbound"), network(stream.link)
        try:
            self._ledger.reserve(peer.peer_id, opener)
        except LimitExceeded:  # other streams took the room after `has_room` was asked
            await peer.reset(BUSY)
            return
        incoming = Stream(peer, self.protocol, self.owner.identity, self._ledger, opener, self._closed, state="waiting")
        incoming.settled, incoming.done = trio.Event(), trio.Event()
        self._ledger.enter(incoming)
        self._waiting.take(incoming, holder(stream.link))
        try:
            deadline = min(int(time.time() * 1000) + self.accept_timeout, LARGEST)
            self.tell(StreamIncoming(incoming.id, peer.peer_id, self.protocol, peer.address, deadline))
            incoming.watch_waiting()
            with trio.move_on_after(self.accept_timeout / 1000):
                await incoming.settled.wait()
            outcome = self._outcome_unaccepted(incoming)
            self._waiting.leave(incoming)
            if incoming.state == "waiting":
                await incoming.drop(outcome, BUSY)
            await incoming.done.wait()
        finally:
            self._waiting.leave(incoming)
            incoming.lose()

    def _outcome_unaccepted(self, stream: Stream) -> Outcome:
        """The outcome of a stream that has stopped waiting without being accepted."""
        if stream not in self._waiting:
            return "limit"  # another peer took its place
        assert stream.settled is not None
        return "reset" if stream.settled.is_set() else "timeout"

    def end(self) -> None:
        for stream in self._waiting.all():
            stream.give_up()

    def _closed(self, stream: Stream, outcome: Outcome) -> None:
        self.tell(StreamClosed(stream.id, outcome, stream.bytes_in, stream.bytes_out))


def accept(ledger: Ledger, stream_id: str, asker: Asker) -> Stream:
    """Take a waiting stream; the caller must join or drop it. Raises `InvalidState`, `NotOwner`."""
    stream = ledger.find(stream_id, asker)
    if stream is None or stream.state != "waiting":
        raise InvalidState(f"the stream {stream_id} is no longer waiting to be accepted", streamId=stream_id)
    stream.take()
    return stream
