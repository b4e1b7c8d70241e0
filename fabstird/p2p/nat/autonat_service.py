"""AutoNAT for others (libp2p specifications, autonat v1 and v2): peers that ask are dialled back, so that they learn
whether others can reach them.

Where and how often is for `dial_back_policy` to say. A dial that fails is told when its time is over and not before:
how soon it failed would tell whether a port was closed, or nobody was there.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host, Stream, StreamError
from fabstird.p2p.host.opening import open_stream
from fabstird.p2p.nat import autonat_messages as version_2
from fabstird.p2p.nat.autonat_messages import DIAL_BACK, DIAL_REQUEST, Dialled, Status
from fabstird.p2p.nat.dial_back_policy import (
    DIAL_DATA,
    VERSION_1,
    VERSION_2,
    Questions,
    Window,
    at_the_asker,
    first_allowed,
    is_elsewhere,
    is_outward,
)
from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.net.link import Link, cut
from fabstird.p2p.net.probe import Prober
from fabstird.p2p.net.race import NoneConnected, race
from fabstird.p2p.wire import peer_ids
from fabstird.p2p.wire.addresses import QUIC, Address
from fabstird.p2p.wire.errors import NetworkError, PeerError
from fabstird.p2p.wire.frames import frame, read_message, read_protobuf
from fabstird.p2p.wire.ips import to_ip
from fabstird.p2p.wire.protobuf import AutoNatMessage as Message

log = get_logger("p2p.autonat")

AUTONAT = "/libp2p/autonat/1.0.0"
MAX_MESSAGE = 4096  # bytes of a question of version 1
ASKED = 10.0  # seconds for a peer to say what it wants
DIAL = 10.0  # seconds for a dial back, all addresses of version 1 together
TALK = 5.0  # seconds for telling the nonce
DATA = 15.0  # seconds for the data that has to come before a dial to elsewhere
LEAST_PIECE = 100  # bytes of it in one message, but for the last: many small ones would cost us most
SCATTER = 3.0  # seconds at most that such a dial waits: many askers at once must not make many dials at once


def listens_outward(host: Host) -> bool:
    """Whether a node can be reached from another machine at all, as far as it knows."""
    return is_outward(to_ip(listener.bound.host) for listener in host.swarm.bound)


class AutoNatService:
    """Of one run of the node. ``security`` as in `Handshakes`. Nobody is dialled by QUIC while the node listens on none
    itself: a stranger's word does not load it."""

    def __init__(self, host: Host, security: Sequence[str], counters: Counters) -> None:
        self._host = host
        self._counters = counters
        self._prober = Prober(host.swarm.links, security)
        self._quic = any(port.transport == QUIC for port in host.swarm.bound)
        self._first = Questions(VERSION_1)
        self._second = Questions(VERSION_2)
        self._elsewhere = Window(DIAL_DATA)
        self._chance = random.SystemRandom()

    def start(self) -> None:
        """Answer peers from now on, until the host closes."""
        self._host.set_stream_handler(AUTONAT, self._asked_1)
        self._host.set_stream_handler(DIAL_REQUEST, self._asked_2)

    def bounds(self) -> dict[str, tuple[int, int]]:
        under_way = self._first.under_way + self._second.under_way
        return {"autonatDialBacks": (under_way, VERSION_1.at_once + VERSION_2.at_once)}

    # ----------------------------------------------------------------------------------------------------------------
    # Version 1: whether any of the asker's addresses can be reached

    async def _asked_1(self, stream: Stream) -> None:
        with trio.fail_after(ASKED):
            message = await read_protobuf(stream, Message, MAX_MESSAGE)
        if message.type != Message.DIAL:
            raise PeerError("it asks for no dial")
        said = await self._dialled_1(stream, message)
        name = Message.ResponseStatus.Name(said.status).removeprefix("E_").lower()  # type: ignore[arg-type]
        self._counters.autonat_served["1", name] += 1
        answer = Message(type=Message.DIAL_RESPONSE)
        answer.dialResponse.status = said.status  # type: ignore[assignment]
        answer.dialResponse.statusText = said.words
        if said.reached is not None:
            answer.dialResponse.addr = said.reached.bare.packed
        with trio.fail_after(ASKED):
            await stream.write_last(frame(answer.SerializeToString(), "uvarint"))

    async def _dialled_1(self, stream: Stream, message: Message) -> _Said:
        if not message.HasField("dial") or not message.dial.HasField("peer"):
            return _Said(Message.E_BAD_REQUEST, "the question names no peer")
        asker, seen = message.dial.peer, stream.link.pipe.remote.host
        if asker.id and asker.id != peer_ids.to_bytes(stream.peer_id):
            return _Said(Message.E_BAD_REQUEST, "the question names another peer than the one that asks")
        if stream.link.relayed:
            return _Said(Message.E_DIAL_REFUSED, "who asks through a relay is seen nowhere")
        addresses = at_the_asker(asker.addrs, stream.peer_id, stream.link.pipe.remote, quic=self._quic)
        if not addresses:
            return _Said(Message.E_DIAL_REFUSED, "the asker is nowhere that could be dialled from here")
        if not self._first.begin(stream.peer_id, seen, trio.current_time()):
            return _Said(Message.E_DIAL_REFUSED, "too many dials")
        try:
            reached = await self._first_of(addresses)
        finally:
            self._first.end(stream.peer_id, seen)
        if reached is None:
            return _Said(Message.E_DIAL_ERROR, "no dial has got through")
        return _Said(Message.OK, "", reached)

    async def _first_of(self, addresses: Sequence[Address]) -> Address | None:
        """The address that was reached first; None where none was, once the time for it is over."""
        due = trio.current_time() + DIAL
        with trio.move_on_at(due):
            try:
                return (await race(addresses, self._reach)).address
            except NoneConnected as error:
                log.debug("dial back failed", error=str(error))
                await trio.sleep_until(due)
        return None

    async def _reach(self, address: Address) -> _Reached:
        await self._prober.probe(address)
        return _Reached(address)

    # ----------------------------------------------------------------------------------------------------------------
    # Version 2: whether one address can be reached, and the asker sees for itself that it was

    async def _asked_2(self, stream: Stream) -> None:
        seen, now = stream.link.pipe.remote.host, trio.current_time()
        if stream.link.relayed or not self._second.begin(stream.peer_id, seen, now):
            await self._answer_2(stream, version_2.DialResponse(Status.REQUEST_REJECTED))
            return
        try:
            await self._serve_2(stream, seen)
        finally:
            self._second.end(stream.peer_id, seen)

    async def _serve_2(self, stream: Stream, seen: str) -> None:
        with trio.fail_after(ASKED):
            question = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
        if not isinstance(question, version_2.DialRequest):
            raise PeerError("it asks for no dial")
        chosen = first_allowed(question.addresses, stream.peer_id, seen, _has_route, quic=self._quic)
        if chosen is None:
            await self._answer_2(stream, version_2.DialResponse(Status.DIAL_REFUSED))
            return
        index, address = chosen
        if is_elsewhere(address, seen):
            if not self._elsewhere.begin(trio.current_time()):
                await self._answer_2(stream, version_2.DialResponse(Status.REQUEST_REJECTED))
                return
            try:
                with trio.fail_after(DATA):
                    await self._paid(stream, index)
            except (NetworkError, trio.TooSlowError):
                self._counters.autonat_served["2", "dial_data_missing"] += 1
                raise
            await trio.sleep(self._chance.uniform(0, SCATTER))
        dialled = await self._dial_back(address, question.nonce)
        await self._answer_2(stream, version_2.DialResponse(Status.OK, index, dialled))

    async def _paid(self, stream: Stream, index: int) -> None:
        """The asker has sent more than a dial to somebody else costs us and them: nobody gains by having us dial."""
        left = self._chance.randint(version_2.LEAST_DATA, version_2.MOST_DATA)
        await stream.write(version_2.encode(version_2.DialDataRequest(index, left)))
        while left > 0:
            piece = version_2.decode(await read_message(stream, "uvarint", version_2.MAX_MESSAGE))
            if not isinstance(piece, version_2.DialDataResponse):
                raise PeerError("it sends something else than dial data")
            if len(piece.data) < min(left, LEAST_PIECE):
                raise PeerError("it sends dial data in pieces that are too small")
            left -= len(piece.data)

    async def _dial_back(self, address: Address, nonce: int) -> Dialled:
        due = trio.current_time() + DIAL
        dialled = Dialled.DIAL_ERROR

        async def tell(link: Link) -> None:
            nonlocal dialled
            dialled = Dialled.DIAL_BACK_ERROR
            await _tell_nonce(link, nonce)
            dialled = Dialled.OK

        try:
            with trio.fail_at(due):
                await self._prober.probe(address, tell)
        except (DialError, StreamError, NetworkError, trio.TooSlowError) as error:
            log.debug("dial back failed", address=str(address), error=str(error) or "timed out")
        if dialled is Dialled.DIAL_ERROR:
            await trio.sleep_until(due)
        return dialled

    async def _answer_2(self, stream: Stream, answer: version_2.DialResponse) -> None:
        kind = Dialled(answer.dialled) if answer.status == Status.OK else Status(answer.status)
        self._counters.autonat_served["2", kind.name.lower()] += 1
        with trio.fail_after(ASKED):
            await stream.write_last(version_2.encode(answer))


async def _tell_nonce(link: Link, nonce: int) -> None:
    """Raises `StreamError`, `NetworkError`, `TooSlowError`."""
    stream = await open_stream(link, [DIAL_BACK])
    try:
        with trio.fail_after(TALK):
            await stream.write_last(version_2.encode_dial_back(nonce))
        with trio.move_on_after(TALK):
            try:
                await stream.read(1)  # whatever comes, the nonce has come there: closed before, it might be lost
            except NetworkError:
                pass
    finally:
        if not stream.done:
            await cut(stream)
        stream.release()


def _has_route(address: Address) -> bool:
    """Whether this machine has a way to it: nothing is sent."""
    family = socket.AF_INET if address.kind == "ip4" else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address.host, address.port))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer of version 1."""

    status: int
    words: str
    reached: Address | None = None


@dataclass(frozen=True, slots=True)
class _Reached:
    """What is raced for: the connection itself has ended already."""

    address: Address

    def end(self, reason: str) -> None:
        pass
