"""One question to a server of AutoNAT, in the version that it speaks: whether it gets through to an address of ours.

What a server of version 1 says can only be believed. One of version 2 has to show it: its dial back brings a number
that only it was told, on a connection that was made for it, and without that its word confirms nothing.
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
MAX_MESSAGE = 4096  # bytes, of version 1
PAID = 600.0  # seconds for which a server that had dial data gets no more: 100 kB each time, from each that asks for it
TOLD = 5.0  # seconds for the number of a dial back, before or after the answer

# "refused": the server has not dialled, or not without more dial data than it gets; "unproven": it says that it got
# through, and its dial back has not come; "error": it has said nothing that could be understood
Outcome = Literal["reached", "failed", "refused", "unproven", "error"]


@dataclass(frozen=True, slots=True)
class Said:
    """A server's answer in version 1. ``reached``: the address that it got through to, without peer id."""

    status: int
    words: str
    reached: str | None


async def dial_back(host: Host, server: str, address: str) -> Said:
    """Ask a connected peer by version 1 to dial an address of ours. Raises `StreamError`; the caller brings the
    deadline."""
    peer = Message.PeerInfo(id=peer_ids.to_bytes(host.peer_id), addrs=[parse(address).packed])
    question = Message(type=Message.DIAL, dial=Message.Dial(peer=peer)).SerializeToString()
    async with host.stream(server, AUTONAT) as stream:
        await stream.write(frame(question, "uvarint"))
        answer = await read_protobuf(stream, Message, MAX_MESSAGE)
    if answer.type != Message.DIAL_RESPONSE or not answer.HasField("dialResponse"):
        raise StreamError("malformed response")
    response = answer.dialResponse
    return Said(response.status, printable(response.statusText), _text(response.addr))


async def ask_1(host: Host, server: str, address: str) -> Outcome:
    """As `dial_back`, and what follows from it."""
    said = await dial_back(host, server, address)
    if said.status == Message.OK:
        return "reached" if said.reached == address else "refused"  # it has tried others, whose ports we know
    return "failed" if said.status == Message.E_DIAL_ERROR else "refused"


def _text(packed: bytes) -> str | None:
    try:
        return str(unpack(packed).bare) if packed else None
    except AddressError:
        return None


@dataclass(slots=True)
class _Awaited:
    """A dial back. ``since``: the connection that brings it is younger, seconds of the clock."""

    address: Address
    since: float
    came: trio.Event = field(default_factory=trio.Event)

    def fits(self, link: Link) -> bool:
        """Whether somebody has dialled that address, as far as the connection tells. The host and the port at which it
        arrived are those behind a NAT, or a proxy, and the latter takes TLS away."""
        remote = link.pipe.remote
        if QUIC in (self.address.transport, remote.transport) and self.address.transport != remote.transport:
            return False
        made_for_it = link.direction == "inbound" and not link.relayed and link.opened >= self.since
        is_websocket = self.address.transport != "tcp"
        return made_for_it and remote.kind == self.address.kind and (remote.transport != "tcp") is is_websocket


class DialBacks:
    """Questions of version 2, of one run of the node."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._awaited: dict[int, _Awaited] = {}  # by nonce
        self._paid: dict[str, float] = {}  # when, by the server's IP address

    def start(self) -> None:
        """Take dial backs from now on, until the host closes."""
        self._host.set_stream_handler(DIAL_BACK, self._came)

    async def ask(self, server: str, address: str) -> Outcome:
        """Ask a connected peer to dial an address of ours. Raises `StreamError`; the caller brings the deadline."""
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
            if answer.dialled == Dialled.DIAL_ERROR and not awaited.came.is_set():
                return "failed"
            with trio.move_on_after(TOLD):
                await awaited.came.wait()
        finally:
            del self._awaited[nonce]
        if awaited.came.is_set():
            return "reached"
        if answer.dialled != Dialled.OK:
            raise StreamError(f"its dial ended with status {answer.dialled}")
        return "unproven"

    async def _answer(self, stream: Stream) -> version_2.DialResponse | None:
        """None where it wants dial data once more, before the next is due."""
        said = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
        if isinstance(said, version_2.DialDataRequest):  # we are seen at another address than the one to be dialled
            if said.index != 0 or not 0 < said.size <= version_2.MOST_DATA:
                raise PeerError(f"it wants {said.size} bytes of dial data for address {said.index}")
            if not self._pays(group_of_host(stream.link.pipe.remote.host), trio.current_time()):
                return None
            whole, rest = divmod(said.size, version_2.PIECE)
            for size in [version_2.PIECE] * whole + [rest] * bool(rest):
                await stream.write(version_2.encode(version_2.DialDataResponse(bytes(size))))
            said = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
        if not isinstance(said, version_2.DialResponse):
            raise PeerError("it does not say how the dial went")
        return said

    def _pays(self, server: str, now: float) -> bool:
        self._paid = {one: at for one, at in self._paid.items() if at + PAID > now}
        return self._paid.setdefault(server, now) == now

    async def _came(self, stream: Stream) -> None:
        """A dial back. Whoever makes it: a server may do so under another peer id."""
        with trio.fail_after(TOLD):
            nonce = version_2.decode_dial_back(await read_message(stream, "uvarint", version_2.MAX_DIAL_BACK))
            awaited = self._awaited.get(nonce)
            if awaited is None or not awaited.fits(stream.link):
                raise PeerError("a dial back that was not asked for")
            awaited.came.set()
            await stream.write_last(version_2.DIAL_BACK_TAKEN)
