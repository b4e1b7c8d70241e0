"""IP addresses in one canonical form, and the kind of network that they belong to.

The host of an address may also be a name, so code that needs an IP address asks here. An IPv4-mapped IPv6 address
(``::ffff:127.0.0.1``) is the IPv4 address, and an interface's name (``fe80::1%eth0``) is dropped. Bans, limits and
dials therefore mean the same address, however it is spelled.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where an address leads: everywhere, into a private network, to this machine, or nowhere that can be dialled
Reach = Literal["global", "private", "loopback", "nowhere"]

# Private networks. 10.0.0.5 means the same only to hosts in the same 10.0.0.0/8
_PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
        *("100.64.0.0/10", "198.18.0.0/15"),  # carrier-grade NAT (RFC 6598), and benchmarks (RFC 2544)
        *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"),  # documentation, and laboratories
    )
)
# IPv6 addresses that contain an IPv4 address, and its position: NAT64 (RFC 6052), 6to4 (RFC 3056)
_CARRIERS = ((ipaddress.IPv6Network("64:ff9b::/96"), 0), (ipaddress.IPv6Network("2002::/16"), 80))
_SITE = 56  # bits of a private IPv6 network that make a site, of a /48 or shorter prefix (RFC 4193)


def to_ip(host: str) -> IP | None:
    """The IP address; None for a name. The address of a peer behind a relay has the relay's host, which may be a
    name."""
    try:
        return canonical(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def canonical(ip: IP) -> IP:
    """The address, with an IPv4-mapped IPv6 address as IPv4."""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def to_network(text: str) -> Network | None:
    """An IP address or a network in CIDR notation, canonical and without host bits; None where the text is neither."""
    address, slash, prefix = text.partition("/")
    try:
        found = ipaddress.ip_network(address.partition("%")[0] + slash + prefix, strict=False)
    except ValueError:
        return None
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:
        return ipaddress.ip_network((mapped, found.prefixlen - 96), strict=False)
    return found


def reach(ip: IP) -> Reach:
    """Where a dial to the address would lead. Multicast, link-local and reserved addresses lead nowhere: no peer has a
    multicast or reserved one, and a link-local one names no interface."""
    ip = canonical(ip)
    if ip.is_loopback:
        return "loopback"
    for network, shift in _CARRIERS:
        if ip in network:
            carried = ipaddress.IPv4Address(int(ip) >> shift & 0xFFFFFFFF)
            return "global" if reach(carried) == "global" else "nowhere"
    if private_network(ip) is not None:
        return "private"
    odd = ip.is_multicast or ip.is_reserved or (isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local)
    return "global" if ip.is_global and not odd else "nowhere"


def private_network(ip: IP) -> Network | None:
    """The private network of the address, as far as the address tells; None for a public one."""
    for network in _PRIVATE:
        if ip in network:
            return ipaddress.ip_network((ip, _SITE), strict=False) if ip.version == 6 else network
    return None


def group(ip: IP) -> str:
    """The unit for limits per address: an IPv4 address, or an IPv6 /64, the least that a customer gets."""
    ip = canonical(ip)
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


def group_of_host(host: str) -> str:
    """The `group` of a host; a name is a group of its own."""
    ip = to_ip(host)
    return host if ip is None else group(ip)


def block_of_host(host: str) -> str:
    """An IPv4 /24 or an IPv6 /48, which the renter of a machine or two may control. ``host`` may be a `group`. A name
    is a block of its own."""
    network = to_network(host)
    if network is None:
        return host
    return str(network.supernet(new_prefix=min(network.prefixlen, 24 if network.version == 4 else 48)))


def neighbourhood(ip: IP) -> str:
    """A wider group, for diversity: an IPv4 /16 or an IPv6 /32, roughly one provider."""
    ip = canonical(ip)
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))
