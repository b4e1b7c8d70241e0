"""The NAT laboratory: an Internet of network namespaces, and homes behind routers of several kinds.

Addresses look public to libp2p, but nothing leaves the namespaces. Routers are Linux with nftables, as most at home
are. Needs root and nftables.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from tests.faults.cable import Machine, lan, namespace

Kind = Literal["cone", "symmetric", "rejecting", "firewall", "carrier", "forwarding"]

# What comes in from outside unasked is dropped without a word, as home routers do; "rejecting" answers it with a reset,
# or by ICMP. A router that took it in, as one that nothing closes does, would keep the port for who has sent it.
_FIREWALL = """
table ip filter {{
    chain in {{ type filter hook input priority filter; policy accept;
        iifname "{outside}" ct state established,related accept;
        iifname "{outside}" meta l4proto tcp {refuse_tcp}; iifname "{outside}" meta l4proto udp {refuse_udp}; }}
    chain through {{ type filter hook forward priority filter; policy drop;
        iifname "inside" accept; ct state established,related accept; ct status dnat accept; }}
}}
"""
_NAT = """
table ip nat {{ chain out {{ type nat hook postrouting priority srcnat; oifname "{outside}" {translate}; }}; }}
"""
# The port that the machine inside listens on, as its owner has set it up at the router
_FORWARD = """
table ip forward {{ chain in {{ type nat hook prerouting priority dstnat;
    iifname "{outside}" tcp dport 4001 dnat to {inside}; }}; }}
"""
# Linux keeps the port that the machine inside has chosen, whoever it talks to: endpoint-independent mapping. What comes
# back must come from where something went: address- and port-dependent filtering, the strictest there is (RFC 5382).
_TRANSLATE: dict[Kind, str] = {
    "cone": "masquerade",
    "rejecting": "masquerade",
    "carrier": "masquerade",
    "forwarding": "masquerade",
    "symmetric": "meta l4proto { tcp, udp } masquerade random",
}


@contextmanager
def internet(*homes: Kind, public: int = 1) -> Iterator[tuple[list[Machine], list[Machine]]]:
    """So many machines with public addresses, and one machine in each home."""
    with ExitStack() as stack:
        machines = stack.enter_context(lan(public + len(homes), "45.32.1"))
        outside, routers = machines[:public], machines[public:]
        inside = []
        for number, (kind, router) in enumerate(zip(homes, routers, strict=True), start=1):
            inside.append(stack.enter_context(_home(kind, router, number)))
            for machine in machines:
                if kind == "firewall" and machine is not router:
                    machine.ip("route", "add", f"45.33.{number}.0/24", "via", router.address)
        yield outside, inside


@contextmanager
def _home(kind: Kind, router: Machine, number: int) -> Iterator[Machine]:
    """A machine behind this router, which is in the Internet; of kind "carrier" there is the provider's NAT between."""
    if kind == "firewall":
        with _behind(router, f"45.33.{number}", kind) as machine:
            yield machine
    elif kind == "carrier":
        with _behind(router, f"100.64.{number}", "carrier") as home, _behind(home, f"10.0.{number}", "cone") as machine:
            yield machine
    else:
        with _behind(router, f"10.0.{number}", kind) as machine:
            yield machine


@contextmanager
def _behind(router: Machine, network: str, kind: Kind) -> Iterator[Machine]:
    with namespace() as pid:
        machine = Machine(pid, "home", f"{network}.2")
        router.ip("link", "add", "inside", "type", "veth", "peer", "name", machine.interface, "netns", str(pid))
        router.ip("address", "add", f"{network}.1/24", "dev", "inside")
        router.ip("link", "set", "inside", "up")
        machine.ip("address", "add", f"{machine.address}/24", "dev", machine.interface)
        machine.ip("link", "set", "lo", "up")
        machine.ip("link", "set", machine.interface, "up")
        machine.ip("route", "add", "default", "via", f"{network}.1")
        _in(router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        tcp, udp = ("reject with tcp reset", "reject") if kind == "rejecting" else ("drop", "drop")
        rules = _FIREWALL.format(outside=router.interface, refuse_tcp=tcp, refuse_udp=udp)
        if kind != "firewall":
            rules += _NAT.format(outside=router.interface, translate=_TRANSLATE[kind])
        if kind == "forwarding":
            rules += _FORWARD.format(outside=router.interface, inside=machine.address)
        _in(router, "nft", "-f", "-", given=rules)
        yield machine


def delayed(machines: Sequence[Machine], milliseconds: int) -> None:
    """Each packet that leaves one of these takes so long."""
    for machine in machines:
        _in(machine, *f"tc qdisc add dev {machine.interface} root netem delay {milliseconds}ms".split())


def _in(machine: Machine, *command: str, given: str = "") -> None:
    subprocess.run([*machine.run, *command], input=given.encode(), check=True)
