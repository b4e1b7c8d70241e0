"""One connection to a peer: its properties, the streams on it, and why it ended."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

import trio

from fabstir_client.api.types import Direction
from fabstird.log.logger import get_logger
from fabstird.p2p.fence import Fence
from fabstird.p2p.muxer.muxed import Muxed, Muxing
from fabstird.p2p.muxer.pulse import Silence
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.security.secured import Secured
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import ConnectionLost, NetworkError

log = get_logger("p2p.link")

LAST_WORDS = 1.0  # seconds for handlers to read what a peer sent before it went
_BY_PEER = ("closed_by_peer", "reset", "timeout", "limit")
CUTTING = 0.25  # seconds to tell a peer that a stream is reset

Serve = Callable[[Stream], Awaitable[None]]


class Owner(Protocol):
    """What a link needs of its owner. ``serve`` handles a stream that the peer has opened."""

    fence: Fence
    serve: Serve
    stream_errors: int


class Link:
    """A connection to a peer that is up. When it ends, ``reason`` says why, in the words of ``peer:disconnect``."""

    __slots__ = (
        "_handler_ended",
        "_muxer",
        "_owner",
        "_secured",
        "address",
        "direction",
        "ending",
        "gone",
        "handshake",
        "has_left",
        "key_type",
        "muxer",
        "opened",
        "opened_at",
        "peer_id",
        "pipe",
        "reason",
        "relayed",
        "security",
        "streams",
        "transport",
        "used",
    )

    def __init__(self, pipe: Pipe, secured: Secured, muxer: Muxing, owner: Owner, address: Address) -> None:
        self._owner = owner
        self.pipe = pipe
        self._secured = secured
        self._muxer = muxer
        self.streams: set[Stream] = set()  # in use
        self._handler_ended: trio.lowlevel.ParkingLot | None = None  # made when somebody waits for a handler to end
        self.peer_id = secured.peer_id
        self.key_type = secured.key_type  # in go-libp2p's spelling: Ed25519, RSA, Secp256k1, ECDSA
        self.direction: Direction = "outbound" if pipe.is_initiator else "inbound"
        self.address = str(replace(address, peer_id=self.peer_id))
        self.relayed = address.relay is not None
        self.transport = "p2p-circuit" if address.relay else str(address.transport)
        self.security = secured.protocol
        self.muxer = muxer.name
        self.opened_at = int(time.time() * 1000)
        self.opened = self.used = trio.current_time()
        self.handshake = 0.0  # seconds from the first byte until the connection was up
        self.reason: str | None = None
        self.has_left = False  # `leave` has said goodbye
        self.ending = trio.Event()
        self.gone = trio.Event()

    @property
    def punched(self) -> bool:
        """Both sides dialled at once, so no other dial would reach its address."""
        return self.pipe.punched

    @property
    def fence(self) -> Fence:
        """The fence for tasks that use it."""
        return self._owner.fence

    @property
    def is_closed(self) -> bool:
        """It has ended or is ending."""
        return self.has_left or self.ending.is_set()

    @property
    def latency(self) -> float | None:
        """The smoothed round trip in milliseconds, once known."""
        rtt = self._muxer.rtt()
        return rtt * 1000 if rtt > 0 else None

    @property
    def goodbye(self) -> float:
        """The seconds that `part` may take; a peer that does not read gets no more."""
        return self._muxer.goodbye

    @property
    def buffered(self) -> int:
        """Bytes received on its streams that nobody has read."""
        return self._muxer.buffered

    @property
    def bytes_in(self) -> int:
        """On all its streams, the muxer's own bytes included."""
        return self._muxer.bytes_received

    @property
    def bytes_out(self) -> int:
        return self._muxer.bytes_sent

    def check(self) -> None:
        """Ping the peer now."""
        self._muxer.check()

    def end(self, reason: str) -> None:
        """Begin to end the connection; the first reason counts. Its owner does the rest."""
        if self.reason is None:
            self.reason = reason
        self.ending.set()

    def leave(self, reason: str) -> bool:
        """As `end` and `part` at once, as far as nothing has to wait: the link ends when the peer ends its side, or by
        `end`. False where that is not possible, and nothing was done."""
        if self.is_closed or self.pipe.ended is not None or not self._muxer.leave():
            return False
        self.has_left = True
        if self.reason is None:
            self.reason = reason
        return True

    def open_stream(self) -> Stream:
        """A stream without a protocol yet; whoever opens it must release it. Raises `ConnectionLost`."""
        return self._use(self._muxer.open_stream())

    async def run(self, nursery: trio.Nursery) -> None:
        """Read from the connection until it ends, and handle each stream that the peer opens, in ``nursery``. However
        this ends, it ends only the link."""
        reason = "closed_by_peer"
        try:
            await self._muxer.run(lambda stream: self.fence.spawn(nursery, "stream", self._serve, stream))
        except ConnectionLost:
            pass  # the usual end of a connection
        except Silence:
            reason = "dead"
        except NetworkError as error:
            reason = "error"
            log.debug("link failed", peer=self.peer_id, error=str(error))
        except Exception as error:  # noqa: BLE001 - ends this link only
            reason = "error"
            self.fence.note("connection", error, peer=self.peer_id)
        self.end(self.pipe.ended or reason)

    async def part(self) -> None:
        """End the connection properly: our goodbye, our end of the bytes, then the peer's. A socket closed with unread
        bytes is reset, and the goodbye lost. The caller sets the deadline."""
        if not self._muxer.finished.is_set():
            await self._muxer.say_goodbye()
            await self._secured.finish()
            await self._muxer.finished.wait()

    async def last_words(self) -> None:
        """The peer has gone: return when handlers have read what it sent before, or after a bounded time."""
        if not any(stream.handled for stream in self.streams):
            return
        self._handler_ended = trio.lowlevel.ParkingLot()
        with trio.move_on_after(LAST_WORDS):
            while self.reason in _BY_PEER and any(stream.handled and stream.buffered for stream in self.streams):
                await self._handler_ended.park()

    def _use(self, muxed: Muxed) -> Stream:
        stream = Stream(muxed, self)
        self.streams.add(stream)
        return stream

    async def _serve(self, muxed: Muxed) -> None:
        """Handle one stream, fenced: an error of its handler ends that stream only."""
        stream = self._use(muxed)
        stream.handled = True
        try:
            await self._owner.serve(stream)
        except (NetworkError, trio.TooSlowError) as error:  # the peer ended it early, fell silent, or sent garbage
            self._owner.stream_errors += 1
            log.debug("stream failed", peer=self.peer_id, protocol=stream.protocol, error=repr(error))
            await cut(stream)
        except Exception as error:  # noqa: BLE001 - ends this stream only
            self._owner.stream_errors += 1
            self.fence.note("stream", error, peer=self.peer_id, protocol=stream.protocol)
            await cut(stream)
        finally:
            stream.release()
            if self._handler_ended is not None:
                self._handler_ended.unpark_all()
            self._muxer.handled(muxed)


def latency(links: Iterable[Link]) -> float | None:
    """The lowest of the links' round trips, in milliseconds; None while none is known."""
    return min((link.latency for link in links if link.latency is not None), default=None)


async def cut(stream: Stream, code: int = 0) -> None:
    """Reset a stream, in whatever state its connection is; ``code`` tells the peer why. Bounded, and shielded from the
    caller's cancellation."""
    with trio.move_on_after(CUTTING, shield=True):
        try:
            await stream.reset(code)
        except Exception as error:  # noqa: BLE001 - the error that led here matters more
            log.debug("stream could not be reset", error=repr(error))
