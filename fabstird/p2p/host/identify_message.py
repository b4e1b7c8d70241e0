"""The identify message (libp2p specification, identify): ours is written; those of peers are read and cut to size."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import trio
from google.protobuf.message import DecodeError

from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.wire.addresses import AddressError, unpack_text
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.frames import Source, framed, read_framed
from fabstird.p2p.wire.protobuf import Identify

PROTOCOL_VERSION = "ipfs/0.1.0"
MAX_MESSAGE = 64 * 1024  # bytes of all parts; go-libp2p and js-libp2p accept 8 KiB, plus room for signed records
MAX_PARTS = 10  # messages that one is split into, as in go-libp2p
LAST_PART = 2.0  # seconds after the first message for the others, and for the end of the stream
MAX_TEXT = 256  # characters kept of an agent or protocol
MAX_ADDRESS = 512  # bytes of one address
MAX_ITEMS = 256  # protocols, and addresses, kept of one peer
MAX_BYTES = 4096  # of these together, for each of the two


class IdentifyError(PeerError):
    """The peer's answer is not an identify message."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What a peer says about itself. Addresses are without ``/p2p/``; ``observed`` is how it sees us."""

    agent_version: str
    protocol_version: str
    protocols: tuple[str, ...]
    addresses: tuple[str, ...]
    observed: str | None


def encode(key: NodeKey, agent: str, protocols: Iterable[str], addresses: tuple[bytes, ...], record: bytes) -> bytes:
    """The part of our message that is the same for every peer. ``record`` is the signed form of ``addresses``."""
    return Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=key.public,
        listen_addrs=addresses,
        protocols=protocols,
        signedPeerRecord=record,
    ).SerializeToString()


def encode_observed(address: bytes) -> bytes:
    """The part for one peer. Two messages in a row are one with the fields of both (protobuf's encoding)."""
    return Identify(observed_addr=address).SerializeToString()


async def read(source: Source, known: PeerInfo | None = None) -> PeerInfo:
    """Read what a peer says, cut to what is kept. The caller sets the deadline.

    A peer may split the message into several length-prefixed ones, which are merged; it ends its side after the last.

    Args:
        source: The stream.
        known: What the peer said before: a push may omit what has not changed (libp2p specification, identify).

    Raises:
        IdentifyError: It is not an identify message.
        FrameError: Its framing is wrong. Errors of the stream are raised too.
    """
    first = await read_framed(source, MAX_MESSAGE)
    if first is None:
        raise IdentifyError("the peer ended the stream without a message")
    parts = [first]
    with trio.move_on_after(LAST_PART):  # a peer that does not end its side has still said who it is
        while len(parts) < MAX_PARTS:
            part = await read_framed(source, MAX_MESSAGE - sum(map(len, parts)))
            if part is None:
                break
            parts.append(part)
    return _merged(parts, known)


def decode(answer: bytes) -> PeerInfo:
    """As `read`, from all that a peer has sent."""
    parts = list(islice(framed(answer, MAX_MESSAGE), MAX_PARTS))
    if not parts:
        raise IdentifyError("the peer ended the stream without a message")
    return _merged(parts, None)


def _merged(parts: Iterable[bytes], known: PeerInfo | None) -> PeerInfo:
    message = Identify()
    try:
        for part in parts:
            message.MergeFromString(part)
    except DecodeError as error:
        raise IdentifyError(f"the message cannot be decoded: {error}") from error
    return to_info(message, known)


def to_info(message: Identify, known: PeerInfo | None = None) -> PeerInfo:
    """The message as `PeerInfo`, cut to what is kept. Addresses that cannot be decoded are omitted, and fields missing
    in the message are taken from ``known``."""
    decoded = (_address(packed) for packed in list(message.listen_addrs)[:MAX_ITEMS])
    agent = message.HasField("agent_version")
    version = message.HasField("protocol_version")
    return PeerInfo(
        agent_version=known.agent_version if known and not agent else printable(message.agent_version),
        protocol_version=known.protocol_version if known and not version else printable(message.protocol_version),
        protocols=_fitting(printable(protocol) for protocol in list(message.protocols)[:MAX_ITEMS])
        or (known.protocols if known else ()),
        addresses=_fitting(dict.fromkeys(address for address in decoded if address))
        or (known.addresses if known else ()),
        observed=(_address(message.observed_addr) if message.observed_addr else None)
        or (known.observed if known else None),
    )


def _fitting(texts: Iterable[str]) -> tuple[str, ...]:
    """As many of the texts as are kept of one peer."""
    found, size = [], 0
    for text in texts:
        size += len(text.encode())
        if size > MAX_BYTES:
            break
        found.append(text)
    return tuple(found)


def printable(text: str | bytes) -> str:
    """Text from a peer, made safe for a terminal, a log and JSON: no control or format characters, no half surrogates,
    bounded. Every text field of a peer's protobuf goes through here: where the peer sent invalid UTF-8, protobuf
    returns ``bytes``, whatever its types say."""
    if isinstance(text, bytes):
        text = text[: 4 * MAX_TEXT].decode("utf-8", "replace")
    return "".join(
        char if unicodedata.category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_TEXT]
    )


def _address(packed: bytes) -> str | None:
    try:
        return unpack_text(packed) if len(packed) <= MAX_ADDRESS else None
    except AddressError:
        return None
