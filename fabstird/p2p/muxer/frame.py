"""Yamux frames (hashicorp/yamux, spec.md), and the sizes of windows."""

from __future__ import annotations

import struct

from fabstird.p2p.security.noise import MAX_PLAINTEXT

HEADER = struct.Struct(">BBHII")  # version, type, flags, stream id, length
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
NORMAL, PROTOCOL_ERROR = 0, 1

# Why a stream was reset (libp2p specification, error codes). The code is in the length field of the frame that resets
# it
NO_ERROR = 0
NEGOTIATION_FAILED = 0x1001
RESOURCE_LIMIT_EXCEEDED = 0x1002
RATE_LIMITED = 0x1003
GATED = 0x1008

INITIAL_WINDOW = 256 * 1024  # bytes; fixed by the specification
MAX_WINDOW = 4 * 1024 * 1024  # up to which a stream's window grows while it is read quickly
CHUNK = MAX_PLAINTEXT - HEADER.size  # bytes of data in a frame: one Noise message
