"""A daemon that listens on QUIC goes on answering while strangers attack it, keeps nothing of them, and stops."""

from __future__ import annotations

import pytest
import trio

from fabstird.p2p.wire.addresses import parse
from tests.faults.answering import answering
from tests.harness import Daemon, asked_until, fabstird
from tests.support.holding import resident
from tests.support.quic_attacks import ATTACKS, DATAGRAMS, Attack, connected

pytestmark = pytest.mark.alone

LISTEN = ["/ip4/127.0.0.1/udp/0/quic-v1"]
GROWTH = 64 * 1024 * 1024
FOR = 0.6  # seconds for which each attack goes on


def port(daemon: Daemon) -> int:
    return int(parse(daemon.status["listenAddresses"][0]).port)


async def withstands(daemon: Daemon, attacks: dict[str, Attack]) -> None:
    before = resident(daemon)
    async with answering(daemon):
        for name, attack in attacks.items():
            with trio.move_on_after(FOR):
                await attack(port(daemon))
            grown = resident(daemon) - before
            assert grown < GROWTH, f"{name}: {grown} bytes more"
    async with connected(port(daemon)):  # honest clients come in
        await asked_until(lambda: daemon.call("peers"), bool)


async def test_datagrams_of_strangers_keep_nobody_waiting() -> None:
    async with fabstird(listen_addresses=LISTEN) as daemon:
        await withstands(daemon, DATAGRAMS)


async def test_frames_that_no_honest_peer_sends_keep_nobody_waiting() -> None:
    async with fabstird(listen_addresses=LISTEN) as daemon:
        await withstands(daemon, {name: attack for name, attack in ATTACKS.items() if name not in DATAGRAMS})
