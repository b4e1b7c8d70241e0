"""multistream-select 1.0 (libp2p specification, connections), with one write for each turn of a side.

libp2p 0.8.1 reads it byte by byte and sends each line alone, at a turn of the loop and a system call each. Here all
that was received is read at once, and the answer is sent at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence

from fabstird.p2p.wire import varint
from fabstird.p2p.wire.errors import NetworkError

HEADER = "/multistream/1.0.0"
MAX_LINE = 1024  # bytes; the specification allows no more
MAX_LINES = 64  # lines that the other side may send in one negotiation, and so protocols that it may propose
MAX_BYTES = 16 * 1024  # bytes of these together

Read = Callable[[], Awaitable[bytes]]  # returns at least one byte; raises at the end
Write = Callable[[bytes], Awaitable[None]]


class NegotiationError(NetworkError):
    """The two sides found no common protocol, or the other side violated the negotiation; the message says why."""


class ProtocolNotSupported(NegotiationError):
    """The other side does not support the protocol."""


async def answer(read: Read, write: Write, known: Container[str]) -> tuple[str, bytes]:
    """Negotiate as the side that is asked. The caller sets the deadline.

    Args:
        read: Returns the next bytes.
        write: Sends bytes.
        known: The protocols to accept.

    Returns:
        The negotiated protocol, and the bytes received after the negotiation.

    Raises:
        NegotiationError: The two sides do not agree. Errors of ``read`` and ``write`` are raised too.
    """
    came = bytearray()
    reply = b""
    greeted = False
    lines = taken = 0
    while True:
        before = len(came)
        line = _take(came)
        lines, taken = lines + (line is not None), taken + before - len(came)
        if lines > MAX_LINES or taken > MAX_BYTES:
            raise NegotiationError(f"no protocol was agreed on in {MAX_LINES} lines or {MAX_BYTES} bytes")
        if line is None:
            if reply:
                await write(reply)
                reply = b""
            came += await read()
        elif not greeted:
            if line != HEADER:
                raise NegotiationError(f"the other side does not speak multistream-select: {line[:60]!r}")
            greeted = True
            reply = _HEADER
        elif line in known:
            try:
                await write(reply + _line(line))
            except NetworkError:
                pass  # the other side has gone, but what it sent still counts
            return line, bytes(came)
        else:
            reply += _REFUSAL


async def ask(read: Read, write: Write, protocol: str, *, in_turns: bool = False, first: bytes = b"") -> bytes:
    """Negotiate as the side that asks.

    Args:
        read: Returns the next bytes.
        write: Sends bytes.
        protocol: The protocol to ask for.
        in_turns: Name the protocol only after the other side's greeting. During that extra round trip the other side
            has a stream that is being negotiated.
        first: Bytes to send on the protocol before the other side has agreed, which saves a round trip.

    Returns:
        The bytes received after the negotiation.

    Raises:
        ProtocolNotSupported: The other side does not support it.
        NegotiationError: It violated the negotiation. Errors of ``read`` and ``write`` are raised too.
    """
    await write(_HEADER if in_turns else _HEADER + _line(protocol) + first)
    came = bytearray()
    for expected in (HEADER, protocol):
        while (line := _take(came)) is None:
            came += await read()
        if line != expected:
            if line == "na":
                raise ProtocolNotSupported(f"{protocol} is not supported")
            raise NegotiationError(f"{protocol} was answered by {line[:60]!r}")
        if in_turns and expected == HEADER:
            await write(_line(protocol))
    return bytes(came)


async def choose(read: Read, write: Write, protocols: Sequence[str]) -> tuple[str, bytes]:
    """As `ask`, for the first of several protocols that the other side supports; returns that one too."""
    await write(_HEADER + _line(protocols[0]))
    came = bytearray()
    waiting = [HEADER, *protocols]
    while waiting:
        while (line := _take(came)) is None:
            came += await read()
        expected = waiting.pop(0)
        if line == expected and expected != HEADER:
            return expected, bytes(came)
        if line not in ("na", HEADER) or (line == HEADER) is not (expected == HEADER):
            raise NegotiationError(f"{expected} was answered by {line[:60]!r}")
        if line == "na" and waiting:
            await write(_line(waiting[0]))
    raise ProtocolNotSupported(f"{', '.join(protocols)}: not supported")


def _line(text: str) -> bytes:
    raw = text.encode() + b"\n"
    return varint.encode(len(raw)) + raw


def _take(came: bytearray) -> str | None:
    """Take the first line out of ``came``; None while it is incomplete."""
    try:
        length = varint.decode(came, longest=2)
    except ValueError as error:
        raise NegotiationError("a line of multistream-select is too long") from error
    if length is None:
        return None
    size, start = length
    if not 0 < size <= MAX_LINE:
        raise NegotiationError("a line of multistream-select is empty or too long")
    if len(came) < start + size:
        return None
    raw = bytes(came[start : start + size])
    del came[: start + size]
    if raw[-1:] != b"\n":
        raise NegotiationError("a line of multistream-select has no end")
    return raw[:-1].decode("utf-8", "replace")


_HEADER = _line(HEADER)
GREETING = len(_HEADER)  # bytes that each side sends first
_REFUSAL = _line("na")
