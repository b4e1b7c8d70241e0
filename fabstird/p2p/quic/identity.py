"""What this node shows in handshakes of QUIC, and what it offers and asks for in each."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fabstird.p2p.muxer.frame import INITIAL_WINDOW

UdpAddress = tuple[Any, ...]  # as sockets give it: host and port, and for IPv6 two more

ALPN = "libp2p"
CID_LENGTH = 8  # bytes of the connection ids that we choose
WINDOW = 8 * 1024 * 1024  # bytes of all streams together that a peer may send before they are read
DATAGRAM = 1200  # bytes of a datagram that we send; every path of QUIC carries so many (RFC 9000, 14)
GROUPS = [tls.Group.X25519, tls.Group.SECP256R1]  # aioquic makes a key for each one that it offers
_CIPHERS = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node shows in handshakes, and the stateless reset token of a connection id."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    token: Callable[[bytes], bytes]

    def configuration(self, *, is_client: bool, idle: float) -> QuicConfiguration:
        """``idle``: seconds of silence after which a connection has ended."""
        return QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[ALPN],
            certificate=self.certificate,
            private_key=self.private_key,
            cipher_suites=_CIPHERS,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            verify_mode=ssl.CERT_NONE,  # `certificate` does it
            connection_id_length=CID_LENGTH,
            idle_timeout=idle,
            max_data=WINDOW,
            max_stream_data=INITIAL_WINDOW,
            max_datagram_size=DATAGRAM,
        )
