"""PCP's messages (RFC 6887), as far as a port is mapped by them: made and read, nothing is sent here."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from fabstird.p2p.nat.portmap.mappings import Kind, MappingError
from fabstird.p2p.nat.portmap.natpmp import MAX_MESSAGE
from fabstird.p2p.wire.ips import IP, canonical

VERSION = 2
NONCE = 12  # bytes; whoever does not know the nonce of a mapping can neither renew nor remove it

_MAP, _ANSWER = 1, 0x80
_PROTOCOLS: dict[Kind, int] = {"tcp": 6, "udp": 17}
_HEADER, _WHOLE = 24, 60  # bytes of an answer
_RESULTS = {
    1: "it speaks another version",
    2: "it is not allowed: port mapping is switched off in the router",
    3: "the router cannot read the request",
    4: "it does not map ports",
    5: "the router does not support an option",
    6: "the router cannot read an option",
    7: "the router has no public address at present",
    8: "the router has no room for more mappings",
    9: "it does not map {kind}",
    10: "this machine has as many mappings as the router allows",
    11: "the router cannot give that external port",
    12: "another router lies between, and changes addresses",
    13: "the router does not support so many peers",
}


@dataclass(frozen=True, slots=True)
class Mapped:
    external: IP
    external_port: int
    lease: int  # seconds


def map_request(local: IP, port: int, external_port: int, lease: int, nonce: bytes, kind: Kind = "tcp") -> bytes:
    """``lease`` in seconds; with 0 the mapping is removed. ``external_port`` is a wish, 0 for any; ``local`` must be
    the address that the request is sent from."""
    nothing = ipaddress.IPv6Address("::ffff:0:0" if local.version == 4 else "::")
    header = struct.pack(">BBHI16s", VERSION, _MAP, 0, lease, _sixteen(local))
    return header + struct.pack(">12sB3xHH16s", nonce, _PROTOCOLS[kind], port, external_port, nothing.packed)


def read_mapped(data: bytes, port: int, nonce: bytes, kind: Kind = "tcp") -> Mapped | None:
    """None where this is no answer to the request for ``port`` with this nonce. Raises `MappingError`."""
    if len(data) < 4 or len(data) > MAX_MESSAGE or not data[1] & _ANSWER:
        return None
    if data[0] != VERSION:  # a NAT-PMP server refuses with its own version
        raise MappingError(_RESULTS[1])
    result = data[3]
    if data[1] != _ANSWER | _MAP or len(data) % 4 or len(data) < _HEADER:
        return None
    if len(data) < _WHOLE:
        if result:
            raise _refusal(result, kind)
        return None
    theirs, protocol, internal, external_port, packed = struct.unpack_from(">12sB3xHH16s", data, _HEADER)
    if (theirs, protocol, internal) != (nonce, _PROTOCOLS[kind], port):
        return None
    if result:
        raise _refusal(result, kind)
    (lease,) = struct.unpack_from(">I", data, 4)
    return Mapped(canonical(ipaddress.IPv6Address(packed)), external_port, lease)


def _refusal(result: int, kind: Kind) -> MappingError:
    words = _RESULTS.get(result, f"the router refuses with code {result}")
    return MappingError(words.format(kind=kind.upper()))


def _sixteen(ip: IP) -> bytes:
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
