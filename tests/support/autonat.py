"""AutoNAT from the side of whoever asks, and of servers that lie: messages by hand, over a `MiniPeer`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from multiaddr import Multiaddr

from tests.support.minipeer import Connection
from tests.support.wire import base58_decode, field, fields, numbers, varint
from tests.support.yamux import Stream

V1 = "/libp2p/autonat/1.0.0"
DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"
OK, DIAL_ERROR, DIAL_REFUSED, BAD_REQUEST = 0, 100, 101, 200  # of version 1
V2_OK, V2_REJECTED, V2_REFUSED = 200, 100, 101  # of an answer of version 2
V2_DIALLED, V2_DIAL_ERROR, V2_DIAL_BACK_ERROR = 200, 100, 101  # and of the dial that it tells of


def packed(address: str) -> bytes:
    return bytes(Multiaddr(address).to_bytes())


def framed(message: bytes) -> bytes:
    return varint(len(message)) + message


async def received(stream: Stream) -> bytes:
    """One message with its length before it. Raises what the stream does where the other side has cut it."""
    return await stream.receive_exactly(await stream.reader.varint())


async def ask_1(link: Connection, *addresses: str, peer_id: str | None = None) -> tuple[int, str | None]:
    """The status of the answer, and the address that was reached."""
    asker = field(1, base58_decode(peer_id or link.peer.peer_id))
    asker += b"".join(field(2, packed(address)) for address in addresses)
    stream = await link.open_stream(V1)
    await stream.send_all(framed(b"\x08\x00" + field(2, field(1, asker))))
    (response,) = fields(await received(stream))[3]
    reached = fields(response).get(3)
    return numbers(response).get(1, 0), str(Multiaddr(reached[0])) if reached else None


@dataclass(frozen=True)
class Answer:
    status: int
    index: int
    dialled: int


@dataclass(frozen=True)
class DataWanted:
    index: int
    size: int


async def begin_2(link: Connection, *addresses: str, nonce: int = 7) -> Stream:
    """A question of version 2; what comes is for `next_2`."""
    message = b"".join(field(1, packed(address)) for address in addresses) + b"\x11" + struct.pack("<Q", nonce)
    stream = await link.open_stream(DIAL_REQUEST)
    await stream.send_all(framed(field(1, message)))
    return stream


async def next_2(stream: Stream) -> Answer | DataWanted:
    message = fields(await received(stream))
    if 3 in message:
        found = numbers(message[3][0])
        return DataWanted(found.get(1, 0), found[2])
    found = numbers(message[2][0])
    return Answer(found.get(1, 0), found.get(2, 0), found.get(3, 0))


async def ask_2(link: Connection, *addresses: str, nonce: int = 7) -> Answer | DataWanted:
    return await next_2(await begin_2(link, *addresses, nonce=nonce))


def dial_data(size: int) -> bytes:
    """One message with so many bytes of it."""
    return framed(field(4, field(1, bytes(size))))


async def nonce_of(stream: Stream) -> int:
    """What a server says on a stream of its dial back."""
    message = await received(stream)
    assert message[0] == 0x09
    (nonce,) = struct.unpack("<Q", message[1:9])
    return int(nonce)
