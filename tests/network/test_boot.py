"""A daemon that is up before the network is, in a network namespace of its own."""

from __future__ import annotations

import pytest

from tests.faults.cable import lan
from tests.harness import fabstird

pytestmark = pytest.mark.usefixtures("root")

SOON = 90.0  # seconds, on a machine that is busy with other things


async def test_a_network_that_comes_up_later_is_used_at_once() -> None:
    """Its bootstrap node's cycle has failed, and the next one begins in an hour."""
    with lan(2) as (here, there):
        async with fabstird(prefix=there.run, listen_addresses=["/ip4/0.0.0.0/tcp/0"]) as other:
            own = (await other.call("status"))["listenAddresses"]
            [address] = [text for text in own if "/ip4/127." not in text]
            here.ip("link", "set", here.interface, "down")
            async with fabstird(
                prefix=here.run, bootstrap_nodes=[address], max_retries=0, keepalive_interval=3_600_000
            ) as one:
                await one.wait_event("connection:failed", address=address, timeout=SOON)
                here.ip("link", "set", here.interface, "up")
                await one.wait_event("peer:connect", peerId=other.peer_id, timeout=SOON)
