"""Messages over protocols of the user's own: requests to peers, and requests of peers that an API connection answers.

A protocol is handled on behalf of one API connection and no longer than that lives, whatever becomes of the node in
between. A peer's request waits, bounded in number, size and age, until it is answered; else its stream is reset.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream

from fabstir_client.errors import (
    DeadlineExceeded,
    FabstirError,
    InvalidParams,
    InvalidState,
    LimitExceeded,
    TooLarge,
)
from fabstir_client.types_streams import (
    Framing,
    HandleResult,
    ReadResult,
    RequestResult,
    RespondResult,
    StreamEnded,
    StreamRequest,
    UnhandleResult,
)
from fabstird.config import StreamsConfig
from fabstird.events import EventLog
from fabstird.log import get_logger
from fabstird.p2p.commands import Commands
from fabstird.p2p.framing import FrameTooLarge, frame, read_message
from fabstird.p2p.host import Host, ProtocolUnsupported, StreamError

log = get_logger("p2p.streams")

INLINE = 4096  # bytes of a request that its event carries; larger ones are read by their id
MAX_NAME = 128  # characters of a protocol
MAX_PROTOCOLS = 256  # handled at a time, by all connections together
PER_PEER = 8  # requests of one peer that wait at a time
WRITE = 10.0  # seconds for an answer to be taken by the peer
REST = 1.0  # seconds for the rest of a request to be taken by a peer that has answered it
OURS = ("/ipfs/", "/libp2p/", "/multistream/", "/noise", "/tls/", "/yamux/", "/mplex/", "/meshsub/", "/floodsub/")


class Refused(IOException):
    """A peer's request that is over a limit; its stream is reset."""


@dataclass(frozen=True, slots=True)
class _Handler:
    protocol: str
    framing: Framing
    deadline: int  # ms
    owner: object
    ended: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class _Pending:
    """A request that waits for its answer. ``failure`` says why it got none, once ``done``."""

    peer_id: str
    protocol: str
    data: bytes
    answer: bytes | None = None
    answered: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    failure: str | None = None


class Protocols:
    """What peers may ask of API connections. ``limits`` are read at each decision."""

    def __init__(self, events: EventLog, limits: StreamsConfig) -> None:
        self._events = events
        self._limits = limits
        self._host: Host | None = None
        self._handlers: dict[str, _Handler] = {}
        self._pending: dict[str, _Pending] = {}
        self._from: Counter[str] = Counter()  # streams being read or waiting, by peer

    def attach(self, host: Host) -> None:
        """A node has started: answer what is handled there."""
        self._host = host
        for handler in self._handlers.values():
            self._answer(host, handler)

    def detach(self) -> None:
        """The node stops; the protocols stay handled for the next one."""
        self._host = None

    def _answer(self, host: Host, handler: _Handler) -> None:
        async def serve(stream: INetStream) -> None:
            await self._serve(stream, handler)

        host.set_stream_handler(handler.protocol, serve)

    # ----------------------------------------------------------------------------------------------------------------
    # For API connections

    def handle(self, protocol: str, framing: Framing, deadline: int, owner: object) -> HandleResult:
        """Hand requests on a protocol to ``owner``, as events, until it is released. Raises `InvalidParams`,
        `InvalidState` where another owner has it, `LimitExceeded`."""
        checked_protocol(protocol)
        if protocol.startswith(OURS):
            raise InvalidParams(f'protocol: "{protocol}" belongs to libp2p itself', param="protocol")
        old = self._handlers.get(protocol)
        if old is not None and old.owner is not owner:
            raise InvalidState(f"another connection handles {protocol}", protocol=protocol)
        if old is None and len(self._handlers) >= MAX_PROTOCOLS:
            raise LimitExceeded(
                f"{MAX_PROTOCOLS} protocols are handled already",
                limit=MAX_PROTOCOLS,
                current=len(self._handlers),
                configKey=None,
            )
        handler = self._handlers[protocol] = _Handler(protocol, framing, deadline, owner)
        if self._host is not None:
            self._answer(self._host, handler)
        return HandleResult(protocol=protocol, framing=framing, deadline=deadline)

    def unhandle(self, protocol: str, owner: object) -> UnhandleResult:
        """No longer; requests that wait are reset."""
        handler = self._handlers.get(protocol)
        if handler is None or handler.owner is not owner:
            return UnhandleResult(protocol=protocol, handled=False)
        del self._handlers[protocol]
        handler.ended.set()
        if self._host is not None:
            self._host.remove_stream_handler(protocol)
        return UnhandleResult(protocol=protocol, handled=True)

    def release(self, owner: object) -> None:
        """The owner is gone: whatever it handles is handled no longer."""
        for protocol in [name for name, handler in self._handlers.items() if handler.owner is owner]:
            self.unhandle(protocol, owner)

    def read(self, request_id: str) -> ReadResult:
        """A request that waits. Raises `InvalidState`."""
        pending = self._waiting(request_id)
        return ReadResult(
            request_id=request_id,
            peer_id=pending.peer_id,
            protocol=pending.protocol,
            data=to_base64(pending.data),
            size=len(pending.data),
        )

    async def respond(self, request_id: str, data: bytes) -> RespondResult:
        """Answer a request; returns once the peer's side has taken the whole answer. Raises `InvalidState` where it
        does not wait any more, `TooLarge`."""
        check_size(data, self._limits)
        pending = self._waiting(request_id)
        pending.answer = data
        pending.answered.set()
        await pending.done.wait()
        if pending.failure is not None:
            raise InvalidState(f"the answer was not sent: {pending.failure}", requestId=request_id)
        return RespondResult(request_id=request_id, sent=len(data))

    def _waiting(self, request_id: str) -> _Pending:
        pending = self._pending.get(request_id)
        if pending is None or pending.answered.is_set():
            raise InvalidState(
                f'no request "{request_id[:64]}" waits: it was answered, has expired, or its stream is gone',
                requestId=request_id[:64],
            )
        return pending

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {
            "handledProtocols": (len(self._handlers), MAX_PROTOCOLS),
            "waitingRequests": (self._from.total(), self._limits.max_waiting),
        }

    # ----------------------------------------------------------------------------------------------------------------
    # A peer's request, from its first byte to its answer

    async def _serve(self, stream: INetStream, handler: _Handler) -> None:
        peer_id = stream.muxed_conn.peer_id.to_base58()
        if handler.ended.is_set():
            raise Refused(f"{handler.protocol} is handled no longer")
        if self._from.total() >= self._limits.max_waiting or self._from[peer_id] >= PER_PEER:
            raise Refused("too many requests wait for an answer")
        self._from[peer_id] += 1
        try:
            with trio.fail_after(handler.deadline / 1000):
                data = await read_message(stream, handler.framing, self._limits.max_message_bytes)
            await self._ask(stream, handler, _Pending(peer_id, handler.protocol, data))
        finally:
            self._from[peer_id] -= 1
            if not self._from[peer_id]:
                del self._from[peer_id]

    async def _ask(self, stream: INetStream, handler: _Handler, pending: _Pending) -> None:
        request_id = secrets.token_hex(8)
        self._pending[request_id] = pending
        outcome = "failed"
        pending.failure = "the connection to the peer is gone"  # unless something else comes first
        try:
            self._events.publish(
                StreamRequest(
                    request_id=request_id,
                    peer_id=pending.peer_id,
                    protocol=handler.protocol,
                    size=len(pending.data),
                    deadline=int(time.time() * 1000) + handler.deadline,
                    data=to_base64(pending.data) if len(pending.data) <= INLINE else None,
                )
            )
            outcome, pending.failure = await self._settled(handler, pending)
            if outcome != "answered":
                raise Refused(f"the request is {outcome}")
            outcome, pending.failure = "failed", "the peer's end of the stream is gone"
            with trio.fail_after(WRITE):
                await stream.write(frame(pending.answer or b"", handler.framing))
                await stream.close()
            outcome, pending.failure = "answered", None
        except trio.TooSlowError:
            pending.failure = f"the peer did not take it within {WRITE:g} s"
            raise
        finally:
            del self._pending[request_id]
            pending.done.set()
            self._events.publish(
                StreamEnded(request_id=request_id, peer_id=pending.peer_id, protocol=handler.protocol, outcome=outcome)
            )

    async def _settled(self, handler: _Handler, pending: _Pending) -> tuple[str, str | None]:
        """Wait for an answer, the end of the handler, or the deadline: the outcome, and why there is no answer."""
        with trio.move_on_after(handler.deadline / 1000):
            async with trio.open_nursery() as nursery:

                async def first(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(first, pending.answered)
                nursery.start_soon(first, handler.ended)
        if pending.answered.is_set():
            return "answered", None
        if handler.ended.is_set():
            return "unhandled", "the protocol is handled no longer"
        return "expired", "its deadline has passed"


# --------------------------------------------------------------------------------------------------------------------
# Requests to peers


async def request(
    host: Host,
    commands: Commands,
    limits: StreamsConfig,
    peer: str,
    protocol: str,
    data: bytes,
    framing: Framing,
    timeout: int,
) -> RequestResult:
    """Send one message on a new stream, end our side, and read one message back. A peer that is not connected is
    dialled where an address of it is known. ``timeout`` (ms) bounds the whole.

    Raises `InvalidParams`, `TooLarge` both ways, `PeerNotFound`, `DialFailed`, `DeadlineExceeded`, and `InvalidState`
    where the peer does not speak the protocol or ends the stream.
    """
    checked_protocol(protocol)
    check_size(data, limits)
    started = trio.current_time()
    peer_id = commands.peer_id(peer)
    try:
        with trio.fail_after(timeout / 1000):
            if not host.links(peer_id):
                await commands.connect(peer_id, timeout)
            async with host.stream(peer_id, protocol) as stream:
                answer = await _exchange(stream, frame(data, framing), framing, limits.max_message_bytes)
    except trio.TooSlowError as error:
        raise DeadlineExceeded(
            f"{peer_id} did not answer on {protocol} within {timeout} ms", peerId=peer_id, timeout=timeout
        ) from error
    except StreamError as error:
        raise _refusal(error, peer_id, protocol, limits) from error
    return RequestResult(
        peer_id=peer_id,
        protocol=protocol,
        data=to_base64(answer),
        size=len(answer),
        duration=int((trio.current_time() - started) * 1000),
    )


async def _exchange(stream: NetStream, message: bytes, framing: Framing, limit: int) -> bytes:
    """Send and read at the same time: a peer that answers while it reads reads no further when its answer is not read,
    and both would wait for each other's window."""
    sent = trio.Event()
    failures: list[Exception] = []  # raised outside the nursery

    async def send() -> None:
        try:
            await stream.write(message)
            await stream.close_write()
        except Exception as error:  # noqa: BLE001 - what counts is the answer; without one this is the reason
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
            await stream.reset()  # who has answered wants no more; cancelled in a write, the connection would be lost
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
    reason = "protocol" if isinstance(error, ProtocolUnsupported) else "stream"
    return InvalidState(str(error), peerId=peer_id, protocol=protocol, reason=reason)


def check_size(data: bytes, limits: StreamsConfig) -> None:
    """Raises `TooLarge`."""
    if len(data) > limits.max_message_bytes:
        raise TooLarge(
            f"data: {len(data)} bytes; {limits.max_message_bytes} are sent at most",
            limit=limits.max_message_bytes,
            current=len(data),
            configKey="streams.max_message_bytes",
        )


def checked_protocol(name: str) -> None:
    """Raises `InvalidParams`."""
    if not name.startswith("/") or len(name) > MAX_NAME or not name.isascii() or not name.isprintable() or " " in name:
        raise InvalidParams(
            f'protocol: must begin with "/" and be printable ASCII of {MAX_NAME} characters at most, such as '
            f'"/fabstir/job/1.0.0", not "{name[:MAX_NAME]}"',
            param="protocol",
        )


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str, param: str = "data") -> bytes:
    """Raises `InvalidParams`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParams(f"{param}: is not standard base64: {error}", param=param) from error
