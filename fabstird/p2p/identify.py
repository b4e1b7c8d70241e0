"""Identify, both sides: what this node tells of itself and what it learns of a peer (libp2p specification, identify).

libp2p 0.8.1's own handler announces its library's name and knows no observed address over WebSocket or IPv6, and its
client runs in a system task and tells nobody when it has finished.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.utils import varint
from multiaddr import Multiaddr
from multiaddr.protocols import P_P2P

from fabstird.p2p.link import muxed

ID = TProtocol("/ipfs/id/1.0.0")
PUSH = TProtocol("/ipfs/id/push/1.0.0")
PROTOCOL_VERSION = "ipfs/0.1.0"
MAX_MESSAGE = 64 * 1024  # bytes; go-libp2p accepts 8 KiB, js-libp2p 8 KiB, with room for signed records
MAX_TEXT = 256  # characters of an agent or protocol that are kept
MAX_ADDRESS = 512  # bytes of one address
MAX_ITEMS = 256  # protocols, and addresses, of one peer that are kept
FRESH = 5.0  # seconds for which our own message is not made anew; a new interface is announced after that
DEADLINE = 10.0  # seconds for one exchange


class IdentifyError(IOException):
    """The peer's answer is not an identify message, or too large."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What a peer says of itself. Addresses are without ``/p2p/``; ``observed`` is how it sees us."""

    agent_version: str
    protocol_version: str
    protocols: tuple[str, ...]
    addresses: tuple[str, ...]
    observed: str | None


def answer(host: IHost, agent: str, sent: Callable[[], None]) -> StreamHandlerFn:
    """Handler of `ID`: sends this node's identify message, calls ``sent``, and closes."""

    cached, protocols, until = b"", None, 0.0

    async def handle(stream: INetStream) -> None:
        nonlocal cached, protocols, until
        now, answered = trio.current_time(), host.get_mux().get_protocols()
        if now >= until or answered != protocols:
            cached, protocols, until = _own(host, agent), answered, now + FRESH
        # Two messages in a row are one with the fields of both (protobuf's encoding)
        message = cached + Identify(observed_addr=_observed(stream)).SerializeToString()
        with trio.fail_after(DEADLINE):
            await muxed(stream).write_last(varint.encode_uvarint(len(message)) + message)
            sent()
            await stream.close()

    return handle


def _own(host: IHost, agent: str) -> bytes:
    """What every peer is told alike. Asks the kernel for its interfaces where a wildcard is listened on."""
    return Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=host.get_public_key().serialize(),
        listen_addrs=[_bare(address).to_bytes() for address in host.get_addrs()],
        protocols=[str(protocol) for protocol in host.get_mux().get_protocols() if protocol],
        signedPeerRecord=env_to_send_in_RPC(host)[0],
    ).SerializeToString()


async def push(stream: INetStream, host: IHost, agent: str) -> None:
    """Tell a peer, on a stream of `PUSH`, what has changed of this node: all of it, as other implementations do."""
    message = _own(host, agent)
    await stream.write(varint.encode_uvarint(len(message)) + message)


def accept_push(learn: Callable[[INetStream, Identify], object]) -> StreamHandlerFn:
    """Handler of `PUSH`: a connected peer tells that something about it has changed."""

    async def handle(stream: INetStream) -> None:
        with trio.fail_after(DEADLINE):
            learn(stream, await read_message(stream))
            await stream.close()

    return handle


async def read_message(stream: INetStream) -> Identify:
    """One length-prefixed identify message. Raises `IdentifyError`, and libp2p's errors of the stream."""
    length = shift = 0
    while True:
        byte = (await read_exactly(stream, 1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 21:
            raise IdentifyError("the length prefix is no varint")
    if length > MAX_MESSAGE:
        raise IdentifyError(f"the message has {length} bytes; {MAX_MESSAGE} are read at most")
    message = Identify()
    try:
        message.ParseFromString(await read_exactly(stream, length))
    except DecodeError as error:
        raise IdentifyError(f"the message cannot be decoded: {error}") from error
    return message


def to_info(message: Identify) -> PeerInfo:
    """The message in our terms, cut to what is kept; addresses that cannot be decoded are left out."""
    observed = _address(message.observed_addr) if message.observed_addr else None
    decoded = (_address(packed) for packed in list(message.listen_addrs)[:MAX_ITEMS])
    return PeerInfo(
        agent_version=printable(message.agent_version),
        protocol_version=printable(message.protocol_version),
        protocols=tuple(printable(protocol) for protocol in list(message.protocols)[:MAX_ITEMS]),
        addresses=tuple(dict.fromkeys(address for address in decoded if address)),
        observed=observed,
    )


async def remember(host: IHost, stream: INetStream, message: Identify) -> None:
    """Into libp2p's peer store, for its own protocols."""
    await update_peerstore_from_identify(host.get_peerstore(), stream.muxed_conn.peer_id, message)


def printable(text: str) -> str:
    """Text from a peer, safe for a terminal and a log: no control or format characters, bounded."""
    return "".join(
        char if unicodedata.category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_TEXT]
    )


def _address(packed: bytes) -> str | None:
    if len(packed) > MAX_ADDRESS:
        return None
    try:
        return str(_bare(Multiaddr(packed)))
    except Exception:  # noqa: BLE001 - multiaddr raises whatever its codecs do, and a peer chooses the bytes
        return None


def _bare(address: Multiaddr) -> Multiaddr:
    """Without the peer that it names at its end; one that leads through a relay keeps the relay's id."""
    *_, last = address.protocols()
    return address.decapsulate_code(P_P2P) if last.code == P_P2P else address


def _observed(stream: INetStream) -> bytes:
    addresses = stream.muxed_conn.get_transport_addresses()
    return addresses[0].to_bytes() if addresses else b""
