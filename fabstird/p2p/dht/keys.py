"""DHT keys as users write them, and what a key says about its value.

The encoding of a key is stated, not guessed: ``text`` (UTF-8, the default), ``base64``, or ``cid``, of which the DHT
uses the multihash (libp2p specification, kad-dht, "Content provider advertisement").
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Literal

from fabstird import base58
from fabstird.p2p.wire import varint

Encoding = Literal["text", "base64", "cid"]

MAX_KEY = 512  # bytes; longer keys make no sense
MAX_PROVIDED = 80  # bytes of a provided key: go-libp2p accepts no more
_SHA2_256 = b"\x12\x20"
_ALPHABETS = {"b": "base32", "z": "base58btc", "f": "base16", "u": "base64url", "m": "base64"}


class BadKey(ValueError):
    """The text is not a key in its encoding; the message says why."""


def parse(text: str, encoding: Encoding) -> bytes:
    """The key as bytes. Raises `BadKey`."""
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
    """The sha2-256 multihash of ``data``."""
    return _SHA2_256 + sha256(data).digest()


def owner(key: bytes) -> bytes | None:
    """The peer that owns the value: of the Fabstir node's ``metadata:<peer id>``. None for all other keys."""
    head, colon, tail = key.partition(b":")
    if not colon or head != b"metadata" or not 0 < len(tail) <= 128:
        return None
    try:
        peer = base58.decode(tail)
    except ValueError:
        return None
    return peer if is_multihash(peer) else None


def namespace(key: bytes) -> str | None:
    """``pk`` in ``/pk/…``; None where the key has no namespace."""
    parts = key.split(b"/", 2)
    return parts[1].decode("ascii", "replace") if len(parts) == 3 and not parts[0] else None


def is_multihash(data: bytes) -> bool:
    """Whether it is a multihash that a peer id may be: identity (an inlined key) or sha2-256."""
    return (len(data) > 2 and data[0] == 0 and data[1] == len(data) - 2) or (
        len(data) == 34 and data.startswith(_SHA2_256)
    )


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKey(f"is not standard base64: {error}") from error


def _cid(text: str) -> bytes:
    """The multihash in a CID (multiformats/cid), version 0 or 1."""
    try:
        if len(text) == 46 and text.startswith("Qm"):
            data = base58.decode(text)
            if not (len(data) == 34 and data.startswith(_SHA2_256)):
                raise ValueError("not a sha2-256 multihash")
            return data
        data = _multibase(text)
        version, at = _number(data, 0)
        if version != 1:
            raise ValueError(f"version {version}")
        _, start = _number(data, at)  # the content's codec is not part of the key
        _, at = _number(data, start)
        size, at = _number(data, at)
        if size != len(data) - at:
            raise ValueError(f"its multihash has {len(data) - at} bytes and says {size}")
    except (ValueError, binascii.Error) as error:
        raise BadKey(f'"{text[:80]}" is no CID: {error}') from error
    return data[start:]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, and where it ends. Raises ValueError."""
    read = varint.decode(data, at)
    if read is None:
        raise ValueError("it ends within a number")
    return read


def _multibase(text: str) -> bytes:
    prefix, body = text[:1], text[1:]
    if not body.isascii():
        raise ValueError("it is not ASCII")
    if prefix in ("b", "B"):
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    if prefix == "z":
        return base58.decode(body)
    if prefix in ("f", "F"):
        return bytes.fromhex(body)
    if prefix in ("u", "m"):
        altchars = b"-_" if prefix == "u" else None
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars, validate=True)
    raise ValueError(f'its multibase "{prefix}" is none of {", ".join(_ALPHABETS)}')
