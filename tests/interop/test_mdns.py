"""mDNS with js-, go- and rust-libp2p, in one network namespace: each sees the other, with no bootstrap node."""

from __future__ import annotations

import pytest

from tests.faults.cable import lan
from tests.harness import fabstird
from tests.interop import peers

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("root")]

SOON = 90.0  # seconds, on a machine that is busy with other things; on an idle one it takes two
LISTEN = ["/ip4/0.0.0.0/tcp/0"]
HOME = "10.1.1"  # js-libp2p tells private addresses only


@peers.across
async def test_a_peer_that_comes_later_sees_and_is_seen(implementation: str) -> None:
    with lan(1, HOME) as (machine,):
        async with fabstird(prefix=machine.run, listen_addresses=LISTEN, enable_mdns=True) as daemon:
            here = [a for a in daemon.status["listenAddresses"] if machine.address in a]
            async with peers.START[implementation](listen=LISTEN, mdns=True, prefix=machine.run) as peer:
                found = await peer.wait_event("mdns", peer_id=daemon.peer_id, timeout=SOON)
                told = {address.split("/p2p/")[0] for address in found["addresses"]}
                assert told == {address.split("/p2p/")[0] for address in here}
                await daemon.wait_event("peer:connect", peerId=peer.peer_id, timeout=SOON)
                await daemon.wait_event("peer:identify", peerId=peer.peer_id)
                assert daemon.warnings() == []


@peers.across
async def test_a_daemon_that_comes_later_sees_and_is_seen(implementation: str) -> None:
    with lan(1, HOME) as (machine,):
        async with (
            peers.START[implementation](listen=LISTEN, mdns=True, prefix=machine.run) as peer,
            fabstird(prefix=machine.run, listen_addresses=LISTEN, enable_mdns=True) as daemon,
        ):
            await peer.wait_event("mdns", peer_id=daemon.peer_id, timeout=SOON)
            await daemon.wait_event("peer:connect", peerId=peer.peer_id, timeout=SOON)
            assert daemon.warnings() == []


@peers.across
async def test_switched_off_it_is_not_seen(implementation: str) -> None:
    """A second daemon, which is, shows that the peer has looked."""
    with lan(1, HOME) as (machine,):
        async with (
            peers.START[implementation](listen=LISTEN, mdns=True, prefix=machine.run) as peer,
            fabstird(prefix=machine.run, listen_addresses=LISTEN) as hidden,
            fabstird(prefix=machine.run, listen_addresses=LISTEN, enable_mdns=True) as daemon,
        ):
            await peer.wait_event("mdns", peer_id=daemon.peer_id, timeout=SOON)
            await daemon.wait_event("peer:connect", peerId=peer.peer_id, timeout=SOON)
            assert [event for event in peer.events if event.get("peerId") == hidden.peer_id] == []
            assert hidden.found("peer:connect") == []
