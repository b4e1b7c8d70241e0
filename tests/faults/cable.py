"""Two machines and a cable between them: two network namespaces with a veth pair, which nothing else can reach."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NOBODY = "02:00:00:00:00:99"  # a hardware address that neither end has


@dataclass(frozen=True)
class Machine:
    """A network namespace with one interface besides loopback. ``run`` puts a command into it."""

    pid: int  # of the process that holds the namespace
    interface: str
    address: str

    @property
    def run(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def ip(self, *arguments: str) -> None:
        subprocess.run([*self.run, "ip", *arguments], check=True)


@dataclass(frozen=True)
class Cable:
    """Both ends are up. ``unplug`` is seen by the machines' kernels, ``swallow`` by nobody: packets go nowhere."""

    one: Machine
    other: Machine

    def unplug(self) -> None:
        self.one.ip("link", "set", self.one.interface, "down")

    def plug(self) -> None:
        self.one.ip("link", "set", self.one.interface, "up")

    def swallow(self) -> None:
        for machine, peer in ((self.one, self.other), (self.other, self.one)):
            neighbour = ("neigh", "replace", peer.address, "lladdr", NOBODY, "nud", "permanent")
            machine.ip(*neighbour, "dev", machine.interface)

    def deliver(self) -> None:
        for machine, peer in ((self.one, self.other), (self.other, self.one)):
            machine.ip("neigh", "del", peer.address, "dev", machine.interface)


@contextmanager
def cable() -> Iterator[Cable]:
    """Needs root. The kernel removes all of it with the processes that hold the namespaces, whatever ends this one."""
    with ExitStack() as stack:
        one = Machine(stack.enter_context(namespace()), "one", "192.0.2.1")
        other = Machine(stack.enter_context(namespace()), "other", "192.0.2.2")
        veth = ("link", "add", one.interface, "type", "veth", "peer", "name", other.interface, "netns", str(other.pid))
        one.ip(*veth)
        for machine in (one, other):
            machine.ip("address", "add", f"{machine.address}/24", "dev", machine.interface)
            machine.ip("link", "set", "lo", "up")
            machine.ip("link", "set", machine.interface, "up")
        yield Cable(one, other)


@contextmanager
def lan(count: int, network: str = "192.0.2") -> Iterator[list[Machine]]:
    """So many machines at one switch, all in one /24, which nothing else can reach. Needs root."""
    with ExitStack() as stack:
        switch = Machine(stack.enter_context(namespace()), "switch", "")
        switch.ip("link", "add", "switch", "type", "bridge")
        switch.ip("link", "set", "switch", "up")
        machines = []
        for number in range(1, count + 1):
            machine = Machine(stack.enter_context(namespace()), "lan", f"{network}.{number}")
            port = f"port{number}"
            veth = ("link", "add", machine.interface, "type", "veth", "peer", "name", port, "netns", str(switch.pid))
            machine.ip(*veth)
            switch.ip("link", "set", port, "master", "switch", "up")
            machine.ip("address", "add", f"{machine.address}/24", "dev", machine.interface)
            machine.ip("link", "set", "lo", "up")
            machine.ip("link", "set", machine.interface, "up")
            # js-libp2p multicasts where the routes lead; a machine without any route for it would be no real one
            machine.ip("route", "add", "224.0.0.0/4", "dev", machine.interface)
            machines.append(machine)
        yield machines


NAT = """
table ip nat { chain out { type nat hook postrouting priority srcnat; oifname "lan" masquerade; }; }
table ip filter { chain through { type filter hook forward priority filter; policy drop;
    iifname "inside" accept; ct state established,related accept; }; }
"""  # of a router at home: whoever is inside gets out, nobody gets in who was not asked


@contextmanager
def behind_a_nat(count: int) -> Iterator[tuple[Machine, list[Machine]]]:
    """A machine at home, 10.0.0.2, and so many in the Internet outside: addresses of theirs look public to libp2p, but
    nothing leaves these namespaces. Needs root and nftables."""
    with lan(count + 1, "45.32.1") as (router, *outside), namespace() as pid:
        inside = Machine(pid, "home", "10.0.0.2")
        router.ip("link", "add", "inside", "type", "veth", "peer", "name", inside.interface, "netns", str(pid))
        router.ip("address", "add", "10.0.0.1/24", "dev", "inside")
        router.ip("link", "set", "inside", "up")
        inside.ip("address", "add", f"{inside.address}/24", "dev", inside.interface)
        inside.ip("link", "set", "lo", "up")
        inside.ip("link", "set", inside.interface, "up")
        inside.ip("route", "add", "default", "via", "10.0.0.1")
        subprocess.run([*router.run, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)
        subprocess.run([*router.run, "nft", "-f", "-"], input=NAT.encode(), check=True)
        yield inside, outside


@contextmanager
def entered(machine: Machine) -> Iterator[None]:
    """Sockets that this thread makes meanwhile are the machine's, and stay so. Needs root."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{machine.pid}/ns/net", os.O_RDONLY)
    try:
        _set_namespace(other)
        try:
            yield
        finally:
            _set_namespace(own)
    finally:
        os.close(own)
        os.close(other)


def _set_namespace(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):  # `os.setns` is there from Python 3.12 on
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


@contextmanager
def namespace() -> Iterator[int]:
    """Yields the process that holds it. `cat` ends with the pipe to it, and so does the namespace."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "no namespace was made"
        yield holder.pid
