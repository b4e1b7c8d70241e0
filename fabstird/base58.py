"""Base58btc text, as peer ids are written (draft-msporny-base58-03)."""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {ord(char): value for value, char in enumerate(_ALPHABET)}


def encode(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    digits.append("1" * (len(data) - len(data.lstrip(b"\0"))))
    return "".join(reversed(digits))


def decode(text: str | bytes) -> bytes:
    """Decode base58btc. Raises ValueError. The time grows with the square of the length, which the caller must
    bound."""
    raw = text.encode() if isinstance(text, str) else text
    number = 0
    for char in raw:
        digit = _DIGITS.get(char)
        if digit is None:
            raise ValueError("a character that base58 does not have")
        number = number * 58 + digit
    zeros = len(raw) - len(raw.lstrip(b"1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
