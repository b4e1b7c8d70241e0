"""Multiaddrs as this daemon reads them: host, port, transport and peer, or one line that says what is wrong.

Pure, but for asking the kernel for its interfaces. The grammar is the one of the transports that exist here:
``/(ip4|ip6|dns|dns4|dns6)/HOST/tcp/PORT[/ws][/p2p/PEER]``, ``/dnsaddr/NAME[/p2p/PEER]`` (multiformats/multiaddr), and
by way of a relay at any of these, ``…/p2p/RELAY/p2p-circuit[/p2p/PEER]``.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Literal

import ifaddr
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

Transport = Literal["tcp", "ws"]
MAX_PEER_ID = 128  # characters; the longest real one has 73. Decoding takes time that grows with the square of them
MAX_TEXT = 512  # characters of an address; the longest name has 253
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


class AddressError(ValueError):
    """The text is no multiaddr that this node can use; the message says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address. ``port`` is 0 and ``transport`` "tcp" for a ``dnsaddr``, which names no endpoint by itself."""

    kind: str  # ip4, ip6, dns, dns4, dns6, dnsaddr
    host: str
    port: int
    transport: Transport
    peer_id: str | None
    relay: str | None = None  # the peer id of the relay that listens there, for an address that leads through one

    def __str__(self) -> str:
        text = f"/{self.kind}/{self.host}"
        if self.kind != "dnsaddr":
            text += f"/tcp/{self.port}" + ("/ws" if self.transport == "ws" else "")
        if self.relay:
            text += f"/p2p/{self.relay}/p2p-circuit"
        return text + (f"/p2p/{self.peer_id}" if self.peer_id else "")

    @property
    def at_relay(self) -> Address:
        """Where the relay itself is."""
        return replace(self, peer_id=self.relay, relay=None)

    @property
    def bare(self) -> Address:
        """Without the peer id, as identify and listeners want it."""
        return replace(self, peer_id=None)

    @property
    def multiaddr(self) -> Multiaddr:
        return Multiaddr(str(self))


def parse(text: str) -> Address:
    """Raises `AddressError`."""
    if len(text) > MAX_TEXT:
        raise AddressError(f'"{text[:MAX_TEXT]}…" is too long for a multiaddr')
    empty, *parts = text.removesuffix("/").split("/")
    if empty or len(parts) < 2:
        raise AddressError(f'"{text}" is not a multiaddr')
    kind, host, *rest = parts
    peer_id = relay = None
    if len(rest) >= 2 and rest[-2] == "p2p":
        peer_id, rest = normal_peer_id(rest[-1]), rest[:-2]
    if rest[-1:] == ["p2p-circuit"]:
        if len(rest) < 3 or rest[-3] != "p2p":
            raise AddressError(f'"{text}" must name the relay: …/p2p/<relay\'s peer id>/p2p-circuit')
        relay, rest = normal_peer_id(rest[-2]), rest[:-3]
    if kind == "dnsaddr":
        if rest:
            raise AddressError(f'"{text}": /dnsaddr takes a name and a peer id, nothing else')
        address = Address("dnsaddr", host, 0, "tcp", peer_id, relay)
    elif kind not in _HOSTS:
        raise AddressError(f'"{text}" does not begin with an address that can be reached')
    elif len(rest) < 2 or rest[0] != "tcp" or rest[2:] not in ([], ["ws"]):
        wanted = "/".join(rest) or "nothing"
        why = "; why QUIC is left off is in docs/interop.md" if rest[2:3] == ["quic-v1"] else ""
        raise AddressError(
            f'no transport for "{text}": this node speaks /tcp/PORT and /tcp/PORT/ws, not /{wanted}{why}'
        )
    else:
        address = Address(kind, host, _port(rest[1], text), "ws" if rest[2:] else "tcp", peer_id, relay)
    try:
        address.bare.multiaddr.to_bytes()
    except (MultiaddrError, ValueError) as error:
        raise AddressError(f'"{text}" is not a multiaddr: "{host}" is no /{kind}') from error
    return address


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise AddressError(f'"{whole}": "{text}" is not a port')
    return int(text)


def normal_peer_id(text: str) -> str:
    """The peer id as base58btc text, from either of its textual forms. Raises `AddressError`."""
    if len(text) > MAX_PEER_ID:
        raise AddressError(f'the peer id "{text[:MAX_PEER_ID]}…" cannot be decoded: it is too long')
    try:
        if "/" in text:
            raise ValueError("more than one part of a multiaddr")
        # Multiaddr checks the multihash and reads the CID form too; ID.from_base58 takes any base58 text.
        packed = Multiaddr(f"/p2p/{text}").to_bytes()
        value = Multiaddr(packed).value_for_protocol("p2p")
    except (MultiaddrError, ValueError, LookupError) as error:
        raise AddressError(f'the peer id "{text}" cannot be decoded') from error
    if not value:
        raise AddressError(f'the peer id "{text}" cannot be decoded')
    return ID.from_base58(value).to_base58()


def from_endpoint(host: str, port: int, transport: Transport) -> Address:
    """The address of a socket's end; an IPv4 address in IPv6 clothing is shown as what it is."""
    ip = ipaddress.ip_address(host.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return Address("ip4" if ip.version == 4 else "ip6", str(ip), port, transport, None)


def expand(address: Address) -> list[Address]:
    """A wildcard (``0.0.0.0``, ``::``) as one address for each interface, in a stable order, loopback last."""
    ip = ipaddress.ip_address(address.host)
    if not ip.is_unspecified:
        return [address]
    own = {
        ipaddress.ip_address(entry.ip if isinstance(entry.ip, str) else entry.ip[0].split("%")[0])
        for adapter in ifaddr.get_adapters()
        for entry in adapter.ips
    }
    # A link-local address says nothing without the interface it belongs to, which a multiaddr here cannot carry.
    usable = [one for one in own if one.version == ip.version and not one.is_link_local]
    return [replace(address, host=str(one)) for one in sorted(usable, key=lambda one: (one.is_loopback, int(one)))]
