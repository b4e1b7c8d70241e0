"""A relay for others (libp2p specification, relay/circuit-v2, hop): off unless the operator says so.

Peers reserve a place here, and others ask for a circuit to them: two streams, joined. What goes over it is encrypted
between the two, limited in time and in bytes, and passes in small pieces, each read when the other side has taken the
one before: a relay holds no more than the windows of two streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import trio

from fabstird.config import RelayConfig
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host, Link, PeerInfo, Stream, StreamError
from fabstird.p2p.host.opening import open_stream
from fabstird.p2p.nat.relay_places import CIRCUITS, Places
from fabstird.p2p.net.circuit import HOP, MAX_MESSAGE, STOP
from fabstird.p2p.net.link import cut
from fabstird.p2p.wire import peer_ids
from fabstird.p2p.wire.addresses import MAX_PEER_ID, AddressError, normal_peer_id, pack
from fabstird.p2p.wire.errors import EndOfStream, NetworkError, PeerError
from fabstird.p2p.wire.frames import Undecodable, frame, read_protobuf
from fabstird.p2p.wire.protobuf import HopMessage, Limit, RelayPeer, Status, StopMessage

log = get_logger("p2p.relay")

ASKED = 10.0  # seconds for a peer to say what it wants
CALLED = 30.0  # seconds for the one that is called to take the circuit
PIECE = 16 * 1024  # bytes that are read at a time
ADDRESSES = 16  # of ours that a peer is told
WORTH = 10  # of a peer with a reservation, when connections are trimmed; as go-libp2p


def worth(places: Places, peer_id: str) -> int:
    """What a peer is worth to us, beside its tags, when connections are trimmed."""
    return WORTH if places.holds(peer_id, time.time()) else 0


class RelayService:
    """Of one run of the node."""

    def __init__(
        self,
        host: Host,
        places: Places,
        config: RelayConfig,
        counters: Counters,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._config = config
        self._counters = counters
        self._wall = wall
        self._places = places

    def start(self) -> None:
        """Answer peers from now on, until the host closes."""
        self._host.observe(self)
        self._host.set_stream_handler(HOP, self._asked)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {
            "relayServedReservations": (self._places.reservations, self._config.max_reservations),
            "relayServedCircuits": (self._places.circuits, CIRCUITS),
        }

    def connected(self, link: Link) -> None:
        pass

    def identified(self, link: Link, info: PeerInfo) -> None:
        pass

    def disconnected(self, link: Link) -> None:
        """A reservation is gone with the last connection over which it could be used."""
        if self._host.direct_link(link.peer_id) is None:
            self._places.release(link.peer_id)

    # ----------------------------------------------------------------------------------------------------------------
    # What peers ask

    async def _asked(self, stream: Stream) -> None:
        with trio.fail_after(ASKED):
            try:
                message = await read_protobuf(stream, HopMessage, MAX_MESSAGE)
            except Undecodable:
                await self._refuse(stream, "other", Status.MALFORMED_MESSAGE)
                raise
            if message.type == HopMessage.RESERVE:
                await self._reserve(stream)
                return
            if message.type != HopMessage.CONNECT:
                await self._refuse(stream, "other", Status.UNEXPECTED_MESSAGE)
                return
        await self._connect(stream, message)

    async def _reserve(self, stream: Stream) -> None:
        if stream.link.relayed:
            await self._refuse(stream, "reserve", Status.PERMISSION_DENIED)
            return
        expires = self._places.reserve(stream.peer_id, stream.link.pipe.remote.host, self._wall())
        if expires is None:
            await self._refuse(stream, "reserve", Status.RESERVATION_REFUSED)
            return
        answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
        answer.reservation.expire = expires
        answer.reservation.addrs.extend(self._addresses())
        answer.reservation.voucher = self._host.voucher(stream.peer_id, expires)
        if (limit := self._limit()) is not None:
            answer.limit.CopyFrom(limit)
        self._count("reserve", Status.OK)
        await stream.write_last(frame(answer.SerializeToString(), "uvarint"))

    def _addresses(self) -> list[bytes]:
        """Where others reach this relay; on loopback alone only where there is nothing else."""
        own = [text for text in self._host.announced_addresses() if "/p2p-circuit" not in text]
        others = [text for text in own if not text.startswith(("/ip4/127.", "/ip6/::1/"))]
        return [pack(text) for text in (others or own)[:ADDRESSES]]

    def _limit(self) -> Limit | None:
        seconds, data = -(-self._config.circuit_duration // 1000), self._config.circuit_bytes
        return Limit(duration=seconds, data=data) if seconds or data else None

    async def _connect(self, stream: Stream, message: HopMessage) -> None:
        try:
            if len(message.peer.id) > MAX_PEER_ID:
                raise AddressError("a peer id that is too long")
            target = normal_peer_id(peer_ids.to_text(message.peer.id))
        except AddressError:
            await self._refuse(stream, "connect", Status.MALFORMED_MESSAGE)
            return
        link, source = self._host.direct_link(target), stream.link.pipe.remote.host
        if stream.link.relayed or target == stream.peer_id:
            await self._refuse(stream, "connect", Status.PERMISSION_DENIED)
        elif link is None or not self._places.holds(target, self._wall()):
            await self._refuse(stream, "connect", Status.NO_RESERVATION)
        elif not self._places.begin(stream.peer_id, target, source):
            await self._refuse(stream, "connect", Status.RESOURCE_LIMIT_EXCEEDED)
        else:
            try:
                await self._circuit(stream, link)
            finally:
                self._places.end(stream.peer_id, target, source)

    async def _circuit(self, stream: Stream, link: Link) -> None:
        try:
            with trio.fail_after(CALLED):
                called = await self._call(stream.peer_id, link)
        except (StreamError, NetworkError, trio.TooSlowError) as error:
            log.debug("circuit not taken", source=stream.peer_id, target=link.peer_id, error=str(error))
            await self._refuse(stream, "connect", Status.CONNECTION_FAILED)
            return
        try:
            answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
            if (limit := self._limit()) is not None:
                answer.limit.CopyFrom(limit)
            self._count("connect", Status.OK)
            with trio.fail_after(ASKED):
                await stream.write(frame(answer.SerializeToString(), "uvarint"))
            await self._carry(stream, called)
        finally:
            for one in (stream, called):
                if not one.done:
                    await cut(one)
            called.release()

    async def _call(self, source: str, link: Link) -> Stream:
        """A stream to the peer that is called, which has agreed. Raises `StreamError`, `NetworkError`."""
        stream = await open_stream(link, [STOP])
        try:
            question = StopMessage(type=StopMessage.CONNECT, peer=RelayPeer(id=peer_ids.to_bytes(source)))
            if (limit := self._limit()) is not None:
                question.limit.CopyFrom(limit)
            await stream.write(frame(question.SerializeToString(), "uvarint"))
            answer = await read_protobuf(stream, StopMessage, MAX_MESSAGE)
            if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                raise PeerError("it did not take the circuit")
        except BaseException:
            await cut(stream)
            stream.release()
            raise
        return stream

    async def _carry(self, one: Stream, other: Stream) -> None:
        """Both ways, until both sides have ended, one is cut, or a limit is reached."""
        duration = self._config.circuit_duration / 1000 or float("inf")
        with trio.move_on_after(duration):
            async with trio.open_nursery() as nursery:
                for way in ((one, other), (other, one)):
                    nursery.start_soon(partial(self._pump, *way, nursery.cancel_scope))

    async def _pump(self, source: Stream, sink: Stream, circuit: trio.CancelScope) -> None:
        left = self._config.circuit_bytes or float("inf")
        try:
            while left > 0:
                data = await source.read(int(min(left, PIECE)))
                await sink.write(data)
                left -= len(data)
                self._counters.relay_bytes += len(data)
        except EndOfStream:
            try:
                await sink.close_write()
                return
            except NetworkError:
                pass  # the other side was quicker
        except NetworkError:
            pass  # how circuits end
        circuit.cancel()

    # ----------------------------------------------------------------------------------------------------------------

    async def _refuse(self, stream: Stream, kind: str, status: int) -> None:
        self._count(kind, status)
        answer = HopMessage(type=HopMessage.STATUS, status=status)  # type: ignore[arg-type]
        with trio.fail_after(ASKED):
            await stream.write_last(frame(answer.SerializeToString(), "uvarint"))

    def _count(self, kind: str, status: int) -> None:
        self._counters.relay_requests[kind, Status.Name(status).lower()] += 1  # type: ignore[arg-type]
