"""A router at home that maps ports: Debian's miniupnpd (UPnP IGD, NAT-PMP and PCP) on a router of the laboratory."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cable import Machine, lan, namespace

SOON = 90.0  # seconds for miniupnpd to start
ROUTER = "10.0.1.1"
OUTSIDE = "45.32.1.1"  # the router's address in the Internet

_RULES = """
table inet filter {
    chain in { type filter hook input priority filter; policy accept;
        iifname "lan" ct state established,related accept; iifname "lan" meta l4proto { tcp, udp } drop; }
    chain forward { type filter hook forward priority filter; policy drop;
        iifname "inside" accept; ct state established,related accept; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept;
        jump postrouting_miniupnpd; oifname "lan" masquerade; }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""
_CONFIG = """
ext_ifname=lan
listening_ip=inside
enable_upnp={upnp}
enable_natpmp={natpmp}
secure_mode=yes
notify_interval=60
uuid=2f0c5e0a-7b1d-4b7e-9d2e-0123456789ab
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 10.0.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
{more}
"""


@contextmanager
def home(outside: str = OUTSIDE) -> Iterator[tuple[list[Machine], Machine, Machine]]:
    """Two machines in the Internet, the router, and a machine behind it, 10.0.1.2. The router has the address
    ``outside``, in a /24, and translates; nobody gets in. Needs root and nftables."""
    with lan(3, outside.rpartition(".")[0]) as (router, *internet), namespace() as pid:
        inside = Machine(pid, "home", "10.0.1.2")
        router.ip("link", "add", "inside", "type", "veth", "peer", "name", inside.interface, "netns", str(pid))
        router.ip("address", "add", f"{ROUTER}/24", "dev", "inside")
        router.ip("link", "set", "inside", "up")
        inside.ip("address", "add", f"{inside.address}/24", "dev", inside.interface)
        inside.ip("link", "set", "lo", "up")
        inside.ip("link", "set", inside.interface, "up")
        inside.ip("route", "add", "default", "via", ROUTER)
        subprocess.run([*router.run, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)
        nft(router, _RULES)
        yield internet, router, inside


@contextmanager
def miniupnpd(router: Machine, *, upnp: bool = False, natpmp: bool = False, more: str = "") -> Iterator[None]:
    """It runs on the router, and speaks these: NAT-PMP includes PCP. ``more`` are lines of its configuration."""
    with tempfile.TemporaryDirectory(prefix="igd-") as folder:
        config = Path(folder, "config")
        words = {True: "yes", False: "no"}
        config.write_text(_CONFIG.format(upnp=words[upnp], natpmp=words[natpmp], more=more))
        command = [*router.run, "miniupnpd", "-d", "-f", str(config), "-P", str(Path(folder, "pid"))]
        with Path(folder, "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                _until_it_listens(router, process, Path(folder, "log"), 5351 if natpmp else 1900)
                yield
            finally:
                process.kill()  # SIGTERM it may sleep through; its rules go with the namespace
                process.wait()


def _until_it_listens(router: Machine, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    due = time.monotonic() + SOON
    while f":{port:04X} " not in Path(f"/proc/{router.pid}/net/udp").read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < due, log.read_text()
        time.sleep(0.02)


def nft(machine: Machine, text: str) -> str:
    """What its kernel's packet filter answers."""
    command = [*machine.run, "nft", "-f", "-"]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def is_there() -> bool:
    """Whether this machine has it."""
    return shutil.which("miniupnpd") is not None


def mapped(router: Machine) -> list[str]:
    """What the kernel of the router leads in."""
    told = nft(router, "list chain inet filter prerouting_miniupnpd")
    return [line.strip() for line in told.splitlines() if " dnat " in line]
