"""UPnP's messages, as far as an Internet gateway (IGD:1 and IGD:2) maps a port by them: SSDP's search, the
gateway's description and its SOAP calls. Made and read, nothing is sent here.

Whatever a router names must be on the router: a description or a service at another host would have this node ask
there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from xml.sax.saxutils import escape

from fabstird.p2p.nat.portmap.bounded_xml import XmlError, leaves
from fabstird.p2p.nat.portmap.mappings import Kind, MappingError
from fabstird.p2p.wire.ips import IP, to_ip

GROUP, PORT = "239.255.255.250", 1900  # SSDP
MAX_DATAGRAM = 2048  # bytes
MAX_PATH = 512  # characters
MAX_SERVICES = 4  # of a router, that are tried

_DEVICES = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))
_SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
CONFLICT, NO_SUCH = 718, 714  # codes of refusals
NO_LEASE = (402, 501, 725)  # what routers say that know no lease; 725 is the right one
_REFUSALS = {
    401: "it does not know the call",
    402: "it does not take the arguments",
    501: "it fails",
    606: "it is not allowed: port mapping is switched off in the router",
    CONFLICT: "the external port is another machine's",
    724: "it maps equal ports alone",
    729: "the external port is mapped by other means",
}


class Refused(MappingError):
    """The router says no; ``code`` is UPnP's."""

    def __init__(self, code: int) -> None:
        super().__init__(_REFUSALS.get(code, f"the router refuses with code {code}"))
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """Where on the router HTTP is asked."""

    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Service:
    """What maps ports."""

    kind: str
    place: Place


# --------------------------------------------------------------------------------------------------------------------
# SSDP


def searches() -> list[bytes]:
    """One datagram for each kind that is looked for."""
    return [
        f'M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {kind}\r\n\r\n'.encode()
        for kind in (*_DEVICES, _SERVICES[-1])
    ]


def read_found(datagram: bytes, gateway: IP) -> Place | None:
    """Where the gateway's description is; None where this is no answer of a gateway about itself."""
    if len(datagram) > MAX_DATAGRAM:
        return None
    first, *lines = datagram.decode("latin-1").split("\r\n")
    if first.split(" ")[:2] != ["HTTP/1.1", "200"]:
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("st") not in (*_DEVICES, *_SERVICES):
        return None
    return place(headers.get("location", ""), gateway)


def place(url: str, gateway: IP) -> Place | None:
    """None where the URL does not lead to the gateway by HTTP."""
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
        host = to_ip(parts.hostname or "")
    except ValueError:
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_plain = path.isascii() and path.isprintable() and " " not in path and path.startswith("/")
    if parts.scheme != "http" or parts.username is not None or host != gateway or not port or not is_plain:
        return None
    return Place(port, path) if len(path) <= MAX_PATH else None


# --------------------------------------------------------------------------------------------------------------------
# The description


def read_services(description: bytes, at: Place, gateway: IP) -> list[Service]:
    """The services that map ports, on the gateway itself, the best first. ``at``: where the description was. Raises
    `MappingError`."""
    try:
        found = leaves(description)
    except XmlError as error:
        raise MappingError(f"the router's description cannot be read: {error}") from error
    own = f"http://{gateway}:{at.port}{at.path}" if gateway.version == 4 else f"http://[{gateway}]:{at.port}{at.path}"
    base = next((leaf.text for leaf in found if leaf.name == "URLBase"), own)
    kinds = {leaf.parent: leaf.text for leaf in found if leaf.name == "serviceType"}
    services = []
    for leaf in found:
        kind = kinds.get(leaf.parent, "")
        if leaf.name == "controlURL" and kind in _SERVICES:
            there = _joined(base, leaf.text, gateway)
            if there is not None:
                services.append(Service(kind, there))
    if not services:
        raise MappingError("the router has no service that maps ports")
    return sorted(services, key=lambda service: _SERVICES.index(service.kind))[:MAX_SERVICES]


def _joined(base: str, url: str, gateway: IP) -> Place | None:
    try:
        return place(urljoin(base, url), gateway)
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------------------------
# Calls


def call(service: Service, action: str, arguments: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the call."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.kind}#{action}"'}
    return headers, body.encode()


def mapping(local: IP, port: int, external_port: int, lease: int, kind: Kind = "tcp") -> dict[str, str]:
    """Arguments of AddPortMapping. ``lease`` in seconds; 0 is without an end."""
    return {
        **named(external_port, kind),
        "NewInternalPort": str(port),
        "NewInternalClient": str(local),
        "NewEnabled": "1",
        "NewPortMappingDescription": "fabstird",
        "NewLeaseDuration": str(lease),
    }


def named(external_port: int, kind: Kind = "tcp") -> dict[str, str]:
    """Arguments of DeletePortMapping."""
    return {"NewRemoteHost": "", "NewExternalPort": str(external_port), "NewProtocol": kind.upper()}


def read_answer(status: int, body: bytes) -> dict[str, str]:
    """What the answer names. Raises `Refused`, and `MappingError` where it is none."""
    try:
        found = {leaf.name: leaf.text for leaf in leaves(body)} if body or status != 200 else {}
    except XmlError as error:
        raise MappingError(f"the router's answer cannot be read: {error}") from error
    code = found.get("errorCode", "")
    if code.isascii() and code.isdecimal() and len(code) < 6:
        raise Refused(int(code))
    if status != 200:
        raise MappingError(f"the router answers with HTTP status {status}")
    return found


def read_external(answer: Mapping[str, str]) -> IP:
    """Out of GetExternalIPAddress's answer. Raises `MappingError`."""
    try:
        return ipaddress.IPv4Address(answer.get("NewExternalIPAddress", "0.0.0.0"))
    except ValueError as error:
        raise MappingError("the router names no external address") from error
