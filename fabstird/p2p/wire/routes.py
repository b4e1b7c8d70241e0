"""The default routes of this machine from the kernel's tables in /proc (Linux): the interface that leads out, and its
router. Other systems have none."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fabstird.p2p.wire.ips import IP

TABLES = (Path("/proc/self/net/route"), Path("/proc/self/net/ipv6_route"))
MAX_TABLE = 64 * 1024  # bytes read of each table

_GATEWAY, _REJECT = 0x2, 0x200  # flags of a route, linux/route.h


@dataclass(frozen=True, slots=True)
class Route:
    """A default route. ``gateway`` is None for a link without a router, such as a tunnel."""

    interface: str
    gateway: IP | None
    metric: int
    version: int  # of IP


def default_routes() -> list[Route]:
    """The default routes of both IP versions, the preferred one of each first."""
    texts = []
    for table in TABLES:
        try:
            with table.open(encoding="ascii", errors="replace") as file:
                texts.append(file.read(MAX_TABLE))
        except OSError:
            texts.append("")  # no such table: not Linux, or no IPv6
    return parse(*texts)


def parse(ip4: str, ip6: str) -> list[Route]:
    """Parse /proc/net/route and /proc/net/ipv6_route; malformed lines are skipped."""
    return sorted([*_read(ip4, 4), *_read(ip6, 6)], key=lambda route: (route.version, route.metric))


def _read(text: str, version: int) -> Iterator[Route]:
    for line in text.splitlines():
        words = line.split()
        try:
            route = _ip4_route(words) if version == 4 else _ip6_route(words)
        except (ValueError, IndexError, OverflowError):
            continue  # the heading, or an incomplete line
        if route is not None and route.interface != "lo":
            yield route


def _ip4_route(words: list[str]) -> Route | None:
    """Fields: interface, destination, gateway, flags, two counters, metric, mask. Addresses are integers in the
    machine's byte order."""
    interface, destination, gateway, flags, _, _, metric, mask = words[:8]
    if int(destination, 16) or int(mask, 16) or int(flags, 16) & _REJECT:
        return None
    router = ipaddress.IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder)) if int(flags, 16) & _GATEWAY else None
    return Route(interface, router, int(metric), 4)


def _ip6_route(words: list[str]) -> Route | None:
    """Fields: destination and its length, source and its length, next hop, metric, two counters, flags, interface."""
    destination, length, _, _, hop, metric, _, _, flags, interface = words[:10]
    if int(destination, 16) or int(length, 16) or int(flags, 16) & _REJECT:
        return None
    router = ipaddress.IPv6Address(int(hop, 16)) if int(flags, 16) & _GATEWAY else None
    return Route(interface, router, int(metric, 16), 6)
