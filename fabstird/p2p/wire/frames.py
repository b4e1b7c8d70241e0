"""Message framing on a byte stream.

``u32be``: four bytes of length, most significant first, as the Fabstir node frames its JSON. ``uvarint``: the unsigned
varint of multiformats, as in most libp2p protocols. ``none``: everything until the sender ends its side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from fabstir_client.api.streams import Framing
from fabstird.p2p.wire import varint
from fabstird.p2p.wire.errors import EndOfStream, PeerError

CHUNK = 64 * 1024

M = TypeVar("M", bound=Message)


class FrameError(PeerError):
    """The peer sent no valid message in the agreed framing; the message says why."""


class FrameTooLarge(FrameError):
    """The peer's message is too large. ``size`` is the announced size, or how much it had sent when we stopped."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes; {limit} are taken at most")
        self.size = size
        self.limit = limit


class Undecodable(PeerError):
    """The peer's message is not the message that its protocol requires."""


class Source(Protocol):
    """Something to read from: it returns at least one byte, and raises `EndOfStream` after the last."""

    async def read(self, n: int | None = None) -> bytes: ...


def frame(data: bytes, framing: Framing) -> bytes:
    """The message with its framing."""
    if framing == "u32be":
        return len(data).to_bytes(4, "big") + data
    if framing == "uvarint":
        return varint.encode(len(data)) + data
    return data


async def read_message(source: Source, framing: Framing, limit: int) -> bytes:
    """Read one message of at most ``limit`` bytes. The caller sets the deadline.

    Raises:
        FrameTooLarge: Before any of a framed message is read.
        FrameError: The peer ended early. Errors of the stream are raised too.
    """
    if framing == "none":
        return await _read_all(source, limit)
    size = await _read_varint(source) if framing == "uvarint" else int.from_bytes(await exactly(source, 4), "big")
    if size > limit:
        raise FrameTooLarge(size, limit)
    return await exactly(source, size)


async def read_protobuf(source: Source, kind: type[M], limit: int) -> M:
    """Read a ``uvarint`` message and parse it as protobuf. Raises as `read_message`, and `Undecodable`."""
    message = kind()
    try:
        message.ParseFromString(await read_message(source, "uvarint", limit))
    except DecodeError as error:
        raise Undecodable(f"the message cannot be decoded: {error}") from error
    return message


async def read_framed(source: Source, limit: int) -> bytes | None:
    """The next ``uvarint`` message of a stream that carries several; None where the peer has ended its side instead."""
    try:
        first = await source.read(1)
    except EndOfStream:
        return None
    size = await _read_varint(source, first)
    if size > limit:
        raise FrameTooLarge(size, limit)
    return await exactly(source, size)


def framed(data: bytes, limit: int) -> Iterator[bytes]:
    """The ``uvarint`` messages in ``data``, of at most ``limit`` bytes together. Raises as `read_framed`."""
    at = 0
    while at < len(data):
        try:
            length = varint.decode(data, at)
        except ValueError as error:
            raise FrameError("the length prefix is no varint") from error
        if length is None:
            raise FrameError("the peer ended the stream within a length prefix")
        size, start = length
        if size > limit:
            raise FrameTooLarge(size, limit)
        limit -= size
        at = start + size
        if at > len(data):
            raise FrameError(f"the peer ended the stream after {len(data) - start} of {size} bytes")
        yield data[start:at]


async def _read_varint(source: Source, first: bytes = b"") -> int:
    came = first or await exactly(source, 1)
    while (found := _decoded(came)) is None:
        came += await exactly(source, 1)
    return found


def _decoded(came: bytes) -> int | None:
    try:
        found = varint.decode(came)
    except ValueError as error:
        raise FrameError("the length prefix is no varint") from error
    return found[0] if found is not None else None


async def exactly(source: Source, size: int) -> bytes:
    """Read ``size`` bytes. Raises `FrameError` where the peer ends early."""
    data = bytearray()
    while len(data) < size:
        try:
            data += await source.read(min(size - len(data), CHUNK))
        except EndOfStream as error:
            raise FrameError(f"the peer ended the stream after {len(data)} of {size} bytes") from error
    return bytes(data)


async def _read_all(source: Source, limit: int) -> bytes:
    data = bytearray()
    while True:
        try:
            data += await source.read(CHUNK)
        except EndOfStream:
            return bytes(data)
        if len(data) > limit:
            raise FrameTooLarge(len(data), limit)
