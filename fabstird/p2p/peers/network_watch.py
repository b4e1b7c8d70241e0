"""Detects changes of the machine's network: an interface comes up, an address or a default route appears or
disappears."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import ifaddr
import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.wire.routes import Route, default_routes

log = get_logger("p2p.network")

LOOK = 5.0  # seconds between two checks; each takes a tenth of a millisecond

Network = frozenset[str]


def network() -> Network:
    """The machine's addresses, except loopback, and its default routes."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            host = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                found.add(host)
    return frozenset(found | {_in_words(route) for route in default_routes()})


def _in_words(route: Route) -> str:
    return f"default route by {route.interface}" + (f" at {route.gateway}" if route.gateway is not None else "")


async def watch(changed: Callable[[], None], look: Callable[[], Network] = network) -> None:
    """Call ``changed`` after each change, until cancelled."""
    before = look()
    while True:
        await trio.sleep(LOOK)
        now = look()
        if now != before:
            log.info("the network has changed", came=sorted(now - before), gone=sorted(before - now))
            before = now
            changed()
