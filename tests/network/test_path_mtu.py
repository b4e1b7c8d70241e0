"""QUIC over a cable that carries less than an Ethernet, and that comes to do so while a connection stands."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess

import pytest
import trio

from tests.faults.cable import Machine, cable
from tests.functional.local_streams import ECHO, Local, opened
from tests.harness import fabstird

pytestmark = pytest.mark.usefixtures("root")

PORT = 4001
MIB = 1024 * 1024
HEADERS = 42  # bytes of Ethernet, IP and UDP around a datagram
TIMEOUT = 180.0  # seconds for each MiB, on a machine that is busy with other things


def sent(machine: Machine) -> tuple[int, int]:
    """Packets and bytes that have left a machine."""
    command = [*machine.run, "ip", "-s", "-j", "link", "show", "dev", machine.interface]
    (about,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return about["stats64"]["tx"]["packets"], about["stats64"]["tx"]["bytes"]


async def carry(here: Local, there: Local, seed: int) -> None:
    data = random.Random(seed).randbytes(MIB)
    came = bytearray()
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send, data)
            while len(came) < MIB:
                came += await there.some()
    assert hashlib.sha256(came).digest() == hashlib.sha256(data).digest()


async def test_what_the_path_carries_is_found_and_what_it_swallows_is_sent_smaller() -> None:
    with cable() as between:
        one, other = between.one, between.other
        for machine in (one, other):  # the kernel would hand on many datagrams as one packet, whatever its size
            machine.ip("link", "set", machine.interface, "gso_max_segs", "1")
        listen = [f"/ip4/0.0.0.0/udp/{PORT}/quic-v1"]
        async with (
            fabstird(listen_addresses=listen, prefix=other.run) as called,
            fabstird(listen_addresses=listen, prefix=one.run) as caller,
        ):
            await called.call("protocol.handle", protocol=ECHO, mode="stream")
            await caller.call("connect", address=f"/ip4/{other.address}/udp/{PORT}/quic-v1/p2p/{called.peer_id}")
            async with opened(caller, called, ECHO) as (here, there):
                await carry(here, there, 1)
                packets, size = sent(one)
                await carry(here, there, 2)
                after = sent(one)
                assert (after[1] - size) / (after[0] - packets) > 1200 + HEADERS, "datagrams have grown"
                other.ip("link", "set", other.interface, "mtu", "1280")  # what is larger is dropped without a word
                await carry(here, there, 3)
                packets, size = sent(one)
                await carry(here, there, 4)
                after = sent(one)
                assert (after[1] - size) / (after[0] - packets) <= 1280 + HEADERS
