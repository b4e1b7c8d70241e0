"""NAT-PMP's messages (RFC 6886): made and read, nothing is sent here."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from fabstird.p2p.nat.portmap.mappings import Kind, MappingError

PORT = 5351  # UDP, of the router
VERSION = 0
MAX_MESSAGE = 1100  # bytes; RFC 6887, section 7, has the longest of both protocols

_ANSWER = 0x80  # of an operation, in its answer
_ADDRESS = 0
_MAP: dict[Kind, int] = {"udp": 1, "tcp": 2}
_RESULTS = {
    1: "it speaks another version",
    2: "it is not allowed: port mapping is switched off in the router",
    3: "the router has no public address at present",
    4: "the router has no room for more mappings",
    5: "it does not map {kind}",
}

ADDRESS_REQUEST = bytes((VERSION, _ADDRESS))


@dataclass(frozen=True, slots=True)
class Mapped:
    external_port: int
    lease: int  # seconds


def map_request(port: int, external_port: int, lease: int, kind: Kind = "tcp") -> bytes:
    """``lease`` in seconds; with 0 and external port 0 the mapping is removed."""
    return struct.pack(">BBHHHI", VERSION, _MAP[kind], 0, port, external_port, lease)


def read_address(data: bytes) -> ipaddress.IPv4Address | None:
    """The external address; None where this is no answer to `ADDRESS_REQUEST`. Raises `MappingError`."""
    if not _is_answer(data, _ADDRESS, 12):
        return None
    return ipaddress.IPv4Address(data[8:12])


def read_mapped(data: bytes, port: int, kind: Kind = "tcp") -> Mapped | None:
    """None where this is no answer to the request for ``port``. Raises `MappingError`."""
    if not _is_answer(data, _MAP[kind], 16, kind):
        return None
    internal, external, lease = struct.unpack_from(">HHI", data, 8)
    return Mapped(external, lease) if internal == port else None


def _is_answer(data: bytes, operation: int, size: int, kind: Kind = "tcp") -> bool:
    """An answer that says no may be shorter than one that says yes. Raises `MappingError`."""
    if len(data) < 4 or len(data) > MAX_MESSAGE or data[1] not in (_ANSWER | operation, _ANSWER):
        return False
    (result,) = struct.unpack_from(">H", data, 2)
    if data[0] != VERSION:  # a PCP server refuses with its own version (RFC 6887, section 9)
        raise MappingError(_RESULTS[1])
    if data[1] != _ANSWER | operation:
        return False
    if result:
        words = _RESULTS.get(result, f"the router refuses with code {result}")
        raise MappingError(words.format(kind=kind.upper()))
    return len(data) >= size
