"""The rules in ``[tunnels] allow``: which targets beyond this machine tunnels may reach."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ANY = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``host`` is a network or a host name; a ``port`` of None means any port."""

    host: Network | str
    port: int | None

    def allows(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if isinstance(self.host, str):
            return self.host == host.lower()
        address = plain_ip(host)
        return address is not None and address.version == self.host.version and address in self.host


def plain_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, with an IPv4-mapped IPv6 address as IPv4; None for a name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def rule(text: str) -> Rule:
    """Parse ``10.0.0.5:22``, ``192.168.1.0/24:*``, ``[fd00::/8]:80`` or ``db.example:5432``. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port == ANY or (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16)):
        raise ValueError('must end in ":" and a port from 1 to 65535, or ":*"')
    number = None if port == ANY else int(port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address must be in brackets")
    if host.replace(".", "").replace("/", "").isdecimal() or ":" in host:
        return Rule(ipaddress.ip_network(host, strict=False), number)
    if not host or not all(part.isascii() and part.replace("-", "").isalnum() for part in host.rstrip(".").split(".")):
        raise ValueError("must begin with an IP address, a network or a name")
    return Rule(host.lower(), number)
