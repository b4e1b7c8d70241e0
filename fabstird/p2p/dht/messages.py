"""DHT messages as bytes (libp2p specification, kad-dht, "RPC messages").

A message is bounded in bytes before it is parsed, and in number of items after. One that is malformed, or names a peer
without an id, raises `MessageError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from google.protobuf.message import DecodeError

from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.protobuf import DhtMessage, DhtPeer, DhtRecord

PROTOCOL = "/ipfs/kad/1.0.0"
MAX_MESSAGE = 256 * 1024  # bytes read; go, js and rust send 20 peers at most
MAX_PEERS = 64  # peers of one list that are read
MAX_ADDRESSES = 32  # addresses of one peer that are read; which of them are usable is decided later
MAX_ID = 128  # bytes of a peer id
MAX_ADDRESS = 512  # bytes of an address


class MessageError(PeerError):
    """The bytes are not a DHT message; the text says why."""


class Kind(IntEnum):
    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer in a message: the bytes of its id and of its addresses (multiaddrs)."""

    id: bytes
    addresses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A value and its key. ``received`` is RFC 3339 text set by the holder."""

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


def encode(message: Message) -> bytes:
    record = None
    if message.record is not None:
        record = DhtRecord(key=message.record.key, value=message.record.value, timeReceived=message.record.received)
    packed: bytes = DhtMessage(
        type=message.kind.name,
        key=message.key,
        record=record,
        closerPeers=_packed(message.closer),
        providerPeers=_packed(message.providers),
    ).SerializeToString()
    return packed


def _packed(peers: Iterable[Peer]) -> list[DhtPeer]:
    return [DhtPeer(id=peer.id, addrs=peer.addresses) for peer in peers]


def decode(data: bytes) -> Message:
    """Parse a message. Raises `MessageError`, and nothing else, whatever the bytes are."""
    try:
        parsed = DhtMessage.FromString(data)
        kind = Kind(parsed.type)
    except DecodeError as error:
        raise MessageError("it is no message of the DHT") from error
    except ValueError as error:
        raise MessageError(f"there is no message of type {parsed.type}") from error
    record = None
    if parsed.HasField("record"):
        record = Record(parsed.record.key, parsed.record.value, parsed.record.timeReceived[:64])
    return Message(kind, parsed.key, record, _unpacked(parsed.closerPeers), _unpacked(parsed.providerPeers))


def _unpacked(peers: Iterable[DhtPeer]) -> tuple[Peer, ...]:
    """The first `MAX_PEERS` peers, each with the first `MAX_ADDRESSES` that may be addresses."""
    return tuple(_unpack(peer) for peer in islice(peers, MAX_PEERS))


def _unpack(peer: DhtPeer) -> Peer:
    if not 0 < len(peer.id) <= MAX_ID:
        raise MessageError(f"a peer id of {len(peer.id)} bytes")
    addresses = (address for address in peer.addrs if 0 < len(address) <= MAX_ADDRESS)
    return Peer(peer.id, tuple(islice(addresses, MAX_ADDRESSES)))
