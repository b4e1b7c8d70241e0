"""Peers that die without a word, or only seem to; and a daemon that was frozen itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.harness import Daemon, Json, fabstird, until
from tests.support.minipeer import mini_peer
from tests.support.ports import free_port

INTERVAL, TIMEOUT = 0.5, 3.0  # seconds; a peer that has no processor for so long is dead, too
LIVENESS: Json = {"connections.ping_interval": int(INTERVAL * 1000), "connections.ping_timeout": int(TIMEOUT * 1000)}
SLACK = 20.0  # seconds that a busy machine may take longer
BOUND = INTERVAL + TIMEOUT + SLACK
PATIENT: Json = {"connections.ping_interval": 200, "connections.ping_timeout": 5000}
AGAIN: Json = {"max_retries": 1, "retry_delay": 100, "keepalive_interval": 300, "dial_timeout": 1000}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def until_pinged(daemon: Daemon, peer_id: str, *, times: int) -> None:
    """Round trips, so that each side knows that the other is there."""
    for _ in range(times):
        assert (await daemon.call("ping", peerId=peer_id))["rtt"] > 0


async def test_by_default_a_dead_peer_is_noticed_within_thirty_seconds() -> None:
    async with fabstird(started=False) as daemon:
        connections = (await daemon.call("config"))["connections"]
        assert connections["ping_interval"] + connections["ping_timeout"] <= 30000, connections


@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize("dialer", ["daemon", "peer"])
async def test_a_killed_peer_is_noticed_at_once(transport: str, dialer: str) -> None:
    async with fabstird() as daemon, fabstird() as peer:
        one, other = (daemon, peer) if dialer == "daemon" else (peer, daemon)
        await one.call("connect", address=other.address(transport))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        peer.process.kill()
        await peer.process.wait()
        gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, timeout=SLACK)
        assert gone["reason"] in ("closed_by_peer", "reset"), gone
        assert (await daemon.call("status"))["connections"] == 0
        assert daemon.warnings() == []


async def test_a_killed_peer_that_comes_back_is_connected_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "peer"
    listen = [f"/ip4/127.0.0.1/tcp/{free_port()}"]  # while nobody listens there, nobody is given it
    async with fabstird(data_dir, listen_addresses=listen) as peer:
        address = peer.address("tcp")
        async with fabstird(bootstrap_nodes=[address], **AGAIN) as daemon:
            await daemon.wait_event("peer:identify", peerId=peer.peer_id)
            peer.process.kill()
            await peer.process.wait()
            await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, timeout=SLACK)
            # Before, it may have been too slow for a dial of one second
            await daemon.wait_event("connection:failed", address=address, error="connection refused")
            async with fabstird(data_dir, listen_addresses=listen) as again:
                assert again.peer_id == peer.peer_id
                await daemon.wait_event("peer:connect", count=2, peerId=peer.peer_id)
                assert len(await daemon.call("peers")) == 1


@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize("dialer", ["daemon", "peer"])
async def test_a_frozen_peer_is_dead(transport: str, dialer: str) -> None:
    async with fabstird(settings=LIVENESS) as daemon, fabstird() as peer:
        one, other = (daemon, peer) if dialer == "daemon" else (peer, daemon)
        await one.call("connect", address=other.address(transport))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        await peer.wait_event("peer:identify", peerId=daemon.peer_id)
        with frozen(peer.process.pid):
            began = trio.current_time()
            gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, timeout=BOUND)
            print(f"noticed after {trio.current_time() - began:.2f} s")
            assert gone["reason"] == "dead", gone
            assert (await daemon.call("metrics"))["connections"] == 0
        await peer.wait_event("peer:disconnect", peerId=daemon.peer_id)
        assert daemon.warnings() == []


async def test_a_frozen_bootstrap_peer_is_dialled_until_it_is_back() -> None:
    async with fabstird() as peer:
        address = peer.address("tcp")
        async with fabstird(settings=LIVENESS, bootstrap_nodes=[address], **AGAIN) as daemon:
            await daemon.wait_event("peer:identify", peerId=peer.peer_id)
            seen = len(daemon.events)  # a dial before may have been too slow, on a busy machine
            with frozen(peer.process.pid):
                await daemon.wait_event(
                    "peer:disconnect", after=seen, peerId=peer.peer_id, reason="dead", timeout=BOUND
                )
                await daemon.wait_event(
                    "connection:failed", after=seen, address=address, error="timed out after 1000 ms"
                )
            await daemon.wait_event("peer:connect", after=seen, peerId=peer.peer_id)
            await until_pinged(daemon, peer.peer_id, times=3)
            assert len(await peer.call("peers")) == 1, "of the links of the time in the ice, none is left"


async def test_a_peer_that_is_frozen_for_less_than_the_timeout_survives() -> None:
    """Pings go out and stay unanswered all the while."""
    async with fabstird(settings=PATIENT) as daemon, fabstird(settings=PATIENT) as peer:
        await daemon.call("connect", address=peer.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        for _ in range(2):
            with frozen(peer.process.pid):
                await trio.sleep(1)  # this is the fault, not a wait for something
            await until_pinged(daemon, peer.peer_id, times=2)
            await until_pinged(peer, daemon.peer_id, times=2)
        assert daemon.found("peer:disconnect") == []
        assert peer.found("peer:disconnect") == []


async def test_a_mute_peer_is_dead() -> None:
    """It has shaken hands, its socket takes everything, and it never says a word."""
    async with mini_peer() as peer, fabstird(settings=LIVENESS) as daemon:
        link = await peer.dial(daemon.address("tcp"), mute=True)
        await daemon.wait_event("peer:connect", peerId=peer.peer_id)
        await daemon.wait_event("peer:disconnect", peerId=peer.peer_id, reason="dead", timeout=BOUND)
        with trio.fail_after(SLACK):
            await link.closed.wait()


async def test_an_idle_peer_without_ping_or_identify_is_alive() -> None:
    """As the Fabstir node, which has no ping; yamux answers for it."""
    settings = {"connections.ping_interval": 100, "connections.ping_timeout": 3000}
    async with mini_peer() as peer, fabstird(settings=settings) as daemon:
        peer.handlers.clear()
        link = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:connect", peerId=peer.peer_id)
        await until(lambda: link.pinged >= 20)
        assert daemon.found("peer:disconnect") == []
        entry = await daemon.peer(peer.peer_id)
        assert entry is not None
        assert entry["latency"] > 0


async def test_a_daemon_that_was_frozen_itself_buries_nobody() -> None:
    """It wakes with its deadline past and the answer already there: that peer is alive."""
    async with mini_peer() as idle, mini_peer() as asked, fabstird(settings=LIVENESS) as daemon:
        quiet = await idle.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=idle.peer_id)
        link = await asked.dial(daemon.address("tcp"), mute=True)
        await until(lambda: link.pinged)
        with frozen(daemon.process.pid):
            await link.unmute()
            await trio.sleep(TIMEOUT + INTERVAL)  # this is the fault, not a wait for something
        before = quiet.pinged, link.pinged
        await until(lambda: quiet.pinged > before[0] + 1 and link.pinged > before[1] + 1)
        assert daemon.found("peer:disconnect") == []
