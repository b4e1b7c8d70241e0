"""Unsigned varints (multiformats/unsigned-varint): seven bits a byte, least significant first."""

from __future__ import annotations

MAX_BYTES = 9  # 63 bits, as the specification allows


def encode(value: int) -> bytes:
    """The shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes | bytearray, at: int = 0, *, longest: int = MAX_BYTES) -> tuple[int, int] | None:
    """The number at ``at``, and the position after it; None where ``data`` ends within it.

    Raises ValueError for a number of more than ``longest`` bytes.
    """
    value = 0
    for index in range(longest):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError(f"a number of more than {longest} bytes")
