"""The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt): names the peer to a program before the first byte of
the stream."""

from __future__ import annotations

import struct

from fabstird.config.tunnels import plain_ip
from fabstird.p2p.transport.proxied import SIGNATURE, TCP4, TCP6

PEER_ID = 0xE0  # the type of the entry with the peer id, as base58 text; reserved for applications

_VERSION_PROXY = 0x21
_UNKNOWN = 0x00


def header(peer_id: str, host: str | None, port: int | None) -> bytes:
    """The header. ``host`` and ``port`` are the peer's end of the connection, if it has an IP address; our end is
    unspecified."""
    entry = peer_id.encode()
    rest = struct.pack("!BH", PEER_ID, len(entry)) + entry
    address = plain_ip(host) if host else None
    if address is None or port is None:
        return SIGNATURE + struct.pack("!BBH", _VERSION_PROXY, _UNKNOWN, len(rest)) + rest
    ends = address.packed + bytes(len(address.packed)) + struct.pack("!HH", port, 0)
    family = TCP4 if address.version == 4 else TCP6
    return SIGNATURE + struct.pack("!BBH", _VERSION_PROXY, family, len(ends) + len(rest)) + ends + rest
