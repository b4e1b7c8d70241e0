"""Keys of the DHT as users write them, and what a key says about its value.

How a key is written is said, not guessed: ``text`` (UTF-8, the default), ``base64``, or ``cid``, of which the DHT takes
the multihash (libp2p specification, kad-dht, "Content provider advertisement").
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Literal

import base58

Encoding = Literal["text", "base64", "cid"]

MAX_KEY = 512  # bytes; what is longer names a value badly
MAX_PROVIDED = 80  # bytes of a key that is provided: go-libp2p takes no more
_SHA2_256 = b"\x12\x20"
_ALPHABETS = {"b": "base32", "z": "base58btc", "f": "base16", "u": "base64url", "m": "base64"}


class BadKey(ValueError):
    """The text is no key in its encoding; the message says why."""


def parse(text: str, encoding: Encoding) -> bytes:
    """Raises `BadKey`."""
    if len(text) > 2 * MAX_KEY:
        raise BadKey(f"of {len(text)} characters is too long; {MAX_KEY} bytes are taken")
    if encoding == "text":
        key = text.encode("utf-8", "surrogatepass")
    elif encoding == "base64":
        key = _base64(text)
    else:
        key = _cid(text)
    if not key:
        raise BadKey("must not be empty")
    if len(key) > MAX_KEY:
        raise BadKey(f"of {len(key)} bytes is too long; {MAX_KEY} are taken")
    return key


def multihash(data: bytes) -> bytes:
    """The sha2-256 multihash."""
    return _SHA2_256 + sha256(data).digest()


def owner(key: bytes) -> bytes | None:
    """The peer whose word the value is: the Fabstir node's ``metadata:<peer id>``. None for all other keys."""
    head, colon, tail = key.partition(b":")
    if not colon or head != b"metadata" or not 0 < len(tail) <= 128:
        return None
    try:
        peer = base58.b58decode(tail)
    except ValueError:
        return None
    return peer if is_multihash(peer) else None


def namespace(key: bytes) -> str | None:
    """``pk`` of ``/pk/…``; None where the key has none."""
    parts = key.split(b"/", 2)
    return parts[1].decode("ascii", "replace") if len(parts) == 3 and not parts[0] else None


def is_multihash(data: bytes) -> bool:
    """Whether it is a peer id's multihash: identity (an inlined key), or sha2-256."""
    return (len(data) > 2 and data[0] == 0 and data[1] == len(data) - 2) or (
        len(data) == 34 and data.startswith(_SHA2_256)
    )


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKey(f"is not standard base64: {error}") from error


def _cid(text: str) -> bytes:
    """The multihash of a CID (multiformats/cid), version 0 or 1."""
    try:
        if len(text) == 46 and text.startswith("Qm"):
            data = base58.b58decode(text)
            if not (len(data) == 34 and data.startswith(_SHA2_256)):
                raise ValueError("not a sha2-256 multihash")
            return data
        data = _multibase(text)
        version, data = _varint(data)
        if version != 1:
            raise ValueError(f"version {version}")
        _, data = _varint(data)  # the content's codec is no part of the key
        _, rest = _varint(data)
        size, digest = _varint(rest)
        if size != len(digest):
            raise ValueError(f"its multihash has {len(digest)} bytes and says {size}")
    except (ValueError, IndexError, binascii.Error) as error:
        raise BadKey(f'"{text[:80]}" is no CID: {error}') from error
    return data


def _multibase(text: str) -> bytes:
    prefix, body = text[:1], text[1:]
    if not body.isascii():
        raise ValueError("it is not ASCII")
    if prefix in ("b", "B"):
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    if prefix == "z":
        return base58.b58decode(body)
    if prefix in ("f", "F"):
        return bytes.fromhex(body)
    if prefix in ("u", "m"):
        altchars = b"-_" if prefix == "u" else None
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars, validate=True)
    raise ValueError(f'its multibase "{prefix}" is none of {", ".join(_ALPHABETS)}')


def _varint(data: bytes) -> tuple[int, bytes]:
    value = 0
    for index in range(9):
        value |= (data[index] & 0x7F) << 7 * index
        if data[index] < 0x80:
            return value, data[index + 1 :]
    raise ValueError("a number of more than nine bytes")
