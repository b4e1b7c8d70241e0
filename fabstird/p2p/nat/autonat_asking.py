"""Asks one AutoNAT server, in the version that it speaks, whether it can reach an address of ours.

The answer of a version 1 server can only be believed. A version 2 server must prove it: it dials back on a new
connection, and sends a nonce that only it knows. Without that dial back, its answer confirms nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Literal

import trio

from fabstird.p2p.host.host import Host, Stream, StreamError
from fabstird.p2p.host.identify_message import printable
from fabstird.p2p.nat import autonat_messages as version_2
from fabstird.p2p.nat.autonat_messages import DIAL_BACK, DIAL_REQUEST, Dialled, Status
from fabstird.p2p.nat.autonat_service import AUTONAT
from fabstird.p2p.net.link import Link
from fabstird.p2p.wire import peer_ids
from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, parse, unpack
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.frames import frame, read_message, read_protobuf
from fabstird.p2p.wire.ips import group_of_host
from fabstird.p2p.wire.protobuf import AutoNatMessage as Message

ASK = 35.0  # seconds for a server to dial and to answer; go-libp2p's version 1 takes 15 of them for a dial that fails
MAX_MESSAGE = 4096  # bytes, in version 1
PAID = 600.0  # seconds until a server gets dial data again; each time costs up to 100 kB
NONCE_WITHIN = 5.0  # seconds for the nonce of a dial back, before or after the answer

# "refused": the server did not dial, or wanted more dial data than it gets; "unproven": it claims success, but its dial
# back has not arrived; "error": its answer was not understood
Outcome = Literal["reached", "failed", "refused", "unproven", "error"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer in version 1. ``reached`` is the address that it reached, without peer id."""

    status: int
    words: str
    reached: str | None


async def dial_back(host: Host, server: str, address: str) -> Answer:
    """Ask a connected peer, in version 1, to dial an address of ours. The caller sets the deadline. Raises
    `StreamError`."""
    peer = Message.PeerInfo(id=peer_ids.to_bytes(host.peer_id), addrs=[parse(address).packed])
    question = Message(type=Message.DIAL, dial=Message.Dial(peer=peer)).SerializeToString()
    async with host.stream(server, AUTONAT) as stream:
        await stream.write(frame(question, "uvarint"))
        answer = await read_protobuf(stream, Message, MAX_MESSAGE)
    if answer.type != Message.DIAL_RESPONSE or not answer.HasField("dialResponse"):
        raise StreamError("malformed response")
    response = answer.dialResponse
    return Answer(response.status, printable(response.statusText), _text(response.addr))


async def ask_1(host: Host, server: str, address: str) -> Outcome:
    """As `dial_back`, but returns the outcome."""
    answer = await dial_back(host, server, address)
    if answer.status == Message.OK:
        return "reached" if answer.reached == address else "refused"  # it dialled another address than the one given
    return "failed" if answer.status == Message.E_DIAL_ERROR else "refused"


def _text(packed: bytes) -> str | None:
    try:
        return str(unpack(packed).bare) if packed else None
    except AddressError:
        return None


@dataclass(slots=True)
class _Awaited:
    """An expected dial back to ``address``, on a connection opened after ``since``, a time of trio's clock."""

    address: Address
    since: float
    arrived: trio.Event = field(default_factory=trio.Event)

    def fits(self, link: Link) -> bool:
        """Whether a connection may have been dialled to that address. Its local host and port cannot be compared, since
        a NAT or a proxy changes them; a proxy may also remove TLS."""
        remote = link.pipe.remote
        if QUIC in (self.address.transport, remote.transport) and self.address.transport != remote.transport:
            return False
        is_new = link.direction == "inbound" and not link.relayed and link.opened >= self.since
        is_websocket = self.address.transport != "tcp"
        return is_new and remote.kind == self.address.kind and (remote.transport != "tcp") is is_websocket


class DialBacks:
    """Asks servers of version 2, and receives their dial backs, during one run of the node."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._awaited: dict[int, _Awaited] = {}  # by nonce
        self._paid: dict[str, float] = {}  # when a server last got dial data, by its IP address

    def start(self) -> None:
        """Accept dial backs until the host closes."""
        self._host.set_stream_handler(DIAL_BACK, self._on_dial_back)

    async def ask(self, server: str, address: str) -> Outcome:
        """Ask a connected peer to dial an address of ours. The caller sets the deadline. Raises `StreamError`."""
        nonce = secrets.randbits(64)
        awaited = self._awaited[nonce] = _Awaited(parse(address), trio.current_time())
        try:
            async with self._host.stream(server, DIAL_REQUEST) as stream:
                await stream.write(version_2.encode(version_2.DialRequest([awaited.address.packed], nonce)))
                answer = await self._answer(stream)
            if answer is None or answer.status in (Status.REQUEST_REJECTED, Status.DIAL_REFUSED, Status.INTERNAL_ERROR):
                return "refused"
            if answer.status != Status.OK or answer.index != 0:
                raise StreamError(f"its answer has status {answer.status} and is for address {answer.index}")
            if answer.dialled == Dialled.DIAL_ERROR and not awaited.arrived.is_set():
                return "failed"
            with trio.move_on_after(NONCE_WITHIN):
                await awaited.arrived.wait()
        finally:
            del self._awaited[nonce]
        if awaited.arrived.is_set():
            return "reached"
        if answer.dialled != Dialled.OK:
            raise StreamError(f"its dial ended with status {answer.dialled}")
        return "unproven"

    async def _answer(self, stream: Stream) -> version_2.DialResponse | None:
        """Read the answer, after sending dial data if the server asks for it. None if it asks again too soon."""
        message = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
        if isinstance(message, version_2.DialDataRequest):  # it sees us at another IP address than the one to dial
            if message.index != 0 or not 0 < message.size <= version_2.MOST_DATA:
                raise PeerError(f"it wants {message.size} bytes of dial data for address {message.index}")
            if not self._pays(group_of_host(stream.link.pipe.remote.host), trio.current_time()):
                return None
            pieces, rest = divmod(message.size, version_2.PIECE)
            for size in [version_2.PIECE] * pieces + [rest] * bool(rest):
                await stream.write(version_2.encode(version_2.DialDataResponse(bytes(size))))
            message = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
        if not isinstance(message, version_2.DialResponse):
            raise PeerError("it does not say how the dial went")
        return message

    def _pays(self, server: str, now: float) -> bool:
        """Whether a server gets dial data now; if so, note that."""
        self._paid = {paid: at for paid, at in self._paid.items() if at + PAID > now}
        return self._paid.setdefault(server, now) == now

    async def _on_dial_back(self, stream: Stream) -> None:
        """Receive a dial back, from any peer: a server may dial back under another peer id."""
        with trio.fail_after(NONCE_WITHIN):
            nonce = version_2.decode_dial_back(await read_message(stream, "uvarint", version_2.MAX_DIAL_BACK))
            awaited = self._awaited.get(nonce)
            if awaited is None or not awaited.fits(stream.link):
                raise PeerError("a dial back that was not asked for")
            awaited.arrived.set()
            await stream.write_last(version_2.DIAL_BACK_TAKEN)
