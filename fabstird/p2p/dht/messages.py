"""Messages of the DHT as bytes (libp2p specification, kad-dht, "RPC messages"): written exactly, read with suspicion.

Protocol buffers, proto2, by hand: ten fields do not need a library, and what a peer sends is bounded while it is read.
Unknown fields are skipped, as the encoding asks; a message that breaks the encoding is a `MessageError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

PROTOCOL = "/ipfs/kad/1.0.0"
MAX_MESSAGE = 256 * 1024  # bytes that are read; go, js and rust send 20 peers at most
MAX_PEERS = 64  # of one list that are read
MAX_ADDRESSES = 16  # of one peer that are read
MAX_ID = 128  # bytes of a peer id
MAX_ADDRESS = 512  # bytes of an address


class MessageError(ValueError):
    """The bytes are no message of the DHT; the text says why."""


class Kind(IntEnum):
    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as the DHT speaks of it: the bytes of its id, and of its addresses (multiaddrs)."""

    id: bytes
    addresses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A value and its key. ``received`` is RFC 3339 text by who holds it."""

    key: bytes
    value: bytes
    received: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    kind: Kind
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Peer, ...] = ()
    providers: tuple[Peer, ...] = ()


# --------------------------------------------------------------------------------------------------------------------
# Writing


def encode(message: Message) -> bytes:
    parts = [_number(1, message.kind), _bytes(2, message.key) if message.key else b""]
    if message.record is not None:
        parts.append(_bytes(3, _encode_record(message.record)))
    parts += [_bytes(8, _encode_peer(peer)) for peer in message.closer]
    parts += [_bytes(9, _encode_peer(peer)) for peer in message.providers]
    return b"".join(parts)


def _encode_record(record: Record) -> bytes:
    received = _bytes(5, record.received.encode()) if record.received else b""
    return _bytes(1, record.key) + _bytes(2, record.value) + received


def _encode_peer(peer: Peer) -> bytes:
    return _bytes(1, peer.id) + b"".join(_bytes(2, address) for address in peer.addresses)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --------------------------------------------------------------------------------------------------------------------
# Reading


def decode(data: bytes) -> Message:
    """Raises `MessageError`, and nothing else, whatever the bytes are."""
    kind, key, record = 0, b"", None  # proto2: PUT_VALUE is the default of the type
    closer: list[Peer] = []
    providers: list[Peer] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 2 and isinstance(value, bytes):
            key = value
        elif field == 3 and isinstance(value, bytes):
            record = _decode_record(value)
        elif field == 8 and isinstance(value, bytes) and len(closer) < MAX_PEERS:
            closer.append(_decode_peer(value))
        elif field == 9 and isinstance(value, bytes) and len(providers) < MAX_PEERS:
            providers.append(_decode_peer(value))
    try:
        known = Kind(kind)
    except ValueError as error:
        raise MessageError(f"there is no message of type {kind}") from error
    return Message(known, key, record, tuple(closer), tuple(providers))


def _decode_record(data: bytes) -> Record:
    key, value, received = b"", b"", ""
    for field, content in _fields(data):
        if field == 1 and isinstance(content, bytes):
            key = content
        elif field == 2 and isinstance(content, bytes):
            value = content
        elif field == 5 and isinstance(content, bytes):
            received = content[:64].decode("ascii", "replace")
    return Record(key, value, received)


def _decode_peer(data: bytes) -> Peer:
    peer_id = b""
    addresses: list[bytes] = []
    for field, content in _fields(data):
        if field == 1 and isinstance(content, bytes):
            peer_id = content
        elif field == 2 and isinstance(content, bytes) and 0 < len(content) <= MAX_ADDRESS:
            addresses.append(content)
    if not 0 < len(peer_id) <= MAX_ID:
        raise MessageError(f"a peer id of {len(peer_id)} bytes")
    return Peer(peer_id, tuple(addresses[:MAX_ADDRESSES]))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values; a value of a wire type that no field here has is skipped."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        field, wire = tag >> 3, tag & 7
        if field == 0:
            raise MessageError("field number 0")
        if wire == 0:
            value, at = _read_varint(data, at)
            yield field, value
        elif wire == 2:
            size, at = _read_varint(data, at)
            if size > len(data) - at:
                raise MessageError(f"field {field} ends {size - len(data) + at} bytes beyond the message")
            yield field, data[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > len(data):
                raise MessageError(f"field {field} ends beyond the message")
        else:
            raise MessageError(f"field {field} is of wire type {wire}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise MessageError("a number ends beyond the message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise MessageError("a number of more than ten bytes")
