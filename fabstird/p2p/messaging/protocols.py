"""The protocols of users: who handles which, for streams and messages alike.

A protocol is handled for one API connection, as long as that lives, across stops and starts of the node.
"""

from __future__ import annotations

from collections.abc import Callable

from fabstir_client.api.errors import InvalidParams
from fabstir_client.api.streams import (
    Framing,
    HandleParams,
    HandleResult,
    OpenedStream,
    ResetResult,
    StreamRecord,
    UnhandleResult,
)
from fabstird.config import StreamsConfig
from fabstird.metrics.stream_tally import StreamTally
from fabstird.p2p.host.host import Host
from fabstird.p2p.messaging.messages import MessageHandler, Messages, PartHandler
from fabstird.p2p.streams.asker import Asker
from fabstird.p2p.streams.handlers import MAX_PROTOCOLS, Handler, Handlers
from fabstird.p2p.streams.incoming import ACCEPT_TIMEOUT, BACKLOG, MAX_BACKLOG, StreamHandler, accept
from fabstird.p2p.streams.ledger import Ledger, Stream
from fabstird.p2p.streams.owner import Owner
from fabstird.p2p.streams.perf import PerfHandler

FRAMING: Framing = "uvarint"


class Protocols:
    """``limits`` are read at each decision; ``tally`` counts streams."""

    def __init__(self, limits: StreamsConfig, tally: StreamTally) -> None:
        self.handlers = Handlers(tally)
        self.messages = Messages(limits)
        self.ledger = Ledger(limits, tally)
        if limits.perf:
            self.handlers.add(PerfHandler())

    def attach(self, host: Host) -> None:
        """The node has started: handle the protocols on its host."""
        self.handlers.attach(host)

    def detach(self) -> None:
        """The node stops. The protocols stay registered for its next start."""
        self.handlers.detach()

    def handle(self, params: HandleParams, deadline: int, owner: Owner) -> tuple[HandleResult, Handler]:
        """Handle a protocol for ``owner``, until it is released.

        Args:
            params: The protocol, and how it is handled.
            deadline: How long, in ms, a peer's message may take.
            owner: The API connection.

        Returns:
            The result, and the handler, which notifies the owner of nothing before it has begun.

        Raises:
            InvalidParams: A parameter is wrong.
            InvalidState: The protocol is handled already.
            LimitExceeded: There are too many protocols.
        """
        shared = bool(params.shared)
        handler: StreamHandler | MessageHandler
        if params.mode == "stream":
            _not_for("streams", framing=params.framing, deadline=params.deadline)
            backlog = BACKLOG if params.backlog is None else params.backlog
            if not 0 < backlog <= MAX_BACKLOG:
                raise InvalidParams(f"backlog: must be 1 to {MAX_BACKLOG}, not {backlog}", param="backlog")
            wait = params.accept_timeout or ACCEPT_TIMEOUT
            self.handlers.check(params.protocol, owner, StreamHandler, shared=shared)
            handler = StreamHandler(params.protocol, owner, self.ledger, backlog, wait, shared=shared)
            result = HandleResult(
                protocol=params.protocol, mode="stream", backlog=backlog, accept_timeout=wait, shared=shared
            )
        else:
            _not_for("messages", backlog=params.backlog, acceptTimeout=params.accept_timeout)
            framing = params.framing or FRAMING
            self.handlers.check(params.protocol, owner, MessageHandler, shared=shared)
            handler = MessageHandler(params.protocol, owner, self.messages, framing, deadline, shared=shared)
            result = HandleResult(protocol=params.protocol, framing=framing, deadline=deadline, shared=shared)
        self.handlers.add(handler)
        return result, handler

    def answer(self, protocol: str, framing: Framing, deadline: int, reply: Callable[[str, bytes], bytes]) -> None:
        """Answer messages on a protocol by a part of the daemon. ``reply`` makes the answer from the peer's id and
        message; ``deadline`` is how long, in ms, a message may take. Raises as `handle`."""
        handler = PartHandler(protocol, self.messages, framing, deadline, reply)
        self.handlers.check(protocol, handler.owner, PartHandler, shared=False)
        self.handlers.add(handler)

    def unhandle(self, protocol: str, owner: Owner) -> UnhandleResult:
        """Stop handling a protocol; waiting requests are reset."""
        return UnhandleResult(protocol=protocol, handled=self.handlers.remove(protocol, owner))

    def release(self, owner: Owner) -> None:
        """The owner has gone: stop handling all its protocols. Open streams go on."""
        self.handlers.release(owner)

    def accept(self, stream_id: str, asker: Asker) -> tuple[Stream, OpenedStream]:
        """Accept a waiting stream; the caller joins it to something. Raises `InvalidState`, `NotOwner`."""
        stream = accept(self.ledger, stream_id, asker)
        return stream, opened(stream)

    async def reset(self, stream_id: str, asker: Asker) -> ResetResult:
        """Reset a stream. Raises `InvalidState`, `NotOwner`."""
        stream = self.ledger.find(stream_id, asker)
        done = stream is not None and await stream.drop("reset")
        return ResetResult(stream_id=stream_id, reset=done)

    def records(self, asker: Asker) -> list[StreamRecord]:
        return self.ledger.records(asker)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {
            "handledProtocols": (len(self.handlers), MAX_PROTOCOLS),
            "waitingRequests": self.messages.bounds(),
            "streams": (len(self.ledger), self.ledger.limits.max_open),
            "streamsPerPeer": (self.ledger.most_of_a_peer(), self.ledger.limits.max_open_per_peer),
        }


def opened(stream: Stream) -> OpenedStream:
    peer = stream.peer
    return OpenedStream(stream.id, peer.peer_id, stream.protocol, peer.address, peer.direction)


def _not_for(what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidParams(f"{name}: is not for {what}; leave it out", param=name)
