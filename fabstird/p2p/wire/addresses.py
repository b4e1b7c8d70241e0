"""Multiaddrs as this daemon reads them: host, port, transport and peer, or one line that says what is wrong.

Pure, except for asking the kernel for its interfaces. The grammar covers the transports that exist here:
``/(ip4|ip6|dns|dns4|dns6)/HOST/tcp/PORT[/ws | /tls[/sni/NAME]/ws][/p2p/PEER]``, ``…/HOST/udp/PORT/quic-v1[/p2p/PEER]``,
``/dnsaddr/NAME[/p2p/PEER]`` (multiformats/multiaddr), and through a relay at any of these,
``…/p2p/RELAY/p2p-circuit[/p2p/PEER]``.

An address is normalised, however it was spelled: IP addresses as in `ips`, names in lower case, peer ids in base58btc,
``/p2p/`` for ``/ipfs/``, ``/tls/ws`` for ``/wss``.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import ifaddr
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError
from multiaddr.protocols import P_P2P

from fabstird import base58
from fabstird.p2p.wire.ips import to_ip

Transport = Literal["tcp", "ws", "wss", "quic-v1"]  # wss: WebSocket inside TLS
QUIC: Transport = "quic-v1"
# characters; the longest real one has 73. Decoding takes time that grows with the square of the length
MAX_PEER_ID = 128
MAX_TEXT = 512  # characters of an address; the longest name has 253
_NAMES_A_PEER = ("p2p", "ipfs")  # ``ipfs`` is its older name (multiformats/multiaddr, protocols)
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


class AddressError(ValueError):
    """The text is not a multiaddr that this node can use; the message says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address. A ``dnsaddr`` names no endpoint by itself, and has port 0 and ``transport`` "tcp"."""

    kind: str  # ip4, ip6, dns, dns4, dns6, dnsaddr
    host: str
    port: int
    transport: Transport
    peer_id: str | None
    relay: str | None = None  # the peer id of the relay, for an address through one
    # the name that the host was resolved from, for the Host header of a WebSocket
    name: str | None = field(default=None, compare=False)
    sni: str | None = None  # for wss, the name that the certificate must be for, if it is not the host

    def __str__(self) -> str:
        text = f"/{self.kind}/{self.host}"
        if self.kind != "dnsaddr":
            text += f"/udp/{self.port}/quic-v1" if self.transport == QUIC else f"/tcp/{self.port}"
        if self.transport == "ws":
            text += "/ws"
        elif self.transport == "wss":
            text += f"/tls/sni/{self.sni}/ws" if self.sni else "/tls/ws"
        if self.relay:
            text += f"/p2p/{self.relay}/p2p-circuit"
        return text + (f"/p2p/{self.peer_id}" if self.peer_id else "")

    @property
    def at_relay(self) -> Address:
        """The address of the relay itself."""
        return replace(self, peer_id=self.relay, relay=None)

    @property
    def bare(self) -> Address:
        """Without the peer id, as identify and listeners need it."""
        return replace(self, peer_id=None)

    @property
    def packed(self) -> bytes:
        """As bytes for messages."""
        return bytes(Multiaddr(str(self)).to_bytes())


def parse(text: str) -> Address:
    """Parse a multiaddr. Raises `AddressError`."""
    if len(text) > MAX_TEXT:
        raise AddressError(f'"{text[:MAX_TEXT]}…" is too long for a multiaddr')
    empty, *parts = text.removesuffix("/").split("/")
    if empty or len(parts) < 2:
        raise AddressError(f'"{text}" is not a multiaddr')
    kind, host, *rest = parts
    kind, host = _normal_host(kind, host)
    peer_id = relay = None
    if len(rest) >= 2 and rest[-2] in _NAMES_A_PEER:
        peer_id, rest = normal_peer_id(rest[-1]), rest[:-2]
    if rest[-1:] == ["p2p-circuit"]:
        if len(rest) < 3 or rest[-3] not in _NAMES_A_PEER:
            raise AddressError(f'"{text}" must name the relay: …/p2p/<relay\'s peer id>/p2p-circuit')
        relay, rest = normal_peer_id(rest[-2]), rest[:-3]
    if kind == "dnsaddr":
        if rest:
            raise AddressError(f'"{text}": /dnsaddr takes a name and a peer id, nothing else')
        address = Address("dnsaddr", host, 0, "tcp", peer_id, relay)
    elif kind not in _HOSTS:
        raise AddressError(f'"{text}" does not begin with an address that can be reached')
    elif len(rest) < 2 or (found := _transport(rest[0], rest[2:])) is None:
        wanted = "/".join(rest) or "nothing"
        raise AddressError(
            f'no transport for "{text}": this node speaks /tcp/PORT and, after it, /ws or /tls/ws, '
            f"and /udp/PORT/quic-v1, not /{wanted}"
        )
    else:
        transport, sni = found
        address = Address(kind, host, _port(rest[1], text), transport, peer_id, relay, sni=sni)
    try:
        address.bare.packed  # noqa: B018 - checks that there is such an address
    except (MultiaddrError, ValueError) as error:
        raise AddressError(f'"{text}" is not a multiaddr: "{host}" is not an /{kind} address') from error
    return address


def _transport(below: str, parts: list[str]) -> tuple[Transport, str | None] | None:
    """The transport, and the name that a certificate must be for, from the protocol before the port and the parts after
    it."""
    if below == "udp":
        return (QUIC, None) if parts == ["quic-v1"] else None
    if below != "tcp":
        return None
    if parts in ([], ["ws"]):
        return ("ws" if parts else "tcp"), None
    if parts in (["wss"], ["tls", "ws"]):
        return "wss", None
    if len(parts) == 4 and (parts[0], parts[1], parts[3]) == ("tls", "sni", "ws") and parts[2] and parts[2].isascii():
        return "wss", parts[2].lower()
    return None


def _normal_host(kind: str, host: str) -> tuple[str, str]:
    """An IPv4-mapped IPv6 address is of kind ip4. A host that should be an IP address and is not is left as it is, and
    refused below."""
    if kind in ("ip4", "ip6"):
        ip = to_ip(host)
        if ip is not None and (":" in host) is (kind == "ip6"):
            return ("ip4" if ip.version == 4 else "ip6"), str(ip)
        return kind, host
    return kind, host.lower() if host.isascii() else host


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise AddressError(f'"{whole}": "{text}" is not a port')
    return int(text)


def is_address(text: str) -> bool:
    """Whether a text should be parsed as an address. Otherwise it is a peer id, possibly after ``/p2p/``."""
    parts = text.split("/")
    return text.startswith("/") and not (len(parts) == 3 and parts[1] in _NAMES_A_PEER)


def normal_peer_id(text: str) -> str:
    """The peer id as base58btc text, from any textual form: base58btc or a CID, alone or after ``/p2p/`` or its older
    name ``/ipfs/``. Raises `AddressError`."""
    if text.startswith("/") and not is_address(text):
        text = text.rpartition("/")[2]
    if len(text) > MAX_PEER_ID:
        raise AddressError(f'the peer id "{text[:MAX_PEER_ID]}…" cannot be decoded: it is too long')
    try:
        return _normal(text)
    except (MultiaddrError, ValueError, LookupError) as error:
        raise AddressError(f'the peer id "{text}" cannot be decoded; one looks like 12D3KooW… or Qm…') from error


@lru_cache(maxsize=1024)  # every opened stream names its peer
def _normal(text: str) -> str:
    if "/" in text:
        raise ValueError("more than one part of a multiaddr")
    # Multiaddr checks the multihash, and reads the CID form too
    packed = Multiaddr(f"/p2p/{text}").to_bytes()
    value = Multiaddr(packed).value_for_protocol("p2p")
    if not value:
        raise ValueError("no peer id")
    return base58.encode(base58.decode(value))


def bare_text(text: str) -> str:
    """Any multiaddr without the peer id at its end, whether this node can dial it or not. Raises `AddressError`."""
    if len(text) > MAX_TEXT:
        raise AddressError(f'"{text[:MAX_TEXT]}…" is too long for a multiaddr')
    return _text(pack(text), bare=True)


def pack(text: str) -> bytes:
    """A multiaddr as bytes for messages. Raises `AddressError`."""
    try:
        return bytes(Multiaddr(text).to_bytes())
    except Exception as error:  # multiaddr raises whatever its codecs raise
        raise AddressError(f'"{text}" is not a multiaddr') from error


def unpack(packed: bytes) -> Address:
    """Parse an address in a message. Raises `AddressError`, also for an unsupported transport."""
    return parse(_text(packed))


def unpack_text(packed: bytes) -> str:
    """Any multiaddr in a message as text, without the peer id at its end; a relayed address keeps the relay's id.
    Raises `AddressError`."""
    return _text(packed, bare=True)


def _text(packed: bytes, *, bare: bool = False) -> str:
    try:
        address = Multiaddr(packed)
        if bare and [*address.protocols()][-1].code == P_P2P:
            address = address.decapsulate_code(P_P2P)
        return str(address)
    except Exception as error:  # multiaddr raises whatever its codecs raise, and a peer chooses the bytes
        raise AddressError("the bytes are not a multiaddr") from error


def from_endpoint(host: str, port: int, transport: Transport) -> Address:
    """The address of one end of a socket, from the numbers that the kernel returns."""
    ip = to_ip(host)
    if ip is None:
        raise ValueError(f"{host!r} is no IP address")
    return Address("ip4" if ip.version == 4 else "ip6", str(ip), port, transport, None)


def expand(address: Address) -> list[Address]:
    """A wildcard address (``0.0.0.0``, ``::``) as one address for each interface, in a stable order, loopback last."""
    ip = ipaddress.ip_address(address.host)
    if not ip.is_unspecified:
        return [address]
    own = {
        ipaddress.ip_address(entry.ip if isinstance(entry.ip, str) else entry.ip[0].split("%")[0])
        for adapter in ifaddr.get_adapters()
        for entry in adapter.ips
    }
    # A link-local address needs its interface's name, which a multiaddr here cannot carry.
    usable = [one for one in own if one.version == ip.version and not one.is_link_local]
    return [replace(address, host=str(one)) for one in sorted(usable, key=lambda one: (one.is_loopback, int(one)))]
