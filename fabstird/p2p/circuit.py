"""Circuit relay v2, the client's side (libp2p specification, relay/circuit-v2): streams of a relay that become raw
connections, and the messages that are exchanged before.

A relay is asked for a *reservation* and to *connect* us to whoever has one, on its hop protocol; it tells us of who
wants to reach us on its stop protocol. What follows on such a stream is a connection like any other, Noise and Yamux
inside: a relay can read nothing of it. Relays limit how long it may last and how much it may carry, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError, ProtocolNotSupportedError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, Status, StopMessage
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fabstird.p2p import multistream
from fabstird.p2p.addresses import Address, AddressError, normal_peer_id, parse
from fabstird.p2p.dialing import DialError
from fabstird.p2p.framing import frame, read_message
from fabstird.p2p.link import GOODBYE, Link, muxed
from fabstird.p2p.transport import Pipe

HOP = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
MAX_MESSAGE = 4096  # bytes; as go-libp2p
MAX_ADDRESSES = 16  # of a relay
NEARLY = 2.0  # seconds before its time is up at which an end is taken for the relay's limit

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
    """The relay did not do what it was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a relay allows one connection. ``duration`` in seconds, ``data`` in bytes each way; None for no limit."""

    duration: int | None = None
    data: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """``expires``: seconds since the Unix epoch, by the relay's clock. Addresses are the relay's own, bare."""

    expires: int
    addresses: tuple[Address, ...]
    bounds: Bounds


class RelayPipe(Pipe):
    """A stream of a link to a relay, as the raw connection to the peer behind it."""

    def __init__(self, stream: INetStream, link: Link, remote: Address, bounds: Bounds, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self.remote = remote
        self.ended: str | None = None
        self.bounds = bounds
        self._began = trio.current_time()
        self._carried = [0, 0]  # bytes received, sent
        self._through = stream
        self._link = link
        self._muxed = muxed(stream)

    async def read(self, n: int | None = None) -> bytes:
        try:
            data = await self._muxed.read(n)
        except MuxedStreamError as error:
            raise self._cut("closed_by_peer" if isinstance(error, MuxedStreamEOF) else "reset") from error
        self._carried[0] += len(data)
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except (MuxedStreamError, IOException) as error:
            raise self._cut("reset") from error
        self._carried[1] += len(data)

    def unread(self, data: bytes) -> None:
        self._carried[0] -= len(data)
        self._muxed.unread(data)

    async def finish(self) -> None:
        try:
            await self._muxed.close()
        except (MuxedStreamError, IOException):
            pass  # the link to the relay was quicker

    async def close(self) -> None:
        with trio.move_on_after(GOODBYE, shield=True):
            try:
                await self._muxed.reset()
            except (MuxedStreamError, IOException):
                pass  # the link to the relay is gone
        self._link.remove_stream(self._through)  # type: ignore[arg-type]

    def get_transport_addresses(self) -> list[Multiaddr]:
        return [self.remote.multiaddr]

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED

    def _cut(self, how: str) -> ConnectionClosedError:
        """The relay ends what is over its limits as it ends everything else; that it is, we know as well."""
        lasted = trio.current_time() - self._began
        late = self.bounds.duration is not None and lasted >= self.bounds.duration - NEARLY
        much = self.bounds.data is not None and max(self._carried) >= self.bounds.data
        if self.ended is None:
            self.ended = "limit" if late or much else how
        return ConnectionClosedError(f"relayed connection {self.ended}", transport="p2p-circuit")


# --------------------------------------------------------------------------------------------------------------------
# Asking a relay


async def reserve(link: Link) -> Reservation:
    """Ask the relay at the other end to let others reach us. The caller brings the deadline.

    Raises `RelayError`.
    """
    stream = await _open(link)
    try:
        await stream.write(frame(HopMessage(type=HopMessage.RESERVE).SerializeToString(), "uvarint"))
        answer = await _answer(stream)
        await stream.close()
    except (IOException, MuxedStreamError, DecodeError) as error:
        await _drop(link, stream)
        raise RelayError(f"the relay broke off: {error}") from error
    except BaseException:
        await _drop(link, stream)
        raise
    link.remove_stream(stream)
    if answer.status != Status.OK:
        raise RelayError(_words(answer.status))
    if not answer.HasField("reservation") or not answer.reservation.expire:
        raise RelayError("the relay accepted and gave no reservation")
    found = [_relay_address(packed) for packed in list(answer.reservation.addrs)[:MAX_ADDRESSES]]
    addresses = dict.fromkeys(address for address in found if address is not None)
    return Reservation(answer.reservation.expire, tuple(addresses), _bounds(answer.limit))


async def connect(link: Link, target: Address) -> RelayPipe:
    """Ask the relay at the other end to connect us to the peer that ``target`` names. The caller brings the deadline.

    Raises `DialError`.
    """
    assert target.peer_id is not None
    try:
        stream = await _open(link)
    except RelayError as error:
        raise DialError(str(error)) from error
    try:
        peer = PeerId(id=ID.from_base58(target.peer_id).to_bytes())
        await stream.write(frame(HopMessage(type=HopMessage.CONNECT, peer=peer).SerializeToString(), "uvarint"))
        answer = await _answer(stream)
        if answer.status != Status.OK:
            raise DialError(_words(answer.status))
    except (IOException, MuxedStreamError, DecodeError) as error:
        await _drop(link, stream)
        raise DialError(f"the relay broke off: {error}") from error
    except BaseException:
        await _drop(link, stream)
        raise
    return RelayPipe(stream, link, target, _bounds(answer.limit), initiator=True)


async def _open(link: Link) -> Any:
    try:
        stream = await link.new_stream()
    except Exception as error:
        raise RelayError(f"no stream to the relay: {error}") from error
    try:
        muxed(stream).unread(await multistream.ask(stream.read, stream.write, HOP))
    except ProtocolNotSupportedError as error:
        await _drop(link, stream)
        raise RelayError(f"{link.peer_id} is no relay") from error
    except (IOException, MuxedStreamError, MultiselectClientError) as error:
        await _drop(link, stream)
        raise RelayError(f"the relay broke off: {error}") from error
    except BaseException:
        await _drop(link, stream)
        raise
    stream.set_protocol(HOP)
    return stream


async def _answer(stream: INetStream) -> HopMessage:
    message = HopMessage()
    message.ParseFromString(await read_message(stream, "uvarint", MAX_MESSAGE))
    if message.type != HopMessage.STATUS:
        raise IOException("it did not answer")
    return message


async def _drop(link: Link, stream: Any) -> None:
    with trio.move_on_after(GOODBYE, shield=True):
        try:
            await muxed(stream).reset()
        except (IOException, MuxedStreamError):
            pass  # the link is gone
    link.remove_stream(stream)


def _words(status: int) -> str:
    return _WORDS.get(status, f"the relay answered with status {status}")


def _bounds(limit: Limit) -> Bounds:
    return Bounds(limit.duration or None, limit.data or None)


def _relay_address(packed: bytes) -> Address | None:
    """An address of the relay that others can dial; None for one that names no transport of ours."""
    try:
        address = parse(str(Multiaddr(packed)))
    except (AddressError, MultiaddrError, ValueError, LookupError):
        return None
    return None if address.relay else address.bare


# --------------------------------------------------------------------------------------------------------------------
# Being asked by one


async def accept(stream: INetStream, link: Link) -> RelayPipe:
    """A relay's stop stream: who wants to reach us, and our consent. The caller brings the deadline.

    Raises `IOException`, of whatever is no such message.
    """
    message = StopMessage()
    try:
        message.ParseFromString(await read_message(stream, "uvarint", MAX_MESSAGE))
    except DecodeError as error:
        raise IOException(f"the stop message cannot be decoded: {error}") from error
    if message.type != StopMessage.CONNECT or not message.peer.id:
        await refuse(stream, Status.MALFORMED_MESSAGE)
        raise IOException("the stop message names no peer")
    try:
        peer_id = normal_peer_id(ID(message.peer.id).to_base58())
    except AddressError as error:
        await refuse(stream, Status.MALFORMED_MESSAGE)
        raise IOException(f"the stop message names no peer: {error}") from error
    remote = replace(parse(link.address), relay=link.peer_id, peer_id=peer_id)
    await _say(stream, Status.OK)
    return RelayPipe(stream, link, remote, _bounds(message.limit), initiator=False)


async def refuse(stream: INetStream, status: int = Status.PERMISSION_DENIED) -> None:
    """We do not take what this relay brings."""
    await _say(stream, status)
    await stream.close()


async def _say(stream: INetStream, status: int) -> None:
    answer = StopMessage(type=StopMessage.STATUS, status=status)  # type: ignore[arg-type]
    await stream.write(frame(answer.SerializeToString(), "uvarint"))
