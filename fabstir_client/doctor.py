"""What is wrong, looked at from outside: with the daemon where it answers, and without it where it does not.

Each check gives findings in words, with the cure beside each fault. Nothing here changes anything, and every wait is
bounded.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import http.client
import importlib
import importlib.metadata
import json
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from fabstir_client._version import __version__
from fabstir_client.calls import raw_method
from fabstir_client.discovery import Endpoint, Target, describe
from fabstir_client.errors import FabstirError, RpcError
from fabstir_client.protocol import Session
from fabstir_client.sync_link import SyncLink, request

DIAL = 5.0  # seconds for one bootstrap node to take a connection
MOST = 32  # bootstrap nodes that are tried
ROOM = 64 * 1024 * 1024  # bytes on the disk of the data directory
MDNS = ("224.0.0.251", 5353)
UP, MULTICAST, LOOPBACK = 0x1, 0x1000, 0x8  # flags of an interface, netdevice(7)
UNSYNCHRONISED = 0x40  # STA_UNSYNC, adjtimex(2)

State = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str  # what was looked at, one word
    state: State
    text: str
    cure: str | None = None


@dataclass(slots=True)
class Patient:
    """What the checks share, as they find it out."""

    target: Target
    config_file: str | None = None
    status: dict[str, Any] | None = None  # None where no daemon answers
    api: dict[str, Any] = field(default_factory=dict)  # api.json
    config: dict[str, Any] = field(default_factory=dict)  # the daemon's, or what it would be

    @property
    def data_dir(self) -> str:
        return self.target.data_directory()


def examine(target: Target, config_file: str | None = None) -> Iterator[Finding]:
    """Every finding, as it is made."""
    patient = Patient(target, config_file)
    for check in (_daemon, _config, _node, _data_dir, _token, _http, _versions, _gmp, _clock, _bootstrap, _mdns):
        yield from check(patient)


# --------------------------------------------------------------------------------------------------------------------
# The daemon and its socket


def _daemon(patient: Patient) -> Iterator[Finding]:
    refused = False
    for candidate in patient.target.candidates():
        if candidate.endpoint is None:
            yield Finding("daemon", "skipped", f"{candidate.label}: {candidate.reason}")
            continue
        try:
            link = SyncLink.open_at(candidate.endpoint)
        except FabstirError as error:
            refused = True
            yield Finding("daemon", "fault", f"{candidate.label}: {error}", "set FABSTIR_TOKEN, or use the socket")
            continue
        except OSError as error:
            denied = isinstance(error, PermissionError)
            refused |= denied
            yield Finding(
                "daemon",
                "fault" if denied else "skipped",
                f"{candidate.label}: {describe(error, candidate.endpoint.path)}",
                "call as a member of that group, or as root" if denied else None,
            )
            continue
        yield from _answers(patient, link, candidate.label, candidate.endpoint)
        if patient.status is not None:
            return
    if not refused:
        yield Finding("daemon", "fault", "no daemon answers", _start())


def _answers(patient: Patient, link: SyncLink, label: str, endpoint: Endpoint) -> Iterator[Finding]:
    began = time.perf_counter()
    try:
        patient.status = _call(link, "status")
        took = (time.perf_counter() - began) * 1000
        patient.config = _call(link, "config")
    except RpcError as error:
        yield Finding("daemon", "warning", f"{label} answers, but may not tell everything: {error}")
    except FabstirError as error:
        cure = "SIGUSR1 writes to its log what each task waits for: kill -USR1 PID"
        yield Finding("daemon", "fault", f"{label} takes the connection and does not answer: {error}", cure)
        return
    finally:
        link.close()
    if patient.status is not None:
        yield Finding("daemon", "ok", f"{label} answers in {took:.1f} ms")
    if endpoint.path is not None:
        yield from _socket(endpoint.path)


def _call(link: SyncLink, method: str) -> Any:
    return json.loads(bytes(request(link, Session(), raw_method(method, None, 10.0), [])))


def _socket(path: str) -> Iterator[Finding]:
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    owner, group = _name(pwd.getpwuid, found.st_uid), _name(grp.getgrgid, found.st_gid)
    about = f"{path}: mode {mode:04o}, of {owner} and the group {group}"
    if mode & 0o002:
        yield Finding("socket", "warning", f"{about}: every user may use the API", 'set [api] ipc_mode = "0660"')
    else:
        yield Finding("socket", "ok", about)


def _name(find: Callable[[int], Any], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)


def _start() -> str:
    unit = any(
        os.path.exists(f"{folder}/systemd/system/fabstird.service")
        for folder in ("/etc", "/usr/local/lib", "/usr/lib", "/lib")
    )
    return "systemctl enable --now fabstird; systemctl status fabstird says why not" if unit else "fabstird run"


# --------------------------------------------------------------------------------------------------------------------
# Configuration, node, files


def _config(patient: Patient) -> Iterator[Finding]:
    """Of the running daemon; else what the daemon on this machine would make of its file."""
    if patient.config:
        return
    if find_spec("fabstird") is None:
        yield Finding("config", "skipped", "the daemon is not installed beside this client, and does not answer")
        return
    command = [sys.executable, "-m", "fabstird", "check-config", *filter(None, [patient.config_file])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("config", "skipped", f"fabstird check-config did not run: {error}")
        return
    if done.returncode:
        for line in done.stderr.splitlines():
            yield Finding(
                "config", "fault", line.removeprefix("fabstird: "), "correct it; fabstird check-config shows all"
            )
        return
    patient.config = json.loads(done.stdout)
    yield Finding("config", "ok", "fabstird check-config finds no mistake")


def _node(patient: Patient) -> Iterator[Finding]:
    status = patient.status
    if status is None:
        return
    if status["state"] == "failed":
        yield Finding("node", "fault", f"failed: {status.get('error')}", "correct the cause, then: fabstir start")
    elif status["state"] != "started":
        yield Finding("node", "fault", f"the node is {status['state']}", "fabstir start")
    elif not status["peers"]:
        cure = "see the bootstrap nodes below; fabstir explain ADDRESS says what a dial met"
        yield Finding("node", "warning", "started, but no peer is connected", cure)
    else:
        yield Finding("node", "ok", f"started, {status['peers']} peers")


def _data_dir(patient: Patient) -> Iterator[Finding]:
    path = patient.data_dir
    try:
        found = os.stat(path)
        disk = os.statvfs(path)
    except PermissionError:
        yield Finding("data", "skipped", f"{path} is not for {_name(pwd.getpwuid, os.geteuid())}")
        return
    except OSError as error:
        wanted = patient.status is None
        words = "not there: the daemon makes it" if isinstance(error, FileNotFoundError) else error.strerror
        yield Finding("data", "skipped" if wanted else "ok", f"{path}: {words}")
        return
    free = disk.f_bavail * disk.f_frsize
    if free < ROOM:
        yield Finding("data", "fault", f"{path}: {free // 2**20} MiB are free on its disk", "make room")
    if found.st_uid == os.geteuid() and not os.access(path, os.W_OK):
        yield Finding("data", "fault", f"{path} cannot be written", f"chmod u+w {path}")
    try:
        with open(os.path.join(path, "api.json"), encoding="utf-8") as file:
            patient.api = json.load(file)
    except (OSError, ValueError):
        patient.api = {}
    for name in ("identity.key", "api.token"):
        yield from _secret(os.path.join(path, name))


def _secret(path: str) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return  # the daemon makes it
    if mode & 0o077:
        yield Finding("data", "fault", f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
    else:
        yield Finding("data", "ok", f"{path}: mode {mode:04o}")


def _token(patient: Patient) -> Iterator[Finding]:
    path = os.path.join(patient.data_dir, "api.token")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read().strip()
    except FileNotFoundError:
        return
    except OSError as error:
        yield Finding("token", "skipped", f"{path}: {error.strerror}; HTTP needs it, the socket does not")
        return
    if not text.isascii() or not text.isprintable() or len(text) < 16:
        yield Finding("token", "fault", f"{path} holds no token", f"rm {path}, and restart the daemon for a new one")


def _http(patient: Patient) -> Iterator[Finding]:
    """The port, as the daemon says it listens."""
    where = patient.api.get("http") or (patient.config.get("api") or {}).get("http")
    if patient.status is None or not where or str(where).startswith("unix:"):
        return
    host, _, port = str(where).removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=DIAL)
    try:
        for path in ("/healthz", "/readyz"):
            connection.request("GET", path)
            answer = connection.getresponse()
            yield from _health(path, answer.status, json.loads(answer.read() or b"{}"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = describe(error) if isinstance(error, OSError) else str(error)
        yield Finding(
            "http", "fault", f"http://{where}: {words}", "a firewall on loopback? another program? see [api] http"
        )
    finally:
        connection.close()


def _health(path: str, status: int, told: dict[str, Any]) -> Iterator[Finding]:
    if status == 200:
        yield Finding("http", "ok", f"{path} says {told.get('status')}")
    else:
        code = f" ({told['code']})" if "code" in told else ""
        why = told.get("error") or told.get("reason")
        yield Finding(
            "http", "fault", f"{path} says {status}: {why}{code}", "fabstir status; then as for the node above"
        )
    if path == "/healthz":
        for warning in told.get("warnings", ()):
            yield Finding(
                "http", "warning", f"{warning['reason']} ({warning['code']})", "fabstir dump; docs/monitoring.md"
            )


# --------------------------------------------------------------------------------------------------------------------
# The machine


def _versions(patient: Patient) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    told = [f"fabstir {__version__}", f"Python {python}"]
    for package in ("libp2p", "trio", "cryptography"):
        try:
            told.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    daemon = patient.status["version"] if patient.status else __version__
    if daemon != __version__:
        text = f"the daemon is version {daemon}, this client {__version__}"
        yield Finding("versions", "warning", text, "restart the daemon after an upgrade; upgrade both")
    yield Finding("versions", "ok", ", ".join(told))


def _gmp(_: Patient) -> Iterator[Finding]:
    """The daemon's cryptography stands on GMP through fastecdsa, which is built from source."""
    if find_spec("fastecdsa") is None:
        return
    try:
        importlib.import_module("fastecdsa._ecdsa")
    except ImportError as error:
        yield Finding("gmp", "fault", f"fastecdsa does not load: {error}", "apt-get install libgmp10; or install anew")
    else:
        yield Finding("gmp", "ok", "fastecdsa loads, with GMP")


def _clock(_: Patient) -> Iterator[Finding]:
    """Logs, events and signed records carry the time."""
    if time.time() < 1_700_000_000:
        yield Finding(
            "clock", "fault", f"it is {time.strftime('%Y-%m-%d')} on this machine", "timedatectl set-ntp true"
        )
        return
    synchronised = _synchronised()
    if synchronised is None:
        yield Finding("clock", "skipped", "the kernel does not say whether the clock is synchronised")
    elif synchronised:
        yield Finding("clock", "ok", "the kernel says that the clock is synchronised")
    else:
        text = "nobody keeps this machine's clock right, as far as the kernel knows"
        yield Finding("clock", "warning", text, "timedatectl set-ntp true; in a container it is the host's to do")


def _synchronised() -> bool | None:
    """adjtimex(2) that changes nothing; the status comes after four longs of struct timex."""
    buffer = ctypes.create_string_buffer(512)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except AttributeError:
        return None
    (status,) = struct.unpack_from("i", buffer, struct.calcsize("Illll"))
    return not status & UNSYNCHRONISED


def _bootstrap(patient: Patient) -> Iterator[Finding]:
    nodes = (patient.config.get("node") or {}).get("bootstrap_nodes", [])
    if patient.status is not None:
        nodes = patient.status["bootstrapNodes"]
    if not nodes:
        if patient.config or patient.status:
            yield Finding("bootstrap", "skipped", "none is configured: peers come by connect, mDNS, or from outside")
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(_reach, nodes[:MOST])
    if len(nodes) > MOST:
        yield Finding("bootstrap", "skipped", f"{len(nodes) - MOST} more")


def _reach(address: str) -> Finding:
    """One TCP connection, closed at once: whether somebody listens, not who."""
    parts = address.split("/")
    try:
        kind, host, protocol, port = parts[1], parts[2], parts[3], int(parts[4])
    except (IndexError, ValueError):
        kind, host, protocol, port = parts[1] if len(parts) > 1 else "", "", "", 0
    if kind == "dnsaddr" or protocol != "tcp":
        return Finding("bootstrap", "skipped", f"{address}: only the daemon can try it; see: fabstir explain ADDRESS")
    family = {"ip4": socket.AF_INET, "dns4": socket.AF_INET, "ip6": socket.AF_INET6, "dns6": socket.AF_INET6}.get(
        kind, 0
    )
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        cure = "is the name right? does this machine resolve names: getent hosts " + host
        return Finding("bootstrap", "fault", f"{address}: {host} has no address: {error.strerror}", cure)
    words = ""
    for one, kind_of, number, _, where in found:
        try:
            with socket.socket(one, kind_of, number) as sock:
                sock.settimeout(DIAL)
                sock.connect(where)
            return Finding("bootstrap", "ok", f"{address}: takes connections")
        except OSError as error:
            words = f"no answer within {DIAL:g} s" if isinstance(error, TimeoutError) else describe(error)
    return Finding("bootstrap", "fault", f"{address}: {words}", "is the node up? does a firewall let this machine out?")


def _mdns(patient: Patient) -> Iterator[Finding]:
    if not (patient.config.get("node") or {}).get("enable_mdns", True):
        yield Finding("mdns", "skipped", "switched off: [node] enable_mdns")
        return
    usable = list(_multicast_interfaces())
    if not usable:
        text = "no interface but loopback is up and can multicast: peers nearby are not found"
        yield Finding("mdns", "warning", text, "ip link shows them; in a container, give it the host's network")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("", MDNS[1]))
            group = socket.inet_aton(MDNS[0])
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + struct.pack("=I", socket.INADDR_ANY))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            text = "another program has UDP port 5353 for itself" if taken else f"multicast: {error.strerror}"
            cure = "ss -ulpn 'sport = 5353' shows it" if taken else "a route for 224.0.0.0/4 is needed: ip route"
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
