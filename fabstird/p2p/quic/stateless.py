"""What is answered to a datagram without keeping anything of whoever has sent it (RFC 9000, 6, 8.1 and 10.3): its
source may be forged, so no answer is larger than the question, and there is a bound for how many are given."""

from __future__ import annotations

import hashlib
import hmac
import os

from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from fabstird.p2p.quic.identity import CID_LENGTH, DATAGRAM, UdpAddress

VERSION = QuicProtocolVersion.VERSION_1
RATE, AT_ONCE = 1000.0, 200.0  # retries, and answers of all other kinds: a second, and at once
RESET_MIN, RESET_MAX = 21, 42  # bytes of a stateless reset; it looks like any short packet
TOKEN = 16  # bytes of its token
_DOMAIN = b"fabstird: tokens of stateless resets"


class Tokens:
    """Stateless reset tokens. ``secret`` is the same in each run of a node, so what it has forgotten it can still
    reset."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(_DOMAIN + secret).digest()

    def at(self, place: str) -> Tokens:
        """Those of one socket: what is asked of another, which knows nothing of a connection here, does not end it
        (RFC 9000, 21.11)."""
        return Tokens(self._key + place.encode())

    def of(self, cid: bytes) -> bytes:
        return hmac.digest(self._key, cid, "sha256")[:TOKEN]


class Bucket:
    """``a_second``, and ``at_once`` after a pause. Times are the caller's, in seconds."""

    def __init__(self, a_second: float, at_once: float) -> None:
        self._a_second, self._at_once = a_second, at_once
        self._left, self._counted = at_once, 0.0

    def take(self, now: float) -> bool:
        """Whether there is one more."""
        self._left = min(self._at_once, self._left + (now - self._counted) * self._a_second)
        self._counted = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Answers:
    """`None` where no answer is due any more in this moment. Retries have a bound of their own: they are the way in
    for those who mean it, which a flood of other datagrams does not close."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._retry = QuicRetryTokenHandler()
        self._retries, self._others = Bucket(RATE, AT_ONCE), Bucket(RATE, AT_ONCE)

    def versions(self, header: QuicHeader, now: float) -> bytes | None:
        """We speak another version."""
        if not self._others.take(now):
            return None
        return encode_quic_version_negotiation(header.destination_cid, header.source_cid, [VERSION])

    def retry(self, header: QuicHeader, source: UdpAddress, now: float) -> bytes | None:
        """It is to come again and show that its address is its own."""
        if not self._retries.take(now):
            return None
        own = os.urandom(CID_LENGTH)
        token = self._retry.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=own,
            now=now,
        )
        return encode_quic_retry(VERSION, own, header.source_cid, header.destination_cid, token)

    def original(self, header: QuicHeader, source: UdpAddress, now: float) -> bytes | None:
        """The connection id that it had chosen before our Retry, whose token it shows; None where that is not ours."""
        try:
            return self._retry.validate_token(
                address=source, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            return None

    def refusal(self, header: QuicHeader, code: QuicErrorCode, now: float) -> bytes | None:
        """It is not let in."""
        if not self._others.take(now):
            return None
        crypto = CryptoPair()
        crypto.setup_initial(cid=header.destination_cid, is_client=False, version=VERSION)
        builder = QuicPacketBuilder(
            host_cid=header.destination_cid,
            is_client=False,
            max_datagram_size=DATAGRAM,
            peer_cid=header.source_cid,
            version=VERSION,
        )
        builder.start_packet(QuicPacketType.INITIAL, crypto)
        buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
        for value in (code, QuicFrameType.PADDING, 0):
            buf.push_uint_var(value)
        return builder.flush()[0][0]

    def reset(self, cid: bytes, size: int, now: float) -> bytes | None:
        """Nothing is known of the connection that a datagram of ``size`` bytes belongs to. Always shorter than that, so
        two nodes that have both forgotten do not go on for ever."""
        if size <= RESET_MIN or not self._others.take(now):
            return None
        noise = bytearray(os.urandom(min(size - 1, RESET_MAX) - TOKEN))
        noise[0] = noise[0] & 0x3F | 0x40
        return bytes(noise) + self._tokens.of(cid)


def is_reset(datagram: bytes, tokens: list[bytes]) -> bool:
    """Whether it ends in one of the tokens; told in the same time for each."""
    end, found = datagram[-TOKEN:], False
    for token in tokens:
        found |= hmac.compare_digest(end, token)
    return found and len(datagram) >= RESET_MIN
