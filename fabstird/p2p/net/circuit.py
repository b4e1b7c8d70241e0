"""Circuit relay v2, the client's side (libp2p specification, relay/circuit-v2): streams to a relay that become raw
connections, and the messages exchanged first.

On its hop protocol, a relay is asked for a *reservation*, and to *connect* us to a peer that has one. On its stop
protocol it announces peers that want to reach us. The stream then is a raw connection like any other, with Noise and
yamux inside, so the relay can read nothing. Relays limit its duration and bytes, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import trio

from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.net.link import Link, cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.transport.pipe import Pipe, Progress
from fabstird.p2p.wire import multistream, peer_ids
from fabstird.p2p.wire.addresses import Address, AddressError, normal_peer_id, parse, unpack
from fabstird.p2p.wire.errors import ConnectionLost, EndOfStream, NetworkError, PeerError
from fabstird.p2p.wire.frames import frame, read_protobuf
from fabstird.p2p.wire.multistream import ProtocolNotSupported
from fabstird.p2p.wire.protobuf import HopMessage, Limit, RelayPeer, Status, StopMessage

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE = 4096  # bytes; as in go-libp2p
MAX_ADDRESSES = 16  # of a relay
NEARLY = 2.0  # seconds before the time limit within which an end is attributed to it

_WORDS: dict[int, str] = {
    Status.RESERVATION_REFUSED: "the relay refused a reservation",
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay has no more room",
    Status.PERMISSION_DENIED: "the relay does not allow it",
    Status.CONNECTION_FAILED: "the relay could not connect to the peer",
    Status.NO_RESERVATION: "the peer has no reservation at the relay",
    Status.MALFORMED_MESSAGE: "the relay did not understand the request",
    Status.UNEXPECTED_MESSAGE: "the relay did not expect the request",
}


class RelayError(Exception):
    """The relay refused or failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The relay's limits for one connection. ``duration`` is in seconds, ``data`` in bytes each way; None for no
    limit."""

    duration: int | None = None
    data: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation. ``expires`` is in seconds since the Unix epoch, by the relay's clock. Addresses are the relay's,
    without peer id."""

    expires: int
    addresses: tuple[Address, ...]
    bounds: Bounds


class RelayPipe(Pipe):
    """A stream to a relay, as the raw connection to the peer behind it."""

    def __init__(self, stream: Stream, remote: Address, bounds: Bounds, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self.remote = remote
        self.ended = None
        self.bounds = bounds
        self._stream = stream
        self._began = trio.current_time()
        self._received = self._sent = 0
        self._writing = 0  # bytes being written to the relay

    async def read(self, n: int | None = None) -> bytes:
        try:
            data = await self._stream.read(n)
        except NetworkError as error:
            raise self._lost("closed_by_peer" if isinstance(error, EndOfStream) else "reset") from error
        self._received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        self._writing = len(data)
        try:
            await self._stream.write(data)
        except NetworkError as error:
            raise self._lost("reset") from error
        finally:
            self._writing = 0
        self._sent += len(data)

    def unread(self, data: bytes) -> None:
        self._received -= len(data)
        self._stream.unread(data)

    def progress(self) -> Progress:
        return Progress(self._received, self._sent, self._writing)

    def trusted(self) -> None:
        pass

    async def finish(self) -> None:
        try:
            await self._stream.close_write()
        except NetworkError:
            pass  # the link to the relay ended first

    async def close(self) -> None:
        await cut(self._stream)
        self._stream.release()

    def _lost(self, how: str) -> ConnectionLost:
        """The error for a lost connection. A relay ends a connection over its limits like any other, but we can tell,
        since we know the limits."""
        lasted = trio.current_time() - self._began
        late = self.bounds.duration is not None and lasted >= self.bounds.duration - NEARLY
        much = self.bounds.data is not None and max(self._received, self._sent) >= self.bounds.data
        if self.ended is None:
            self.ended = "limit" if late or much else how
        return ConnectionLost(f"relayed connection {self.ended}")


# --------------------------------------------------------------------------------------------------------------------
# Asking a relay


async def reserve(link: Link) -> Reservation:
    """Ask the relay for a reservation. The caller sets the deadline.

    Raises `RelayError`.
    """
    stream, answer = await _ask(link, HopMessage(type=HopMessage.RESERVE))
    try:
        await stream.close_write()
    except NetworkError as error:
        raise RelayError(f"the relay broke off: {error}") from error
    finally:
        stream.release()
    if answer.status != Status.OK:
        raise RelayError(_words(answer.status))
    if not answer.HasField("reservation") or not answer.reservation.expire:
        raise RelayError("the relay accepted and gave no reservation")
    found = [_relay_address(packed) for packed in list(answer.reservation.addrs)[:MAX_ADDRESSES]]
    addresses = dict.fromkeys(address for address in found if address is not None)
    return Reservation(answer.reservation.expire, tuple(addresses), _bounds(answer.limit))


async def connect(link: Link, target: Address) -> RelayPipe:
    """Ask the relay to connect us to the peer that ``target`` names. The caller sets the deadline.

    Raises `DialError`.
    """
    assert target.peer_id is not None
    peer = RelayPeer(id=peer_ids.to_bytes(target.peer_id))
    try:
        stream, answer = await _ask(link, HopMessage(type=HopMessage.CONNECT, peer=peer))
    except RelayError as error:
        raise DialError(str(error)) from error
    if answer.status != Status.OK:
        await _drop(stream)
        raise DialError(_words(answer.status))
    return RelayPipe(stream, target, _bounds(answer.limit), initiator=True)


async def _ask(link: Link, question: HopMessage) -> tuple[Stream, HopMessage]:
    """Send a request to the relay; returns the stream and the answer. Raises `RelayError`."""
    try:
        stream = link.open_stream()
    except ConnectionLost as error:
        raise RelayError(f"no stream to the relay: {error}") from error
    try:
        stream.agree(HOP, await multistream.ask(stream.read, stream.write, HOP))
        await stream.write(frame(question.SerializeToString(), "uvarint"))
        answer = await read_protobuf(stream, HopMessage, MAX_MESSAGE)
        if answer.type != HopMessage.STATUS:
            raise PeerError("it did not answer")
    except ProtocolNotSupported as error:
        await _drop(stream)
        raise RelayError(f"{link.peer_id} is no relay") from error
    except NetworkError as error:
        await _drop(stream)
        raise RelayError(f"the relay broke off: {error}") from error
    except BaseException:
        await _drop(stream)
        raise
    return stream, answer


async def _drop(stream: Stream) -> None:
    await cut(stream)
    stream.release()


def _words(status: int) -> str:
    return _WORDS.get(status, f"the relay answered with status {status}")


def _bounds(limit: Limit) -> Bounds:
    return Bounds(limit.duration or None, limit.data or None)


def _relay_address(packed: bytes) -> Address | None:
    """An address of the relay that others can dial; None for an unsupported transport."""
    try:
        address = unpack(packed)
    except AddressError:
        return None
    return None if address.relay else address.bare


# --------------------------------------------------------------------------------------------------------------------
# Being asked by one


async def accept(stream: Stream) -> RelayPipe:
    """Read the announcement on a relay's stop stream, and accept the connection. The caller sets the deadline.

    Raises `NetworkError` for anything else.
    """
    message = await read_protobuf(stream, StopMessage, MAX_MESSAGE)
    if message.type != StopMessage.CONNECT or not message.peer.id:
        await refuse(stream, Status.MALFORMED_MESSAGE)
        raise PeerError("the stop message names no peer")
    try:
        peer_id = normal_peer_id(peer_ids.to_text(message.peer.id))
    except AddressError as error:
        await refuse(stream, Status.MALFORMED_MESSAGE)
        raise PeerError(f"the stop message names no peer: {error}") from error
    remote = replace(parse(stream.link.address), relay=stream.peer_id, peer_id=peer_id)
    await _say(stream, Status.OK)
    return RelayPipe(stream, remote, _bounds(message.limit), initiator=False)


async def refuse(stream: Stream, status: int = Status.PERMISSION_DENIED) -> None:
    """Refuse a connection that a relay announces."""
    await _say(stream, status)
    await stream.close_write()


async def _say(stream: Stream, status: int) -> None:
    answer = StopMessage(type=StopMessage.STATUS, status=status)  # type: ignore[arg-type]
    await stream.write(frame(answer.SerializeToString(), "uvarint"))
