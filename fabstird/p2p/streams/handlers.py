"""Who answers peers on which protocol: connections of the API, and parts of the daemon that do it for them.

A protocol may have several handlers, if all of them say so; a peer's stream then goes to the next one that has room.
Handlers outlive the node: what is handled is answered at each start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from fabstir_client.api.errors import InvalidParams, InvalidState, LimitExceeded
from fabstir_client.api.streams import Notice
from fabstird.metrics.stream_tally import StreamTally
from fabstird.p2p.host.host import Host
from fabstird.p2p.muxer.frame import GATED
from fabstird.p2p.net.link import Link, cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.streams.owner import Owner
from fabstird.p2p.streams.peer_stream import BUSY
from fabstird.p2p.streams.protocol_names import checked_protocol

MAX_PROTOCOLS = 256  # handled at a time, by all connections together
MAX_SHARED = 64  # handlers of one protocol
OURS = ("/ipfs/", "/libp2p/", "/multistream/", "/noise", "/tls/", "/yamux/", "/mplex/", "/meshsub/", "/floodsub/")


class Handler(ABC):
    """One owner's handling of one protocol. What it tells before `begin` waits for that."""

    def __init__(self, protocol: str, owner: Owner, *, shared: bool) -> None:
        self.protocol = protocol
        self.owner = owner
        self.shared = shared
        self._early: list[Notice] | None = []

    def refusal(self, link: Link) -> int | None:
        """The error code with which another stream on it would be reset; None where it takes one now."""
        if not self.owner.admits(link.peer_id):
            return GATED
        return None if self.has_room(link) else BUSY

    @abstractmethod
    def has_room(self, link: Link) -> bool:
        """Whether it takes another stream of that peer now."""

    @property
    def crowded(self) -> bool:
        """It takes another stream only in the place of one that waits."""
        return False

    @abstractmethod
    async def serve(self, stream: Stream) -> None:
        """One stream of a peer, until it has ended. What it raises resets the stream."""

    @abstractmethod
    def end(self) -> None:
        """It handles no longer: what waits is reset."""

    def tell(self, notice: Notice) -> None:
        if self._early is None:
            self.owner.tell(notice)
        else:
            self._early.append(notice)

    def begin(self) -> None:
        """The owner knows that it handles the protocol."""
        early, self._early = self._early, None
        for notice in early or ():
            self.owner.tell(notice)


class Handlers:
    def __init__(self, tally: StreamTally) -> None:
        """``tally`` counts by the protocols that are handled."""
        self._tally = tally
        self._host: Host | None = None
        self._handlers: dict[str, list[Handler]] = {}  # of each protocol, whose turn is next first

    def __len__(self) -> int:
        return len(self._handlers)

    def __contains__(self, protocol: str) -> bool:
        return protocol in self._handlers

    def attach(self, host: Host) -> None:
        """A node has started."""
        self._host = host
        for protocol in self._handlers:
            self._answer(host, protocol)

    def detach(self) -> None:
        """The node stops."""
        self._host = None

    def check(self, protocol: str, owner: Owner, kind: type[Handler], *, shared: bool) -> None:
        """Whether the owner may handle it. Raises `InvalidParams` where nobody may, `InvalidState` where others handle
        it and do not share it, `LimitExceeded`."""
        checked_protocol(protocol)
        if protocol.startswith(OURS):
            raise InvalidParams(f'protocol: "{protocol}" belongs to libp2p itself', param="protocol")
        present = self._handlers.get(protocol, [])
        others = [one for one in present if one.owner is not owner]
        if others and not (shared and all(one.shared for one in others)):
            raise InvalidState(f"another connection handles {protocol}", protocol=protocol)
        if others and any(type(one) is not kind for one in others):
            raise InvalidState(f"another connection handles {protocol} in another mode", protocol=protocol)
        if not present and len(self._handlers) >= MAX_PROTOCOLS:
            raise _too_many(f"{MAX_PROTOCOLS} protocols are handled already", MAX_PROTOCOLS)
        if len(others) >= MAX_SHARED:
            raise _too_many(f"{MAX_SHARED} connections handle {protocol} already", MAX_SHARED)

    def add(self, handler: Handler) -> None:
        """After `check`; the owner's earlier handler of the protocol ends."""
        self._tally.handled(handler.protocol)
        present = self._handlers.setdefault(handler.protocol, [])
        for one in [one for one in present if one.owner is handler.owner]:
            present.remove(one)
            one.end()
        present.append(handler)
        if self._host is not None and len(present) == 1:
            self._answer(self._host, handler.protocol)

    def remove(self, protocol: str, owner: Owner) -> bool:
        """Whether the owner handled it."""
        present = self._handlers.get(protocol, [])
        handler = next((one for one in present if one.owner is owner), None)
        if handler is None:
            return False
        present.remove(handler)
        if not present:
            del self._handlers[protocol]
            if self._host is not None:
                self._host.remove_stream_handler(protocol)
        handler.end()
        return True

    def release(self, owner: Owner) -> None:
        """The owner is gone."""
        for protocol in [
            name for name, present in self._handlers.items() if any(one.owner is owner for one in present)
        ]:
            self.remove(protocol, owner)

    # ----------------------------------------------------------------------------------------------------------------

    def _answer(self, host: Host, protocol: str) -> None:
        async def serve(stream: Stream) -> None:
            handler = self._next(protocol, stream.link)
            if handler is None:  # others were quicker since it was asked
                await cut(stream, BUSY)
                return
            await handler.serve(stream)

        def refuse(link: Link) -> int | None:
            codes = [one.refusal(link) for one in self._handlers.get(protocol, ())]
            return None if None in codes else next(iter(codes), BUSY)

        host.set_stream_handler(protocol, serve, refuse)

    def _next(self, protocol: str, link: Link) -> Handler | None:
        present = self._handlers.get(protocol, [])
        ready = [one for one in present if one.refusal(link) is None]
        handler = next((one for one in ready if not one.crowded), next(iter(ready), None))
        if handler is not None:
            present.remove(handler)
            present.append(handler)
        return handler


def _too_many(words: str, limit: int) -> LimitExceeded:
    return LimitExceeded(words, limit=limit, current=limit, configKey=None)
