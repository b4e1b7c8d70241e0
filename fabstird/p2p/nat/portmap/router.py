"""The router of this machine, and one question to it by UDP: said again until it answers, for a few seconds."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from fabstird.p2p.nat.portmap.mappings import MappingError
from fabstird.p2p.nat.portmap.natpmp import MAX_MESSAGE, PORT
from fabstird.p2p.nat.portmap.upnp import PORT as SEARCH_PORT
from fabstird.p2p.wire.ips import IP, reach, to_ip
from fabstird.p2p.wire.routes import default_routes

WAITS = (0.25, 0.5, 1.0, 2.0)  # seconds for an answer before the question is said again (RFC 6886, section 3.1)
MAX_STRAYS = 32  # datagrams of the router that are no answer

A = TypeVar("A")


class Silent(MappingError):
    """The router does not answer, so that another question by the same protocol would be waited for in vain."""


@dataclass(frozen=True, slots=True)
class Router:
    gateway: IP
    local: IP  # the address of this machine that talks to it
    port: int = PORT  # UDP, where NAT-PMP and PCP are answered
    search_port: int = SEARCH_PORT  # UDP, where SSDP is


def find_router() -> Router | None:
    """The gateway of the preferred default route, where it and this machine are in a private network: elsewhere there
    is no translation at home. Sends nothing."""
    for route in default_routes():
        if route.version == 4 and route.gateway is not None and reach(route.gateway) == "private":
            local = _local(route.gateway)
            if local is not None and reach(local) == "private":
                return Router(route.gateway, local)
    return None


def _local(gateway: IP) -> IP | None:
    """The address that the kernel would send from."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((str(gateway), PORT))
            return to_ip(sock.getsockname()[0])
    except OSError:
        return None


async def ask(router: Router, question: bytes, read: Callable[[bytes], A | None]) -> A:
    """What ``read`` makes of the answer; for what is none it returns None. The kernel lets nothing through but what
    comes from the router's port. Raises `MappingError`."""
    strays = 0
    try:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind((str(router.local), 0))
            await sock.connect((str(router.gateway), router.port))
            for wait in WAITS:
                await sock.send(question)
                with trio.move_on_after(wait):
                    while strays < MAX_STRAYS:
                        answer = read(await sock.recv(MAX_MESSAGE + 1))
                        if answer is not None:
                            return answer
                        strays += 1
                    raise Silent("the router answers with something else")
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            raise Silent("the router does not speak it") from error
        raise Silent((error.strerror or str(error)).lower()) from error
    raise Silent("the router does not answer")
