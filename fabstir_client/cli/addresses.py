"""Multiaddrs as the doctor looks at them: what is wrong with one, without any of the daemon's libraries."""

from __future__ import annotations

import ipaddress

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LONGEST = 128  # characters of a peer id
SHA2_256, IDENTITY = 0x12, 0x00  # multihash codes


def fault(address: str) -> str | None:
    """Why nobody can be dialled at this address, in words; None where that cannot be seen from the text."""
    parts = address.strip("/").split("/")
    if len(parts) < 2:
        return "is no multiaddr"
    kind, host = parts[0], parts[1]
    if kind in ("ip4", "ip6"):
        try:
            if ipaddress.ip_address(host).version != int(kind[2]):
                raise ValueError
        except ValueError:
            return f'"{host}" is no /{kind} address'
    for at, part in enumerate(parts[:-1]):
        following = parts[at + 1]
        if part in ("tcp", "udp") and not (following.isascii() and following.isdecimal() and _is_port(following)):
            return f'"{following}" is no port'
        if part == "p2p" and not is_peer_id(following):
            return f'the peer id "{following}" cannot be decoded'
    return None


def _is_port(text: str) -> bool:
    return len(text) <= 5 and int(text) <= 65535


def is_peer_id(text: str) -> bool:
    """Whether it is base58btc of a multihash; the form as a CID, which is longer, is taken at its word."""
    if len(text) > LONGEST or not text:
        return False
    if text[0] in "bBfFzk" and text[:2] != "Qm":
        return text[1:].isalnum()
    value = 0
    for char in text:
        digit = ALPHABET.find(char)
        if digit < 0:
            return False
        value = value * 58 + digit
    leading = len(text) - len(text.lstrip("1"))
    data = bytes(leading) + value.to_bytes((value.bit_length() + 7) // 8, "big")
    if len(data) < 3 or data[1] != len(data) - 2:
        return False
    return data[0] == IDENTITY or (data[0] == SHA2_256 and data[1] == 32)
