"""multistream-select 1.0 (libp2p specification, connections), a write for each turn that the two sides need.

libp2p 0.8.1 reads it byte by byte and sends each line by itself: a turn of the loop and a system call each. Here
whatever has come is read at once, and what is to be said to it goes out at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container

from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError, ProtocolNotSupportedError

HEADER = "/multistream/1.0.0"
MAX_LINE = 1024  # bytes; the specification allows no more

Read = Callable[[], Awaitable[bytes]]  # at least a byte; raises at the end
Write = Callable[[bytes], Awaitable[None]]


async def answer(read: Read, write: Write, known: Container[str]) -> tuple[str, bytes]:
    """As the side that is asked: the protocol agreed on, and what the other side has sent after it.

    Raises `MultiselectError`, and what ``read`` and ``write`` raise. The caller brings the deadline.
    """
    came = bytearray()
    reply = b""
    greeted = False
    while True:
        line = _take(came)
        if line is None:
            if reply:
                await write(reply)
                reply = b""
            came += await read()
        elif not greeted:
            if line != HEADER:
                raise MultiselectError(f"the other side does not speak multistream-select: {line[:60]!r}")
            greeted = True
            reply = _HEADER
        elif line in known:
            await write(reply + _line(line))
            return line, bytes(came)
        else:
            reply += _REFUSAL


async def ask(read: Read, write: Write, protocol: str, *, in_turns: bool = False) -> bytes:
    """As the side that asks; returns what the other side has sent after its agreement. ``in_turns`` names the protocol
    only when the other side has answered the greeting: a round trip in which it has a stream to agree on.

    Raises `ProtocolNotSupportedError`, `MultiselectClientError`, and what ``read`` and ``write`` raise.
    """
    await write(_HEADER if in_turns else _HEADER + _line(protocol))
    came = bytearray()
    for expected in (HEADER, protocol):
        while (line := _take(came, MultiselectClientError)) is None:
            came += await read()
        if line != expected:
            if line == "na":
                raise ProtocolNotSupportedError(f"{protocol} is not supported")
            raise MultiselectClientError(f"{protocol} was answered by {line[:60]!r}")
        if in_turns and expected == HEADER:
            await write(_line(protocol))
    return bytes(came)


def _line(text: str) -> bytes:
    raw = text.encode() + b"\n"
    size = len(raw)
    return (bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))) + raw


def _take(came: bytearray, error: type[Exception] = MultiselectError) -> str | None:
    """The first line, taken out; None where it is not all there."""
    if not came:
        return None
    size, start = came[0], 1
    if size >= 0x80:
        if len(came) < 2:
            return None
        size, start = size & 0x7F | came[1] << 7, 2
    if not 0 < size <= MAX_LINE:
        raise error("a line of multistream-select is empty or too long")
    if len(came) < start + size:
        return None
    raw = bytes(came[start : start + size])
    del came[: start + size]
    if raw[-1:] != b"\n":
        raise error("a line of multistream-select has no end")
    return raw[:-1].decode("utf-8", "replace")


_HEADER = _line(HEADER)
_REFUSAL = _line("na")
