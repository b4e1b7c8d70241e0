"""Checks and normalises multiaddrs and peer ids for the command line, without the daemon's libraries."""

from __future__ import annotations

import base64
import ipaddress
import string

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LONGEST = 128  # characters of a peer id
SHA2_256, IDENTITY = 0x12, 0x00  # multihash codes
CID_OF_A_KEY = b"\x01\x72"  # version 1, codec libp2p-key


def fault(address: str) -> str | None:
    """Why this address cannot be dialled, in words; None if the text shows no mistake."""
    parts = address.strip("/").split("/")
    if len(parts) < 2:
        return "is not a multiaddr"
    kind, host = parts[0], parts[1]
    if kind in ("ip4", "ip6"):
        try:
            if ipaddress.ip_address(host).version != int(kind[2]):
                raise ValueError
        except ValueError:
            return f'"{host}" is not an /{kind} address'
    for at, part in enumerate(parts[:-1]):
        following = parts[at + 1]
        if part in ("tcp", "udp") and not (following.isascii() and following.isdecimal() and _is_port(following)):
            return f'"{following}" is not a port number'
        if part in ("p2p", "ipfs") and not is_peer_id(following):
            return f'the peer id "{following}" cannot be decoded'
    return None


def _is_port(text: str) -> bool:
    return len(text) <= 5 and int(text) <= 65535


def is_peer_id(text: str) -> bool:
    """Whether it is a multihash in base58btc, or the CID of a key (libp2p specifications, peer-ids)."""
    return normal_peer_id(text) is not None


def normal_peer_id(text: str) -> str | None:
    """A peer id in base58btc, as results and events give it; None if the text cannot be decoded."""
    if not 0 < len(text) <= LONGEST or not text.isascii():
        return None
    try:
        data = _multibase(text[0], text[1:])
        if data is None:
            data = _number(text, ALPHABET)
        elif data.startswith(CID_OF_A_KEY):
            data = data[len(CID_OF_A_KEY) :]
        else:
            return None
    except ValueError:
        return None
    return _base58(data) if _is_multihash(data) else None


def _base58(data: bytes) -> str:
    value, digits = int.from_bytes(data, "big"), ""
    while value:
        value, digit = divmod(value, 58)
        digits = ALPHABET[digit] + digits
    return ALPHABET[0] * (len(data) - len(data.lstrip(b"\0"))) + digits


def _multibase(prefix: str, text: str) -> bytes | None:
    """Decode a text in the base that its prefix names (multiformats/multibase); None if the prefix is unknown. Raises
    ValueError."""
    if prefix == "z":
        return _number(text, ALPHABET)
    if prefix in "kK":
        return _number(text, string.digits + (string.ascii_lowercase if prefix == "k" else string.ascii_uppercase))
    if prefix in "fF":
        return bytes.fromhex(text)
    if prefix in "bB":
        return base64.b32decode((text.swapcase() if prefix == "b" else text) + "=" * (-len(text) % 8))
    if prefix in "mu":
        if prefix == "u" and not {"+", "/"}.isdisjoint(text):
            raise ValueError("the characters of another base")
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_" if prefix == "u" else None, validate=True)
    return None


def _number(text: str, alphabet: str) -> bytes:
    """Decode a number with the digits of an alphabet; leading zero digits stand for zero bytes. Raises ValueError."""
    value = 0
    for char in text:
        value = value * len(alphabet) + alphabet.index(char)
    leading = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(leading) + value.to_bytes((value.bit_length() + 7) // 8, "big")


def _is_multihash(data: bytes) -> bool:
    if len(data) < 3 or data[1] != len(data) - 2:
        return False
    return data[0] == IDENTITY or (data[0] == SHA2_256 and data[1] == 32)
