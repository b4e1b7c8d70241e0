"""Which handlers answer peers on which protocol: API connections, and parts of the daemon.

A protocol may have several handlers if all of them agree to share it; each stream from a peer goes to the next one that
has room. Handlers outlive the node: they are registered again at each start.
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

MAX_PROTOCOLS = 256  # handled at a time, over all connections
MAX_SHARED = 64  # handlers of one protocol
OURS = ("/ipfs/", "/libp2p/", "/multistream/", "/noise", "/tls/", "/yamux/", "/mplex/", "/meshsub/", "/floodsub/")


class Handler(ABC):
    """One owner's handler of one protocol. Notices to the owner are held back until `begin`."""

    def __init__(self, protocol: str, owner: Owner, *, shared: bool) -> None:
        self.protocol = protocol
        self.owner = owner
        self.shared = shared
        self._early: list[Notice] | None = []

    def refusal(self, link: Link) -> int | None:
        """The error code with which a new stream from this link would be reset; None if it would be accepted."""
        if not self.owner.admits(link.peer_id):
            return GATED
        return None if self.has_room(link) else BUSY

    @abstractmethod
    def has_room(self, link: Link) -> bool:
        """Whether it can take another stream from this peer now."""

    @property
    def crowded(self) -> bool:
        """Whether a new stream would take the place of one that is waiting."""
        return False

    @abstractmethod
    async def serve(self, stream: Stream) -> None:
        """Serve one stream from a peer until it ends. An exception resets the stream."""

    @abstractmethod
    def end(self) -> None:
        """Stop handling the protocol, and reset the streams that are waiting."""

    def tell(self, notice: Notice) -> None:
        if self._early is None:
            self.owner.tell(notice)
        else:
            self._early.append(notice)

    def begin(self) -> None:
        """Send the notices held back: the owner has been told that it handles the protocol."""
        early, self._early = self._early, None
        for notice in early or ():
            self.owner.tell(notice)


class Handlers:
    """The handlers of all protocols, and their registration with the running host."""

    def __init__(self, tally: StreamTally) -> None:
        """``tally`` learns which protocols have been handled; only these get their own label in metrics."""
        self._tally = tally
        self._host: Host | None = None
        self._handlers: dict[str, list[Handler]] = {}  # by protocol; the first in each list is next in turn

    def __len__(self) -> int:
        return len(self._handlers)

    def __contains__(self, protocol: str) -> bool:
        return protocol in self._handlers

    def attach(self, host: Host) -> None:
        """Register all protocols with the host of a node that has started."""
        self._host = host
        for protocol in self._handlers:
            self._register(host, protocol)

    def detach(self) -> None:
        """Forget the host: the node is stopping."""
        self._host = None

    def check(self, protocol: str, owner: Owner, kind: type[Handler], *, shared: bool) -> None:
        """Check that ``owner`` may handle ``protocol``.

        Raises:
            InvalidParams: nobody may handle it.
            InvalidState: others handle it and do not share it, or handle it in another mode.
            LimitExceeded: there are too many protocols or handlers.
        """
        checked_protocol(protocol)
        if protocol.startswith(OURS):
            raise InvalidParams(f'protocol: "{protocol}" belongs to libp2p itself', param="protocol")
        present = self._handlers.get(protocol, [])
        others = [handler for handler in present if handler.owner is not owner]
        if others and not (shared and all(handler.shared for handler in others)):
            raise InvalidState(f"another connection handles {protocol}", protocol=protocol)
        if others and any(type(handler) is not kind for handler in others):
            raise InvalidState(f"another connection handles {protocol} in another mode", protocol=protocol)
        if not present and len(self._handlers) >= MAX_PROTOCOLS:
            raise _too_many(f"{MAX_PROTOCOLS} protocols are already handled", MAX_PROTOCOLS)
        if len(others) >= MAX_SHARED:
            raise _too_many(f"{MAX_SHARED} connections already handle {protocol}", MAX_SHARED)

    def add(self, handler: Handler) -> None:
        """Add a handler that `check` has allowed. It replaces the owner's earlier handler of the protocol."""
        self._tally.handled(handler.protocol)
        present = self._handlers.setdefault(handler.protocol, [])
        for earlier in [other for other in present if other.owner is handler.owner]:
            present.remove(earlier)
            earlier.end()
        present.append(handler)
        if self._host is not None and len(present) == 1:
            self._register(self._host, handler.protocol)

    def remove(self, protocol: str, owner: Owner) -> bool:
        """End the owner's handler; returns False if it has none."""
        present = self._handlers.get(protocol, [])
        handler = next((handler for handler in present if handler.owner is owner), None)
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
        """End all handlers of an owner that is gone."""
        for protocol in list(self._handlers):
            self.remove(protocol, owner)

    # ----------------------------------------------------------------------------------------------------------------

    def _register(self, host: Host, protocol: str) -> None:
        async def serve(stream: Stream) -> None:
            handler = self._next(protocol, stream.link)
            if handler is None:  # other streams took the room after `refuse` was asked
                await cut(stream, BUSY)
                return
            await handler.serve(stream)

        def refuse(link: Link) -> int | None:
            codes = [handler.refusal(link) for handler in self._handlers.get(protocol, ())]
            return None if None in codes else next(iter(codes), BUSY)

        host.set_stream_handler(protocol, serve, refuse)

    def _next(self, protocol: str, link: Link) -> Handler | None:
        """The handler for a new stream: the next in turn that is not crowded, else the next that accepts it. It then
        goes to the end of the list."""
        present = self._handlers.get(protocol, [])
        ready = [handler for handler in present if handler.refusal(link) is None]
        handler = next((handler for handler in ready if not handler.crowded), next(iter(ready), None))
        if handler is not None:
            present.remove(handler)
            present.append(handler)
        return handler


def _too_many(words: str, limit: int) -> LimitExceeded:
    return LimitExceeded(words, limit=limit, current=limit, configKey=None)
