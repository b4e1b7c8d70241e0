"""Daemons that reach each other through a third one, which is their relay; its limits, and strangers at it."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
import trio

from fabstir_client.api.errors import DialFailed, FabstirError
from tests.harness import asked_until, fabstird, until
from tests.harness.daemon import Daemon

TCP = ["/ip4/127.0.0.1/tcp/0"]
SERVE: dict[str, Any] = {"relay.serve": True}
ECHO = "/relayed/echo/1"
HOP = "/libp2p/circuit/relay/0.2.0/hop"


async def served(relay: Daemon, name: str) -> int:
    return int((await relay.call("metrics"))["bounds"][name]["current"])


async def test_two_daemons_speak_through_a_third() -> None:
    """With no limits, a megabyte both ways; the relay knows how many it serves and what they had."""
    settings = {**SERVE, "relay.circuit_duration": 0, "relay.circuit_bytes": 0}
    async with fabstird(settings=settings, listen_addresses=TCP) as relay:
        nodes = {"relay.nodes": [relay.address("tcp")]}
        async with fabstird(settings=nodes, listen_addresses=TCP) as hidden, fabstird(listen_addresses=TCP) as other:
            address = await hidden.circuit(relay)
            assert await served(relay, "relayServedReservations") == 1
            assert (await other.call("connect", address=address))["address"] == address
            entry = await asked_until(lambda: hidden.peer(other.peer_id), bool)
            assert entry is not None
            assert [one["transport"] for one in entry["connections"]] == ["p2p-circuit"]
            assert (await other.call("ping", peerId=hidden.peer_id))["rtt"] > 0
            assert await served(relay, "relayServedCircuits") == 1

            data = os.urandom(400_000)
            await hidden.call("protocol.handle", protocol=ECHO, framing="none")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hidden.echo, other.peer_id)
                answer = await other.call(
                    "request",
                    peerId=hidden.peer_id,
                    protocol=ECHO,
                    data=base64.b64encode(data).decode(),
                    framing="none",
                )
            assert base64.b64decode(answer["data"]) == data

            await other.call("disconnect", peerId=hidden.peer_id)
            gone = await hidden.wait_event("peer:disconnect", peerId=other.peer_id)
            assert gone["reason"] == "closed_by_peer"
            await asked_until(lambda: served(relay, "relayServedCircuits"), lambda count: count == 0)
            await hidden.call("stop")
            await asked_until(lambda: served(relay, "relayServedReservations"), lambda count: count == 0)
            with pytest.raises(DialFailed, match="the peer has no reservation at the relay"):
                await other.call("connect", address=address)


@pytest.mark.parametrize(
    "limit", [{"relay.circuit_duration": 3000}, {"relay.circuit_bytes": 20_000}], ids=["time", "bytes"]
)
async def test_a_limit_cuts_the_circuit_and_is_told_as_the_reason(limit: dict[str, int]) -> None:
    async with fabstird(settings={**SERVE, **limit}, listen_addresses=TCP) as relay:
        nodes = {"relay.nodes": [relay.address("tcp")]}
        async with fabstird(settings=nodes, listen_addresses=TCP) as hidden, fabstird(listen_addresses=TCP) as other:
            await other.call("connect", address=await hidden.circuit(relay))
            if "relay.circuit_bytes" in limit:
                await hidden.call("protocol.handle", protocol=ECHO, framing="none")
                data = base64.b64encode(bytes(60_000)).decode()
                with pytest.raises(FabstirError):
                    await other.call("request", peerId=hidden.peer_id, protocol=ECHO, data=data, framing="none")
            reasons = {
                (await one.wait_event("peer:disconnect", timeout=60, peerId=peer.peer_id))["reason"]
                for one, peer in ((hidden, other), (other, hidden))
            }
            assert "limit" in reasons
            await asked_until(lambda: served(relay, "relayServedCircuits"), lambda count: count == 0)
            # the reservation stands, and the next circuit has its own time
            await other.call("connect", address=await hidden.circuit(relay))


async def test_one_more_circuit_than_allowed_is_refused() -> None:
    async with fabstird(settings={**SERVE, "relay.max_circuits": 1}, listen_addresses=TCP) as relay:
        nodes = {"relay.nodes": [relay.address("tcp")]}
        async with (
            fabstird(settings=nodes, listen_addresses=TCP) as hidden,
            fabstird(listen_addresses=TCP) as one,
            fabstird(listen_addresses=TCP) as two,
        ):
            address = await hidden.circuit(relay)
            await one.call("connect", address=address)
            with pytest.raises(DialFailed, match="the relay has no more room"):
                await two.call("connect", address=address)
            await one.call("disconnect", peerId=hidden.peer_id)
            await asked_until(lambda: served(relay, "relayServedCircuits"), lambda count: count == 0)
            await two.call("connect", address=address)


async def test_a_place_too_many_is_refused_and_a_relay_is_none_by_default() -> None:
    async with fabstird(settings={**SERVE, "relay.max_reservations": 1}, listen_addresses=TCP) as relay:
        nodes = {"relay.nodes": [relay.address("tcp")]}
        async with fabstird(settings=nodes, listen_addresses=TCP) as first:
            await first.circuit(relay)
            async with fabstird(settings=nodes, listen_addresses=TCP) as second:
                await until(lambda: any("refused a reservation" in str(one) for one in second.said))
        assert HOP in await protocols(relay)
    async with fabstird(listen_addresses=TCP) as daemon:
        assert HOP not in await protocols(daemon)


async def protocols(daemon: Daemon) -> list[str]:
    """What a peer hears that it answers."""
    async with fabstird(listen_addresses=TCP) as other:
        await other.call("connect", address=daemon.address("tcp"))
        told = await other.wait_event("peer:identify", peerId=daemon.peer_id)
        return list(told["protocols"])
