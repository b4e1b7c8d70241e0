"""Checks of the machine that the daemon runs on: versions, libraries, the clock, and the network to its first peers."""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.metadata
import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from fabstir_client._core.discovery import describe
from fabstir_client._version import __version__
from fabstir_client.cli.addresses import fault
from fabstir_client.cli.doctor_findings import Context, Finding

DIAL = 5.0  # seconds for one bootstrap node to accept a connection
MOST = 32  # bootstrap nodes to try
MDNS = ("224.0.0.251", 5353)
UP, MULTICAST, LOOPBACK = 0x1, 0x1000, 0x8  # flags of an interface, netdevice(7)
UNSYNCHRONISED = 0x40  # STA_UNSYNC, adjtimex(2)


def _versions(context: Context) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    found = [f"fabstir {__version__}", f"Python {python}"]
    for package in ("libp2p", "trio", "cryptography"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    daemon = context.status["version"] if context.status else __version__
    if daemon != __version__:
        text = f"the daemon is version {daemon}, this client {__version__}"
        yield Finding("versions", "warning", text, "upgrade both, then restart the daemon")
    yield Finding("versions", "ok", ", ".join(found))


def _gmp(_: Context) -> Iterator[Finding]:
    """libp2p needs fastecdsa, which is built from source and needs the library GMP."""
    if find_spec("fastecdsa") is None:
        return
    try:
        importlib.import_module("fastecdsa._ecdsa")
    except ImportError as error:
        yield Finding("gmp", "fault", f"fastecdsa does not load: {error}", "apt-get install libgmp10; or reinstall")
    else:
        yield Finding("gmp", "ok", "fastecdsa and GMP load")


def _clock(_: Context) -> Iterator[Finding]:
    """Whether the clock is right: logs, events and signed records carry its time."""
    if time.time() < 1_700_000_000:
        text = f"the clock of this machine is wrong: it says {time.strftime('%Y-%m-%d')}"
        yield Finding("clock", "fault", text, "timedatectl set-ntp true")
        return
    synchronised = _synchronised()
    if synchronised is None:
        yield Finding("clock", "skipped", "the kernel does not say whether the clock is synchronised")
    elif synchronised:
        yield Finding("clock", "ok", "the kernel says that the clock is synchronised")
    else:
        text = "the kernel says that the clock is not synchronised"
        yield Finding("clock", "warning", text, "timedatectl set-ntp true; for a container, on its host")


def _synchronised() -> bool | None:
    """What adjtimex(2) reports; the status follows four longs in struct timex. None if it is not available."""
    buffer = ctypes.create_string_buffer(512)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except AttributeError:
        return None
    (status,) = struct.unpack_from("i", buffer, struct.calcsize("Illll"))
    return not status & UNSYNCHRONISED


def _bootstrap(context: Context) -> Iterator[Finding]:
    nodes = (context.config.get("node") or {}).get("bootstrap_nodes", [])
    if context.status is not None:
        nodes = context.status["bootstrapNodes"]
    if not nodes:
        if context.config or context.status:
            text = "none configured; peers come from connect, mDNS or inbound connections"
            yield Finding("bootstrap", "skipped", text)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(_reach, nodes[:MOST])
    if len(nodes) > MOST:
        yield Finding("bootstrap", "skipped", f"{len(nodes) - MOST} more")


def _reach(address: str) -> Finding:
    """Open one TCP connection and close it at once: it shows whether anybody listens, not who."""
    if (words := fault(address)) is not None:
        return Finding("bootstrap", "fault", f"{address}: {words}", "correct [node] bootstrap_nodes")
    parts = address.split("/")
    try:
        kind, host, protocol, port = parts[1], parts[2], parts[3], int(parts[4])
    except (IndexError, ValueError):
        kind, host, protocol, port = parts[1] if len(parts) > 1 else "", "", "", 0
    if kind == "dnsaddr" or protocol != "tcp":
        return Finding("bootstrap", "skipped", f"{address}: only the daemon can dial it; see fabstir explain ADDRESS")
    family = {"ip4": socket.AF_INET, "dns4": socket.AF_INET, "ip6": socket.AF_INET6, "dns6": socket.AF_INET6}.get(
        kind, 0
    )
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a label of a name may be too long to be encoded
        cure = f"check the name, and whether this machine resolves it: getent hosts {host}"
        reason = error.strerror if isinstance(error, OSError) else "it is not a valid name"
        return Finding("bootstrap", "fault", f"{address}: {host} has no address: {reason}", cure)
    words = ""
    for family, kind_of_socket, number, _, where in found:
        try:
            with socket.socket(family, kind_of_socket, number) as sock:
                sock.settimeout(DIAL)
                sock.connect(where)
            return Finding("bootstrap", "ok", f"{address}: accepts connections")
        except OSError as error:
            words = f"no answer within {DIAL:g} s" if isinstance(error, TimeoutError) else describe(error)
    cure = "check that the node is up, and that no firewall stops connections from this machine"
    return Finding("bootstrap", "fault", f"{address}: {words}", cure)


def _mdns(context: Context) -> Iterator[Finding]:
    if not (context.config.get("node") or {}).get("enable_mdns", True):
        yield Finding("mdns", "skipped", "switched off: [node] enable_mdns")
        return
    usable = list(_multicast_interfaces())
    if not usable:
        text = "no interface except loopback is up and can multicast: peers in the local network are not found"
        yield Finding("mdns", "warning", text, "ip link lists interfaces; a container needs the host's network")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("", MDNS[1]))
            group = socket.inet_aton(MDNS[0])
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + struct.pack("=I", socket.INADDR_ANY))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            text = "another program uses UDP port 5353 exclusively" if in_use else f"multicast: {error.strerror}"
            cure = "ss -ulpn 'sport = 5353' shows it" if in_use else "a route for 224.0.0.0/4 is needed; see ip route"
            yield Finding("mdns", "warning", text, cure)
            return
    yield Finding("mdns", "ok", f"possible on {', '.join(usable)}")


def _multicast_interfaces() -> Iterable[str]:
    for _, name in socket.if_nameindex():
        try:
            with open(f"/sys/class/net/{name}/flags", encoding="ascii") as file:
                flags = int(file.read(), 16)
        except (OSError, ValueError):
            continue
        if flags & UP and flags & MULTICAST and not flags & LOOPBACK:
            yield name


def _mapping(context: Context) -> Iterator[Finding]:
    """Whether the router forwards connections from outside to this node, according to the daemon."""
    mapping = context.addresses.get("portMapping")
    if mapping is None:  # no daemon, no node, or an older daemon
        return
    state, reason = mapping["state"], mapping.get("reason")
    router = f"the router at {mapping['gateway']}" if mapping.get("gateway") else "the router"
    if state == "off":
        yield Finding("mapping", "skipped", "switched off: [nat] port_mapping")
    elif state == "idle":
        yield Finding("mapping", "skipped", f"no port to map: {reason}")
    elif state == "asking":
        yield Finding("mapping", "skipped", f"{router} is being asked for ports")
    elif state == "refused":
        cure = (
            "enable UPnP or NAT-PMP in it; or forward the port there, and add its address to [node] announce_append; "
            "behind a provider's NAT (CGNAT) only a relay helps: [relay] nodes"
        )
        yield Finding("mapping", "warning", f"{router} maps no port: {reason}", cure)
    else:
        reachability = context.addresses["reachability"]
        known = [entry["address"] for entry in reachability if "mapped" in entry.get("from", ())]
        inner = [address for address in known if not ipaddress.ip_address(address.split("/")[2]).is_global]
        shown = ", ".join(address.rpartition("/p2p/")[0] for address in known)
        text = f"{router} forwards {shown} to this node, by {mapping.get('method')}"
        if inner:
            cure = "set the other router to bridge mode; if it is the provider's (CGNAT), use a relay: [relay] nodes"
            yield Finding("mapping", "warning", f"{text}; but {reason}", cure)
        elif reason:
            yield Finding("mapping", "warning", f"{text}; {reason}", "fabstir addresses; allow the port in the router")
        else:
            yield Finding("mapping", "ok", text)


CHECKS = (_versions, _gmp, _clock, _bootstrap, _mdns, _mapping)
