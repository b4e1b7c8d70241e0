"""The network between two daemons goes, and comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.faults.cable import Cable, cable
from tests.harness import Json, fabstird

INTERVAL, TIMEOUT = 1.0, 4.0  # seconds
LIVENESS = {"connections.ping_interval": int(INTERVAL * 1000), "connections.ping_timeout": int(TIMEOUT * 1000)}
BOUND = INTERVAL + TIMEOUT + 20  # and what a busy machine may take longer
NODE: Json = {"max_retries": 1, "retry_delay": 100, "keepalive_interval": 300, "dial_timeout": 1000}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("cut", "mend", "dial_errors", "wanted"),
    [
        (Cable.unplug, Cable.plug, {"network unreachable", "no route to host", "timed out after 1000 ms"}, "bootstrap"),
        (Cable.swallow, Cable.deliver, {"timed out after 1000 ms"}, "kept"),
    ],
    ids=["unplugged", "packets swallowed"],
)
async def test_a_cut_is_noticed_on_both_sides_and_mended(
    cut: Callable[[Cable], None], mend: Callable[[Cable], None], dial_errors: set[str], wanted: str
) -> None:
    with cable() as wire:
        listen = [f"/ip4/{wire.other.address}/tcp/0"]
        async with fabstird(settings=LIVENESS, prefix=wire.other.run, listen_addresses=listen) as other:
            (address,) = other.status["listenAddresses"]
            bootstrap = [address] if wanted == "bootstrap" else []
            listen = [f"/ip4/{wire.one.address}/tcp/0"]
            node = NODE | {"listen_addresses": listen, "bootstrap_nodes": bootstrap}
            async with fabstird(settings=LIVENESS, prefix=wire.one.run, **node) as one:
                if wanted == "kept":
                    await one.call("peer.keep", address=address)
                await one.wait_event("peer:identify", peerId=other.peer_id)
                await other.wait_event("peer:identify", peerId=one.peer_id)

                # Only what comes from here on counts: a busy machine may have been too slow for a first dial
                cut(wire)
                began = trio.current_time()
                sides = [(one, other, len(one.events)), (other, one, len(other.events))]
                for daemon, peer, seen in sides:
                    gone = await daemon.wait_event("peer:disconnect", after=seen, peerId=peer.peer_id, timeout=BOUND)
                    print(f"noticed after {trio.current_time() - began:.2f} s: {gone}")
                    assert gone["reason"] == "dead", gone
                failed = await one.wait_event("connection:failed", after=sides[0][2], address=address)
                assert failed["error"] in dial_errors, failed

                sides = [(one, other, len(one.events)), (other, one, len(other.events))]
                mend(wire)
                began = trio.current_time()
                for daemon, peer, seen in sides:
                    await daemon.wait_event("peer:connect", after=seen, peerId=peer.peer_id)
                print(f"connected again after {trio.current_time() - began:.2f} s")
                assert (await one.call("ping", peerId=other.peer_id))["rtt"] > 0
                assert len(await other.call("peers")) == 1
                for daemon in (one, other):
                    assert daemon.warnings(dead=address) == []


@pytest.mark.usefixtures("root")
async def test_a_cut_shorter_than_the_timeout_is_survived() -> None:
    settings = {"connections.ping_interval": 200, "connections.ping_timeout": 6000}
    with cable() as wire:
        there = [f"/ip4/{wire.other.address}/tcp/0"]
        here = [f"/ip4/{wire.one.address}/tcp/0"]
        async with (
            fabstird(settings=settings, prefix=wire.other.run, listen_addresses=there) as other,
            fabstird(settings=settings, prefix=wire.one.run, listen_addresses=here) as one,
        ):
            (address,) = other.status["listenAddresses"]
            await one.call("connect", address=address)
            await one.wait_event("peer:identify", peerId=other.peer_id)
            wire.swallow()
            await trio.sleep(1)  # this is the fault, not a wait for something
            wire.deliver()
            for daemon, peer in ((one, other), (other, one)):
                assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
                assert daemon.found("peer:disconnect") == []
