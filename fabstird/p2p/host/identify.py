"""Identify, both sides (libp2p specification, identify): what this node says about itself, and what peers say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.fence import Fence
from fabstird.p2p.host import identify_message
from fabstird.p2p.host.identify_message import PeerInfo
from fabstird.p2p.host.opening import StreamError
from fabstird.p2p.host.streams import Streams
from fabstird.p2p.muxer.frame import RATE_LIMITED
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.wire.frames import frame

log = get_logger("p2p.identify")

ID = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
FRESH = 5.0  # seconds that our own message is reused; a new interface is announced after that
SETTLE = 0.3  # seconds from a change until peers are told
PUSHES_AT_ONCE, PUSH_EVERY = 8.0, 5.0  # pushes that a peer may send: this many at once, then one in so many seconds
DEADLINE = 10.0  # seconds for one exchange


class Network(Protocol):
    """What identify needs of the host."""

    def links(self, peer_id: str | None = None) -> list[Link]: ...


class Identify:
    """Asks peers, and answers them. ``addresses`` returns our own as bytes. ``learned`` is called when a peer says
    something new."""

    def __init__(
        self,
        key: NodeKey,
        agent: str,
        network: Network,
        streams: Streams,
        addresses: Callable[[], tuple[bytes, ...]],
        learned: Callable[[Link, PeerInfo], None],
        fence: Fence,
    ) -> None:
        self._fence = fence
        self.sent = self.received = self.pushed = 0  # messages; of those pushed, only peers'
        self._key = key
        self._agent = agent
        self._network = network
        self._streams = streams
        self._addresses = addresses
        self._learned = learned
        self._known: dict[str, PeerInfo] = {}  # by peer id; connected peers only
        self._answers: dict[str, int] = {}  # by peer id: the hash of its last answer, where `_known` is from that
        self._pushing = False  # a push is about to be sent
        self._pushes: dict[str, tuple[float, float]] = {}  # by peer id: how many a peer may send now, and since when
        self._changed = -math.inf  # when peers were last told of a change
        self._message: tuple[float, list[str], bytes] = -math.inf, [], b""  # valid until, protocols, message
        self._record: tuple[tuple[bytes, ...], bytes] = (), b""
        streams.handle(ID, self._answer)
        streams.handle(PUSH, self._accept_push)

    # ----------------------------------------------------------------------------------------------------------------
    # What peers say

    def info(self, peer_id: str) -> PeerInfo | None:
        """What a connected peer said; None until it has."""
        return self._known.get(peer_id)

    def observed(self) -> list[str]:
        """The addresses at which peers see us, without duplicates and without ``/p2p/``."""
        return list(dict.fromkeys(info.observed for info in self._known.values() if info.observed))

    def forget(self, peer_id: str) -> None:
        """The peer is no longer connected."""
        self._known.pop(peer_id, None)
        self._pushes.pop(peer_id, None)
        self._answers.pop(peer_id, None)

    async def ask(self, link: Link, *, again: bool = False) -> None:
        """Ask a peer who it is; one that does not answer stays connected.

        ``again`` negotiates in turns. rust-libp2p checks its idle limit only when it has nothing else to do, and a
        stream that opens and closes in between does not count (libp2p-swarm 0.45.1, src/connection.rs, `poll`); one
        still being negotiated does.
        """
        try:
            with trio.fail_after(DEADLINE):
                async with self._streams.open(link, ID, in_turns=again, bounded=True) as stream:
                    info = await self._read_answer(stream)
        except (StreamError, trio.TooSlowError) as error:
            log.debug("identify failed", peer=link.peer_id, error=str(error) or "timed out")
            return
        self.received += 1
        if info is not None:
            self._learn(link, info)
        # it may have asked before the change, when it was not known here yet
        if not again and self._changed >= link.opened:
            await self._push(link)

    async def _read_answer(self, stream: Stream) -> PeerInfo | None:
        """What a peer says; None where that is byte for byte what it said last time, which is not decoded again."""
        peer_id = stream.peer_id
        if not stream.ended_there:
            self._answers.pop(peer_id, None)
            return await identify_message.read(stream)
        answer = await stream.read()  # all of it has arrived
        said = hash(answer)
        if self._answers.get(peer_id) == said:
            return None
        info = identify_message.decode(answer)
        if not stream.link.is_closed:
            self._answers[peer_id] = said
        return info

    async def _accept_push(self, stream: Stream) -> None:
        """Handle a push: something about a connected peer has changed. A peer that pushes all the time is ignored,
        since each push costs an event."""
        if not self._may_push(stream.link):
            await stream.reset(RATE_LIMITED)
            return
        with trio.fail_after(DEADLINE):
            info = await identify_message.read(stream, self._known.get(stream.link.peer_id))
            self.pushed += 1
            self._answers.pop(stream.peer_id, None)
            self._learn(stream.link, info)
            await stream.close_write()

    def _may_push(self, link: Link) -> bool:
        if link.is_closed:  # its peer is being forgotten, and must not be remembered again
            return False
        now = trio.current_time()
        left, at = self._pushes.get(link.peer_id, (PUSHES_AT_ONCE, now))
        left = min(PUSHES_AT_ONCE, left + (now - at) / PUSH_EVERY)
        self._pushes[link.peer_id] = max(left - 1, 0.0), now
        return left >= 1

    def _learn(self, link: Link, info: PeerInfo) -> None:
        if link.is_closed:
            return
        known, self._known[link.peer_id] = self._known.get(link.peer_id), info
        # A repeated answer is mostly the same, and then causes no event.
        if known is None or replace(known, observed=None) != replace(info, observed=None):
            self._learned(link, info)

    # ----------------------------------------------------------------------------------------------------------------
    # What we say

    async def _answer(self, stream: Stream) -> None:
        message = self._own() + identify_message.encode_observed(stream.link.pipe.remote.packed)
        with trio.fail_after(DEADLINE):
            await stream.write_last(frame(message, "uvarint"))
            self.sent += 1

    def push_to_all(self, nursery: trio.Nursery | None) -> None:
        """Tell connected peers that our protocols or addresses have changed; one push for several changes in a row.
        ``nursery`` is None while the host is down."""
        self._changed = trio.current_time()
        if nursery is not None and not self._pushing:
            self._pushing = True
            self._fence.spawn(nursery, "identify", self._push_soon, nursery)

    async def _push_soon(self, nursery: trio.Nursery) -> None:
        await trio.sleep(SETTLE)
        self._pushing = False
        for peer_id in self._known:
            for link in self._network.links(peer_id)[-1:]:
                self._fence.spawn(nursery, "identify", self._push, link)

    async def _push(self, link: Link) -> None:
        """Push the complete message, as other implementations do."""
        info = self._known.get(link.peer_id)
        if info is None or PUSH not in info.protocols:
            return
        try:
            with trio.fail_after(DEADLINE):
                async with self._streams.open(link, PUSH) as stream:
                    await stream.write(frame(self._made(), "uvarint"))
        except (StreamError, trio.TooSlowError) as error:
            log.debug("identify push failed", peer=link.peer_id, error=str(error) or "timed out")

    def _own(self) -> bytes:
        """As `_made`, made anew when protocols have changed or it is old: with a wildcard address it asks the kernel
        for interfaces."""
        now, protocols = trio.current_time(), self._streams.protocols()
        until, made_for, message = self._message
        if now >= until or protocols != made_for:
            message = self._made()
            self._message = now + FRESH, protocols, message
        return message

    def _made(self) -> bytes:
        addresses = self._addresses()
        if not self._record[1] or set(self._record[0]) != set(addresses):
            self._record = addresses, self._key.sign_addresses(addresses)
        return identify_message.encode(self._key, self._agent, self._streams.protocols(), addresses, self._record[1])
