"""Messages on users' own protocols: requests to peers, and requests from peers.

A request from a peer waits for its answer by an API connection, bounded in number, size and age; otherwise its stream
is reset. A request that a part of the daemon answers does not wait. When all places are taken, a peer with fewer
requests gets a place from the peer with most, which is told ``busy``.
"""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from fabstir_client.api.errors import DeadlineExceeded, FabstirError, InvalidState, TooLarge
from fabstir_client.api.streams import (
    Framing,
    Outcome,
    ProtocolEnded,
    ProtocolRequest,
    ReadResult,
    RespondResult,
)
from fabstird.config import LARGEST, StreamsConfig
from fabstird.p2p.base64_text import to_base64
from fabstird.p2p.host.host import Host
from fabstird.p2p.host.opening import ProtocolUnsupported, StreamBusy, StreamError, StreamRefused
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.peers.commands import Commands
from fabstird.p2p.streams.asker import Asker, NotOwner
from fabstird.p2p.streams.handlers import Handler
from fabstird.p2p.streams.opening import stream_failed
from fabstird.p2p.streams.owner import Owner, Part
from fabstird.p2p.streams.peer_stream import PeerStream, give_up
from fabstird.p2p.streams.places import Places, holder
from fabstird.p2p.streams.protocol_names import checked_protocol
from fabstird.p2p.wire.errors import NetworkError
from fabstird.p2p.wire.frames import FrameTooLarge, frame, read_message

INLINE = 4096  # bytes of a request that its notification carries; larger ones are read by id
PER_PEER = 8  # waiting requests of one peer
WRITE = 10.0  # seconds for the peer to read an answer
NOT_HANDLED = "the protocol is handled no longer"
REST = 1.0  # seconds for a peer to read the rest of a request that it has already answered


class Refused(NetworkError):
    """A peer's request gets no answer; its stream is reset."""


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that waits for its answer. Once ``done``, ``failure`` says why it got none."""

    peer_id: str
    protocol: str
    data: bytes
    identity: object  # the connection that may answer it
    answer: bytes | None = None
    settled: trio.Event = field(default_factory=trio.Event)  # it was answered, or no longer can be
    done: trio.Event = field(default_factory=trio.Event)
    failure: str | None = None


class Messages:
    """Waiting requests of peers. ``limits`` are read at each decision."""

    def __init__(self, limits: StreamsConfig) -> None:
        self.limits = limits
        self._pending: dict[str, _Pending] = {}
        self._places: Places[Stream] = Places(limits.max_waiting, give_up)  # streams being read, or waiting

    def has_room(self, link: Link) -> bool:
        self._places.count = self.limits.max_waiting
        return self._places.of(link.peer_id) < PER_PEER and self._places.has_room(holder(link))

    @contextmanager
    def place(self, stream: Stream) -> Iterator[None]:
        """Hold a place for one request of a peer. If another peer gets the place, the stream is cut."""
        self._places.take(stream, holder(stream.link))
        try:
            yield
        finally:
            self._places.leave(stream)

    def has_lost(self, stream: Stream) -> bool:
        """Whether another peer got the stream's place."""
        return stream not in self._places

    @contextmanager
    def waiting(self, pending: _Pending) -> Iterator[str]:
        """Let the request be read and answered under an id."""
        request_id = secrets.token_hex(8)
        self._pending[request_id] = pending
        try:
            yield request_id
        finally:
            del self._pending[request_id]
            pending.done.set()

    def read(self, request_id: str, asker: Asker) -> ReadResult:
        """A waiting request. Raises `InvalidState`, `NotOwner`."""
        pending = self._waiting(request_id, asker)
        return ReadResult(
            request_id=request_id,
            peer_id=pending.peer_id,
            protocol=pending.protocol,
            data=to_base64(pending.data),
            size=len(pending.data),
        )

    async def respond(self, request_id: str, data: bytes, asker: Asker) -> RespondResult:
        """Answer a request; returns once the peer's side has taken the complete answer. Raises `InvalidState` where it
        no longer waits, `NotOwner`, `TooLarge`."""
        pending = self._waiting(request_id, asker)
        check_size(data, self.limits)
        pending.answer = data
        pending.settled.set()
        await pending.done.wait()
        if pending.failure is not None:
            raise InvalidState(f"the answer was not sent: {pending.failure}", requestId=request_id)
        return RespondResult(request_id=request_id, sent=len(data))

    def _waiting(self, request_id: str, asker: Asker) -> _Pending:
        pending = self._pending.get(request_id)
        if pending is None or pending.settled.is_set():
            raise InvalidState(
                f'no request "{request_id[:64]}" waits: it was answered, has expired, or its stream is gone',
                requestId=request_id[:64],
            )
        if not asker.may(pending.identity):
            raise NotOwner
        return pending

    def bounds(self) -> tuple[int, int]:
        return len(self._places), self.limits.max_waiting


class _OfMessages(Handler):
    """Handles streams with one message each way: the peer's, which needs a place, then ours."""

    def __init__(
        self, protocol: str, owner: Owner, messages: Messages, framing: Framing, deadline: int, *, shared: bool
    ) -> None:
        """``deadline`` is how long, in ms, the peer's message may take."""
        super().__init__(protocol, owner, shared=shared)
        self.framing = framing
        self.deadline = deadline
        self._messages = messages

    def has_room(self, link: Link) -> bool:
        return self._messages.has_room(link)

    async def serve(self, stream: Stream) -> None:
        with self._messages.place(stream):
            with trio.fail_after(self.deadline / 1000):
                data = await read_message(stream, self.framing, self._messages.limits.max_message_bytes)
            await self._take(stream, data)

    @abstractmethod
    async def _take(self, stream: Stream, data: bytes) -> None:
        """Answer the peer's message."""

    async def _answer(self, stream: Stream, answer: bytes) -> None:
        """Send the answer. Raises `trio.TooSlowError`, and errors of the stream."""
        with trio.fail_after(WRITE):
            await stream.write(frame(answer, self.framing))
            await stream.close_write()


class PartHandler(_OfMessages):
    """A handler for a part of the daemon: ``reply`` makes the answer from the peer's id and message."""

    def __init__(
        self, protocol: str, messages: Messages, framing: Framing, deadline: int, reply: Callable[[str, bytes], bytes]
    ) -> None:
        super().__init__(protocol, Part(), messages, framing, deadline, shared=False)
        self._reply = reply

    def end(self) -> None:
        """Stop; messages being read are still answered."""

    async def _take(self, stream: Stream, data: bytes) -> None:
        await self._answer(stream, self._reply(stream.peer_id, data))


class MessageHandler(_OfMessages):
    """A handler that notifies its owner of each request, and sends the owner's answer."""

    def __init__(
        self, protocol: str, owner: Owner, messages: Messages, framing: Framing, deadline: int, *, shared: bool
    ) -> None:
        super().__init__(protocol, owner, messages, framing, deadline, shared=shared)
        self._waiting: set[_Pending] = set()
        self._ended = False

    def end(self) -> None:
        self._ended = True
        for pending in self._waiting:
            pending.settled.set()

    async def _take(self, stream: Stream, data: bytes) -> None:
        if self._ended:  # while the request was being read
            raise Refused(f"the request gets no answer: {NOT_HANDLED}")
        pending = _Pending(stream.peer_id, self.protocol, data, self.owner.identity)
        peer = PeerStream(stream, "inbound")
        outcome: Outcome | None = None

        def look() -> None:
            if peer.cut:
                pending.settled.set()

        with self._messages.waiting(pending) as request_id:
            pending.failure = "the connection to the peer is gone"  # unless something else fails first
            self._waiting.add(pending)
            peer.watch(look)
            try:
                self.tell(self._notice(request_id, pending))
                look()
                with trio.move_on_after(self.deadline / 1000):
                    await pending.settled.wait()
                if pending.answer is None:
                    outcome, pending.failure = self._unanswered(stream, peer)
                    raise Refused(f"the request gets no answer: {pending.failure}")
                pending.failure = "the peer's end of the stream is gone"
                await self._answer(stream, pending.answer)
                outcome, pending.failure = "ended", None
            except trio.TooSlowError:
                outcome, pending.failure = "timeout", f"the peer did not take it within {WRITE:g} s"
                raise
            finally:
                self._waiting.discard(pending)
                peer.watch(None)
                self.tell(ProtocolEnded(request_id, outcome or self._how_cut(stream, peer)))

    def _notice(self, request_id: str, pending: _Pending) -> ProtocolRequest:
        return ProtocolRequest(
            request_id=request_id,
            peer_id=pending.peer_id,
            protocol=self.protocol,
            size=len(pending.data),
            deadline=min(int(time.time() * 1000) + self.deadline, LARGEST),
            data=to_base64(pending.data) if len(pending.data) <= INLINE else None,
        )

    def _how_cut(self, stream: Stream, peer: PeerStream) -> Outcome:
        return "limit" if self._messages.has_lost(stream) else peer.how_cut()

    def _unanswered(self, stream: Stream, peer: PeerStream) -> tuple[Outcome, str]:
        """The outcome, and why there is no answer."""
        if self._messages.has_lost(stream):
            return "limit", "another peer has got its place"
        if peer.cut:
            return peer.how_cut(), "the peer waits for it no longer"
        if self._ended:
            return "reset", NOT_HANDLED
        return "timeout", "its deadline has passed"


# --------------------------------------------------------------------------------------------------------------------
# Requests to peers


@dataclass(frozen=True, slots=True)
class Reply:
    """A peer's answer. ``duration`` is that of the whole request, in ms."""

    peer_id: str
    data: bytes
    duration: int


async def request(
    host: Host,
    commands: Commands,
    limits: StreamsConfig,
    peer: str,
    protocol: str,
    data: bytes,
    framing: Framing,
    timeout: int,
) -> Reply:
    """Send one message on a new stream, end our side, and read one message back. A peer that is not connected is
    dialled if an address of it is known. ``timeout`` (ms) bounds all of it.

    Raises:
        InvalidParams: A parameter is wrong.
        TooLarge: The message or its answer is too long.
        PeerNotFound: No address of the peer is known.
        DialFailed: The peer cannot be reached.
        DeadlineExceeded: ``timeout`` has passed.
        InvalidState: The peer does not support the protocol, or ended the stream.
    """
    checked_protocol(protocol)
    check_size(data, limits)
    started = trio.current_time()
    peer_id = commands.peer_id(peer)
    try:
        with trio.fail_after(timeout / 1000):
            if not host.links(peer_id):
                await commands.connect(peer_id, timeout, param="peerId")
            async with host.stream(peer_id, protocol) as stream:
                answer = await _exchange(stream, frame(data, framing), framing, limits.max_message_bytes)
    except trio.TooSlowError as error:
        raise DeadlineExceeded(
            f"{peer_id} did not answer on {protocol} within {timeout} ms", peerId=peer_id, timeout=timeout
        ) from error
    except StreamError as error:
        raise _refusal(error, peer_id, protocol, limits) from error
    return Reply(peer_id, answer, int((trio.current_time() - started) * 1000))


async def _exchange(stream: Stream, message: bytes, framing: Framing, limit: int) -> bytes:
    """Send and read at the same time. A peer that answers while it reads stops reading when its answer is not read, and
    both would wait for each other's window."""
    sent = trio.Event()
    failures: list[Exception] = []  # raised outside the nursery

    async def send() -> None:
        try:
            await stream.write(message)
            await stream.close_write()
        except Exception as error:  # noqa: BLE001 - the answer counts; this is reported if there is none
            failures.append(error)
        sent.set()

    answer: bytes | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            answer = await read_message(stream, framing, limit)
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.insert(0, error)
        with trio.move_on_after(0 if answer is None else REST):
            await sent.wait()
        if not sent.is_set():
            # it has answered and wants no more; cancelling a write half-way would cost the connection
            await stream.reset()
    if answer is None:
        raise failures[0]
    return answer


def _refusal(error: StreamError, peer_id: str, protocol: str, limits: StreamsConfig) -> FabstirError:
    cause = error.__cause__
    if isinstance(cause, FrameTooLarge):
        return TooLarge(
            f"{peer_id} answered on {protocol} with {cause}",
            limit=cause.limit,
            current=cause.size,
            configKey="streams.max_message_bytes",
            peerId=peer_id,
        )
    if isinstance(error, StreamBusy | StreamRefused):
        return stream_failed(error, peer_id, [protocol])
    reason = "protocol" if isinstance(error, ProtocolUnsupported) else "stream"
    return InvalidState(str(error), peerId=peer_id, protocol=protocol, reason=reason)


def check_size(data: bytes, limits: StreamsConfig) -> None:
    """Check a message's size. Raises `TooLarge`."""
    if len(data) > limits.max_message_bytes:
        raise TooLarge(
            f"data: {len(data)} bytes; {limits.max_message_bytes} are sent at most",
            limit=limits.max_message_bytes,
            current=len(data),
            configKey="streams.max_message_bytes",
        )
