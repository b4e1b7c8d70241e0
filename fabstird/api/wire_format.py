"""Messages as bytes: lines on the IPC socket, text frames on a WebSocket (RFC 6455, section 5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

Framing = Callable[[Sequence[bytes]], bytes]

_FINAL_TEXT = 0x81
_SHORT, _MEDIUM = 126, 1 << 16  # longer payloads need two bytes of length, or eight


def lines(messages: Sequence[bytes]) -> bytes:
    """One message a line. JSON has newlines only between tokens, and the daemon writes none."""
    return b"\n".join(messages) + b"\n"


def frames(messages: Sequence[bytes]) -> bytes:
    """One message a frame, unmasked, as servers send them. Each message is UTF-8."""
    return b"".join([part for message in messages for part in (_head(len(message)), message)])


def _head(length: int) -> bytes:
    if length < _SHORT:
        return bytes((_FINAL_TEXT, length))
    if length < _MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, 126, length)
    return struct.pack("!BBQ", _FINAL_TEXT, 127, length)
