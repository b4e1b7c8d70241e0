"""Interfaces that support multicast, and UDP sockets in the mDNS group on each (RFC 6762; Linux).

A socket is bound to the group's address, not to the wildcard. So it receives only what was sent to the group on its own
interface, and no stranger's datagram from outside the local network.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Literal

import ifaddr
import trio

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
MAX_INTERFACES = 16  # container hosts have many bridges and tunnels, and each takes two sockets

Version = Literal[4, 6]

_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK, _IFF_MULTICAST = 0x1, 0x8, 0x1000
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h


@dataclass(frozen=True, slots=True)
class Interface:
    """``networks`` has each interface address with its prefix, link-local ones included."""

    name: str
    index: int
    networks: frozenset[ipaddress.IPv4Interface | ipaddress.IPv6Interface]

    def has(self, host: str) -> bool:
        """Whether ``host`` is an address of the interface."""
        return any(str(one.ip) == host for one in self.networks)

    @property
    def versions(self) -> list[Version]:
        return [version for version in (4, 6) if any(one.version == version for one in self.networks)]


def interfaces() -> list[Interface]:
    """Interfaces that are up, support multicast, have an address and are not loopback; at most `MAX_INTERFACES`."""
    found: list[Interface] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for adapter in ifaddr.get_adapters():
            if adapter.index is None or not _can_multicast(asking, adapter.name):
                continue
            networks = frozenset(_network(entry) for entry in adapter.ips)
            if networks:
                found.append(Interface(adapter.name, adapter.index, networks))
    return found[:MAX_INTERFACES]


def _network(entry: ifaddr.IP) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    host = entry.ip if isinstance(entry.ip, str) else entry.ip[0].split("%")[0]
    return ipaddress.ip_interface(f"{host}/{entry.network_prefix}")


def _can_multicast(asking: socket.socket, name: str) -> bool:
    """Ask the kernel. /sys may show another network namespace."""
    try:
        answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sh14x", name.encode()[:15], 0))
    except OSError:
        return False  # it has gone since it was listed, or is an alias
    flags: int = struct.unpack("16xH14x", answer)[0]
    return bool(flags & _IFF_UP and flags & _IFF_MULTICAST and not flags & _IFF_LOOPBACK)


async def join(interface: Interface, version: Version) -> trio.socket.SocketType:
    """A socket in the group. The port is shared with other mDNS programs on this machine. Raises OSError."""
    if version == 4:
        sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    else:
        sock = trio.socket.socket(trio.socket.AF_INET6, trio.socket.SOCK_DGRAM)
    try:
        # Both, since some programs share by one of them and some by the other.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 4:
            await _join4(sock, interface.index)
        else:
            await _join6(sock, interface.index)
    except BaseException:
        sock.close()
        raise
    return sock


async def _join4(sock: trio.socket.SocketType, index: int) -> None:
    await sock.bind((GROUP4, PORT))
    membership = struct.pack("4s4si", socket.inet_aton(GROUP4), bytes(4), index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # nothing that arrived on other interfaces
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)  # as RFC 6762, section 11, recommends
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)  # for other peers on this machine


async def _join6(sock: trio.socket.SocketType, index: int) -> None:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    await sock.bind((GROUP6, PORT, 0, index))
    membership = struct.pack("16si", socket.inet_pton(socket.AF_INET6, GROUP6), index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)


def group(interface: Interface, version: Version) -> tuple[str, int] | tuple[str, int, int, int]:
    """The destination address of messages."""
    return (GROUP4, PORT) if version == 4 else (GROUP6, PORT, 0, interface.index)


def in_words(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"UDP port {PORT} is taken by a program that does not share it"
    return (error.strerror or str(error)).lower()
