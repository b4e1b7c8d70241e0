"""Daemons that find each other by mDNS, in network namespaces of their own: with no bootstrap node at all."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from fabstird.identity import Identity
from fabstird.p2p.mdns.message import Name, answer, question
from fabstird.p2p.wire.addresses import Address, parse
from tests.faults.cable import Machine, lan
from tests.harness import Daemon, Json, asked_until, fabstird, until
from tests.harness.lines import lines
from tests.support.holding import held, released

pytestmark = pytest.mark.usefixtures("root")

ANYWHERE: Json = {"listen_addresses": ["/ip4/0.0.0.0/tcp/0"], "enable_mdns": True}
LOOPBACK: Json = {"listen_addresses": ["/ip4/127.0.0.1/tcp/0"], "enable_mdns": True}
SOON = 90.0  # seconds, on a machine that is busy with other things
ROOT = Path(__file__).parents[2]


class Program:
    """`tests.support.multicaster` in a namespace; what it prints, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async with self.process.stdout as stdout:
            async for line in lines(stdout):
                self.lines.append(line)

    def sources(self) -> Counter[str]:
        """Of `watch`: packets by sender."""
        return Counter(line.split()[0] for line in self.lines[1:])

    async def send(self, packets: Iterable[bytes]) -> None:
        assert self.process.stdin is not None
        for packet in packets:
            await self.process.stdin.send_all(packet.hex().encode() + b"\n")


@asynccontextmanager
async def multicaster(machine: Machine, *words: str) -> AsyncIterator[Program]:
    process = await trio.lowlevel.open_process(
        [*machine.run, sys.executable, "-m", "tests.support.multicaster", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    program = Program(process)
    failure: BaseException | None = None
    async with process.stdin, trio.open_nursery() as nursery:
        nursery.start_soon(program.read)
        try:
            await until(lambda: program.lines[:1] == ["ready"], within=SOON)
            yield program
        except BaseException as error:  # noqa: BLE001 - raised again below, not inside the nursery's group
            failure = error
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    if failure is not None:
        raise failure


async def meet(*daemons: Daemon) -> None:
    """Each is connected to each other one."""
    for one in daemons:
        for other in daemons:
            if one is not other:
                await one.wait_event("peer:connect", peerId=other.peer_id, timeout=SOON)


async def reaches(daemon: Daemon, condition: Callable[[Json], bool]) -> Json:
    """The daemon's metrics, once they are so."""
    return dict(await asked_until(lambda: daemon.call("metrics"), condition, within=SOON, every=0.1))


async def test_three_on_one_machine_find_each_other() -> None:
    with lan(1) as (machine,):
        async with AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(fabstird(prefix=machine.run, **ANYWHERE)) for _ in range(3)]
            await meet(*daemons)
            for daemon in daemons:
                assert len(await daemon.call("peers")) == 2
                assert daemon.warnings() == []


async def test_three_machines_find_each_other_over_ipv4_and_ipv6() -> None:
    anywhere = ANYWHERE | {"listen_addresses": ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]}
    with lan(3) as machines:
        for number, machine in enumerate(machines):
            machine.ip("address", "add", f"2001:db8::{number + 1}/64", "dev", machine.interface, "nodad")
        async with AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(fabstird(prefix=one.run, **anywhere)) for one in machines]
            await meet(*daemons)
            for daemon in daemons:
                assert (await daemon.call("metrics"))["bounds"]["mdnsSockets"]["current"] == 2
                assert daemon.warnings() == []


async def test_a_peer_that_was_restarted_is_found_again_at_its_new_address() -> None:
    with lan(2) as (here, there):
        async with fabstird(prefix=here.run, **ANYWHERE) as one, fabstird(prefix=there.run, **ANYWHERE) as other:
            await meet(one, other)
            before = other.status["listenAddresses"]
            await other.call("stop")
            await one.wait_event("peer:disconnect", peerId=other.peer_id)
            await other.call("start", config={"listenAddresses": ["/ip4/0.0.0.0/tcp/4002"]})
            assert (await other.call("status"))["listenAddresses"] != before
            await one.wait_event("peer:connect", count=2, peerId=other.peer_id, timeout=SOON)
            assert other.warnings() == []


async def test_switched_off_not_one_packet_leaves() -> None:
    """That the packets of a third machine come in proves that they would have been seen, and that time has passed."""
    with lan(3) as (silent, speaking, watching):
        async with multicaster(watching, "watch") as watcher, AsyncExitStack() as stack:
            quiet = [
                await stack.enter_async_context(fabstird(prefix=silent.run, **{**ANYWHERE, "enable_mdns": False}))
                for _ in range(2)
            ]
            loud = await stack.enter_async_context(fabstird(prefix=speaking.run, **ANYWHERE))
            await until(lambda: watcher.sources()[speaking.address] >= 6, within=SOON)
            assert watcher.sources()[silent.address] == 0
            assert len([source for source in watcher.sources() if ":" in source]) <= 1, "over IPv6 too only one speaks"

            for daemon in quiet:
                assert not any((await daemon.call("metrics"))["mdns"].values())
                assert daemon.found("peer:connect") == []
                await daemon.call("stop")
            await quiet[0].call("start", config={"enableMDNS": True})
            await meet(quiet[0], loud)
            await until(lambda: watcher.sources()[silent.address], within=SOON)  # switched on, it is seen


async def test_daemons_on_loopback_stay_there() -> None:
    with lan(2) as (here, there):
        async with multicaster(there, "watch") as watcher, AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(fabstird(prefix=here.run, **LOOPBACK)) for _ in range(2)]
            other = await stack.enter_async_context(fabstird(prefix=there.run, **ANYWHERE))
            await reaches(other, lambda metrics: metrics["mdns"]["sent"] >= 8)
            assert watcher.sources()[here.address] == 0
            for daemon in [*daemons, other]:
                assert daemon.found("peer:connect") == []
            for daemon in daemons:
                assert (await daemon.call("metrics"))["mdns"]["sent"] == 0
                assert "mDNS is idle" in [entry["event"] for entry in daemon.said]


async def test_garbage_and_floods_are_survived() -> None:
    with lan(3) as (here, there, hostile):
        async with fabstird(prefix=here.run, **ANYWHERE) as one:
            async with multicaster(hostile, "send", hostile.interface) as attacker:
                await attacker.send([b"", b"\0", bytes(12), b"\xff" * 600, bytes(range(256)) * 4])
                await reaches(one, lambda metrics: metrics["mdns"]["garbage"] >= 3)
                await attacker.send(answer(Name.random(), liars(number)) for number in range(400))
                await attacker.send(question() for _ in range(400))
                await reaches(one, lambda metrics: metrics["mdns"]["throttled"] > 0)
                metrics = await reaches(one, lambda metrics: metrics["bounds"]["mdnsDials"]["current"] > 0)
            bounds = metrics["bounds"]
            assert 0 < bounds["mdnsPeers"]["current"] <= bounds["mdnsPeers"]["limit"] == 256
            assert bounds["mdnsDials"]["current"] <= bounds["mdnsDials"]["limit"] == 8
            assert metrics["mdns"]["sent"] <= 2 * (metrics["uptime"] / 1000 + 1) + 10, "of many askers one is answered"
            async with fabstird(prefix=there.run, **ANYWHERE) as other:
                await meet(one, other)
            assert one.warnings() == []


def liars(number: int) -> list[Address]:
    """A peer that does not exist, at an address of the network where nobody is."""
    peer_id = Identity.from_seed(number.to_bytes(32, "big")).peer_id
    return [parse(f"/ip4/192.0.2.{100 + number % 100}/tcp/{1000 + number}/p2p/{peer_id}")]


async def test_interfaces_come_and_go() -> None:
    with lan(2) as (here, there):
        here.ip("link", "set", here.interface, "down")
        async with fabstird(prefix=here.run, **ANYWHERE) as one, fabstird(prefix=there.run, **ANYWHERE) as other:
            assert (await one.call("metrics"))["bounds"]["mdnsSockets"]["current"] == 0
            here.ip("link", "set", here.interface, "up")
            await meet(one, other)
            here.ip("link", "del", here.interface)
            await reaches(one, lambda metrics: metrics["bounds"]["mdnsSockets"]["current"] == 0)
            assert one.warnings() == []


async def test_the_port_is_shared_or_waited_for() -> None:
    with lan(2) as (here, there):
        here.ip("link", "set", here.interface, "addrgenmode", "none")  # no IPv6 here: it has a port of its own
        here.ip("-6", "address", "flush", "dev", here.interface)
        async with fabstird(prefix=there.run, **ANYWHERE) as other:
            async with multicaster(here, "hold") as holder:
                async with fabstird(prefix=here.run, **ANYWHERE) as one:
                    await until(one.warnings, within=SOON)
                    holder.process.kill()
                    await meet(one, other)
                    await until(lambda: "mDNS works again" in [entry["event"] for entry in one.said])
                (told,) = [entry for entry in one.said if entry["level"] == "warning"]
                assert told["event"] == "mDNS does not work; trying again"
                assert told["reason"] == "UDP port 5353 is taken by a program that does not share it"
            async with multicaster(here, "share"), fabstird(prefix=here.run, **ANYWHERE) as one:
                await meet(one, other)
                assert one.warnings() == []


async def test_enough_peers_are_enough() -> None:
    """With one connection there is no room below its ``high_water``; what it hears it remembers, and does not dial."""
    one_is_enough = {"connections.high_water": 1, "connections.low_water": 1}
    with lan(3) as (here, there, elsewhere):
        async with (
            fabstird(prefix=there.run, **ANYWHERE) as other,
            fabstird(prefix=here.run, settings=one_is_enough, **ANYWHERE) as one,
        ):
            await meet(one, other)
            # A peer that nobody finds by itself: it answers for a port at which the other daemon's neighbour listens.
            async with (
                fabstird(prefix=elsewhere.run, **{**ANYWHERE, "enable_mdns": False}) as third,
                multicaster(elsewhere, "send", elsewhere.interface) as speaker,
            ):
                (address,) = [a for a in third.status["listenAddresses"] if elsewhere.address in a]
                await speaker.send([answer(Name.random(), [parse(address)])])
                await other.wait_event("peer:connect", peerId=third.peer_id, timeout=SOON)
                await reaches(one, lambda metrics: metrics["bounds"]["mdnsPeers"]["current"] == 2)
                assert one.found("peer:connect", peerId=third.peer_id) == []
                told = await one.call("peer.explain", target=third.peer_id)
                assert told["summary"].startswith("not connected: it is heard in the local network, and dialled from ")
                assert [(entry["address"], entry["source"]) for entry in told["addresses"]] == [(address, "mdns")]
                # Not `disconnect`: the other daemon may dial again at once, and take the place.
                await one.call("peer.ban", peerId=other.peer_id)
                await one.wait_event("peer:connect", peerId=third.peer_id, timeout=SOON)
                await one.call("peer.unban", peerId=other.peer_id)
                await one.call("connect", address=other.peer_id)  # it is known by what it says


async def test_stops_and_starts_leave_nothing() -> None:
    with lan(1) as (machine,):
        async with fabstird(prefix=machine.run, **ANYWHERE) as one:
            await until(lambda: memberships(machine) == 1, within=SOON)
            await one.call("stop")
            assert memberships(machine) == 0
            before = await held(one)
            for _ in range(5):
                await one.call("start")
                await until(lambda: memberships(machine) == 1, within=SOON)
                await one.call("stop")
                assert memberships(machine) == 0
            await released(one, before)


def memberships(machine: Machine) -> int:
    """Interfaces on which somebody is in 224.0.0.251, as the kernel counts them."""
    shown = subprocess.run([*machine.run, "cat", "/proc/net/igmp"], capture_output=True, text=True, check=True).stdout
    return shown.count("FB0000E0")
