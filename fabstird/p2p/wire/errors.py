"""Errors that a peer, or the network, causes on a connection or a stream. Whoever reads or writes must expect them;
they end that stream or connection and nothing else."""

from __future__ import annotations


class NetworkError(Exception):
    """A connection or a stream has ended, or the peer violated the protocol."""


class ConnectionLost(NetworkError):
    """The connection was closed, by either side."""


class StreamReset(NetworkError):
    """The stream was reset, by the peer or by us, or its connection ended."""


class StreamClosed(NetworkError):
    """Our side of the stream is closed, so nothing can be written."""


class EndOfStream(NetworkError):
    """The peer has closed its side, and everything that it sent has been read."""


class PeerError(NetworkError):
    """The peer sent something that its protocol does not allow; the message says what."""


class TlsFailed(NetworkError):
    """The TLS handshake of a WebSocket failed; the message says why, such as a certificate that is not trusted or is
    for other names."""
