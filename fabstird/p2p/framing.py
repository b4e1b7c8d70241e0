"""Messages on a stream of bytes: how long one is, and where it ends.

``u32be``: four bytes of length, most significant first, as the Fabstir node frames its JSON. ``uvarint``: the unsigned
varint of multiformats, as most libp2p protocols have it. ``none``: everything until the sender ends its side.
"""

from __future__ import annotations

from typing import Protocol

from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF

from fabstir_client.types_streams import Framing

MAX_VARINT = 9  # bytes; multiformats/unsigned-varint
CHUNK = 64 * 1024


class FrameError(IOException):
    """The peer sent what is no message in the agreed framing; the message says why."""


class FrameTooLarge(FrameError):
    """The peer's message is larger than we take. ``size`` is what it announced, or had sent when we stopped."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes; {limit} are taken at most")
        self.size = size
        self.limit = limit


class Source(Protocol):
    """What can be read from: at least a byte a time, `StreamEOF` after the last one."""

    async def read(self, n: int | None = None) -> bytes: ...


def frame(data: bytes, framing: Framing) -> bytes:
    """The message as it goes onto the stream."""
    if framing == "u32be":
        return len(data).to_bytes(4, "big") + data
    if framing == "uvarint":
        return uvarint(len(data)) + data
    return data


def uvarint(value: int) -> bytes:
    """The shortest unsigned varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


async def read_message(source: Source, framing: Framing, limit: int) -> bytes:
    """One message of at most ``limit`` bytes; the caller brings the deadline.

    Raises `FrameTooLarge` before any of a framed message is read, `FrameError` where the peer ends early, and what the
    stream raises.
    """
    if framing == "none":
        return await _read_all(source, limit)
    size = await _read_varint(source) if framing == "uvarint" else int.from_bytes(await _exactly(source, 4), "big")
    if size > limit:
        raise FrameTooLarge(size, limit)
    return await _exactly(source, size)


async def read_framed(source: Source, limit: int) -> bytes | None:
    """The next ``uvarint`` message of a stream that carries several; None where the peer has ended its side instead."""
    try:
        first = await source.read(1)
    except StreamEOF:
        return None
    size = await _read_varint(source, first)
    if size > limit:
        raise FrameTooLarge(size, limit)
    return await _exactly(source, size)


async def _read_varint(source: Source, first: bytes = b"") -> int:
    value = 0
    for index in range(MAX_VARINT):
        byte = (first if first and index == 0 else await _exactly(source, 1))[0]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value
    raise FrameError("the length prefix is no varint")


async def _exactly(source: Source, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            data += await source.read(min(size - len(data), CHUNK))
        except StreamEOF as error:
            raise FrameError(f"the peer ended the stream after {len(data)} of {size} bytes") from error
    return bytes(data)


async def _read_all(source: Source, limit: int) -> bytes:
    data = bytearray()
    while True:
        try:
            data += await source.read(CHUNK)
        except StreamEOF:
            return bytes(data)
        if len(data) > limit:
            raise FrameTooLarge(len(data), limit)
