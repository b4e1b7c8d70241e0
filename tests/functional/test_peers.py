"""What users say of single peers, between real daemons: bans, kept peers, trimming, signs of life, explanations."""

from __future__ import annotations

import base64
import signal
from functools import partial

import pytest
import trio

from fabstir_client.api.errors import DialFailed, InvalidParams
from fabstird import base58
from tests.harness import fabstird, until
from tests.support.minipeer import mini_peers

STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


async def test_a_banned_peer_is_put_out_and_kept_out_both_ways() -> None:
    async with fabstird() as other, fabstird() as daemon:
        await daemon.call("connect", address=other.address("tcp"))
        await other.wait_event("peer:identify", peerId=daemon.peer_id)
        result = await daemon.call("peer.ban", target=other.peer_id, reason="spam")
        assert result["closed"] == 1
        assert result["ban"]["reason"] == "spam"
        await daemon.wait_event("peer:disconnect", peerId=other.peer_id, reason="banned")
        await other.wait_event("peer:disconnect", peerId=daemon.peer_id)
        with pytest.raises(DialFailed, match="banned for good: spam"):
            await daemon.call("connect", address=other.address("tcp"))
        with pytest.raises(DialFailed):
            await other.call("connect", address=daemon.address("ws"))
        assert (await daemon.call("peer.explain", peerId=other.peer_id))["summary"].endswith("banned for good: spam")
        assert await daemon.call("peer.unban", target=other.peer_id) == {"target": other.peer_id, "unbanned": True}
        assert (await other.call("connect", address=daemon.address("ws")))["alreadyConnected"] is False
        await daemon.wait_event("peer:connect", count=2, peerId=other.peer_id)


async def test_a_peer_is_the_same_one_in_each_of_its_spellings() -> None:
    """base58 or a CID, alone or after /p2p/ or /ipfs/: for tags, bans, kept addresses and calls."""
    async with fabstird() as daemon, fabstird() as other:
        address, usual = other.address("tcp"), other.peer_id
        as_cid = "b" + base64.b32encode(b"\x01\x72" + base58.decode(usual)).decode().lower().rstrip("=")
        spellings = [f"{before}{one}" for one in (usual, as_cid) for before in ("", "/p2p/", "/ipfs/")]
        endpoint = address.removesuffix(f"/p2p/{usual}")
        for number, spelling in enumerate(spellings):
            assert (await daemon.call("connect", address=f"{endpoint}/ipfs/{usual}"))["peerId"] == usual
            assert (await daemon.call("connect", address=spelling))["alreadyConnected"]
            assert (await daemon.call("ping", peerId=spelling))["peerId"] == usual
            tagged = await daemon.call("peer.tag", peerId=spelling, tag=f"t{number}", value=1)
            assert (tagged["peerId"], len(tagged["tags"])) == (usual, number + 1)
            assert (await daemon.call("peer.protect", peerId=spelling))["peerId"] == usual
            assert usual in (await daemon.call("peer.explain", target=spelling))["summary"]
            kept = f"{endpoint}/ipfs/{spelling.rpartition('/')[2]}"
            assert (await daemon.call("peer.keep", address=kept))["address"] == address
            assert (await daemon.call("peer.forget", target=spelling))["addresses"] == [address]
            assert (await daemon.call("peer.ban", target=spelling))["ban"]["target"] == usual
            assert [ban["target"] for ban in await daemon.call("peer.bans")] == [usual]
            await daemon.wait_event("peer:disconnect", count=2 * number + 1, peerId=usual)
            assert (await daemon.call("peer.unban", target=spelling))["unbanned"]
            await daemon.call("connect", address=address)
            assert (await daemon.call("disconnect", peerId=spelling))["closed"] >= 1
            await daemon.wait_event("peer:disconnect", count=2 * number + 2, peerId=usual)


async def test_a_banned_network_is_turned_away_before_the_handshake() -> None:
    async with fabstird() as daemon, mini_peers(1) as [peer]:
        await daemon.call("peer.ban", cidr="127.0.0.0/8", duration=60000)
        with pytest.raises(Exception):  # noqa: B017 - however the mini peer meets a closed socket
            await peer.dial(daemon.address("tcp"))
        metrics = await daemon.call("metrics")
        assert (metrics["refusedConnections"], metrics["handshakesFailed"]) == (1, 0)
        assert [ban["target"] for ban in await daemon.call("peer.bans")] == ["127.0.0.0/8"]


async def test_a_kept_peer_is_connected_and_found_again() -> None:
    async with fabstird() as other, fabstird(retry_delay=20) as daemon:
        kept = await daemon.call("peer.keep", address=other.address("ws"))
        assert kept == {"peerId": other.peer_id, "address": other.address("ws"), "kept": True}
        await daemon.wait_event("peer:identify", peerId=other.peer_id)
        await other.wait_event("peer:identify", peerId=daemon.peer_id)
        await other.call("disconnect", peerId=daemon.peer_id)
        await daemon.wait_event("peer:connect", count=2, peerId=other.peer_id)
        told = await daemon.call("peer.explain", target=other.peer_id)
        assert told["connected"]
        assert told["kept"]
        assert not told["bootstrap"]
        assert [entry["what"] for entry in told["timeline"]][:3] == ["kept", "connected", "identified"]
        assert (await daemon.call("peer.forget", target=other.peer_id))["addresses"] == [other.address("ws")]


async def test_above_high_water_the_youngest_is_trimmed_and_told_so() -> None:
    marks = {"connections.low_water": 1, "connections.high_water": 1, "connections.grace_period": 0}
    async with fabstird(settings=marks) as daemon, mini_peers(2) as [first, second]:
        await first.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=first.peer_id)
        await daemon.call("peer.protect", peerId=first.peer_id)
        await second.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:disconnect", peerId=second.peer_id, reason="trimmed")
        assert [peer["peerId"] for peer in await daemon.call("peers")] == [first.peer_id]


async def test_a_frozen_peer_is_dead_and_a_healthy_idle_one_is_not() -> None:
    liveness = {"connections.ping_interval": 200, "connections.ping_timeout": 10000}
    async with fabstird() as frozen, fabstird() as idle, fabstird(settings=liveness) as daemon:
        for other in (frozen, idle):
            await daemon.call("connect", address=other.address("tcp"))
            await daemon.wait_event("peer:identify", peerId=other.peer_id)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            await daemon.wait_event("peer:disconnect", peerId=frozen.peer_id, reason="dead")
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        assert [peer["peerId"] for peer in await daemon.call("peers")] == [idle.peer_id]


async def test_the_end_of_the_daemon_is_told_from_a_stop_of_the_node() -> None:
    async with fabstird() as other, fabstird() as daemon:
        await daemon.call("connect", address=other.address("tcp"))
        await daemon.call("shutdown")
        await daemon.wait_event("peer:disconnect", reason="shutdown")
        await until(lambda: daemon.process.poll() is not None)


async def test_explain_needs_exactly_one_target() -> None:
    async with fabstird() as daemon:
        for params in ({}, {"target": STRANGER, "peerId": STRANGER}):
            with pytest.raises(InvalidParams, match="exactly one of target, peerId, address is needed"):
                await daemon.call("peer.explain", **params)
        assert (await daemon.call("peer.explain", peerId=STRANGER))["summary"] == (
            "not connected: nothing is known of it"
        )


async def test_a_silent_address_does_not_hold_up_the_one_that_answers() -> None:
    accepted, closed = trio.Event(), trio.Event()

    async def keep_silent(stream: trio.SocketStream) -> None:
        accepted.set()
        async with stream:
            async for _ in stream:
                pass  # a dial's first bytes, unanswered
        closed.set()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, keep_silent, 0, host="127.0.0.1"))
        silent = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        # longer than the test may take: only a race gets past the silent one
        slow = {"connections.handshake_timeout": 900000}
        async with (
            fabstird(announce_addresses=[silent]) as other,
            fabstird(settings=slow, dial_timeout=900000) as daemon,
        ):
            await daemon.call("connect", address=other.address("tcp"))
            await daemon.wait_event("peer:identify", peerId=other.peer_id)
            await daemon.call("disconnect", peerId=other.peer_id)
            told = await daemon.call("peer.explain", target=other.peer_id)
            assert told["addresses"][0]["address"].startswith(silent), "it is dialled first"
            result = await daemon.call("connect", address=other.peer_id)
            assert result["address"] == other.address("tcp")
            with trio.fail_after(60):
                await accepted.wait()
                await closed.wait()
            metrics = await daemon.call("metrics")
            assert metrics["failedConnections"] == 0, "what lost the race has not failed"
            assert metrics["connections"] == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["ip6", "dns", "dns4"])
async def test_names_and_ipv6(name: str) -> None:
    """Over IPv6, and by a name that every hosts file knows. What is told of the connection is the endpoint."""
    host = "::1" if name == "ip6" else "127.0.0.1"
    listen = f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/0"
    async with fabstird(listen_addresses=[listen]) as other, fabstird() as daemon:
        (real,) = other.status["listenAddresses"]
        assert real.startswith(listen.removesuffix("0"))
        port = real.split("/")[4]
        address = real if name == "ip6" else f"/{name}/localhost/tcp/{port}/p2p/{other.peer_id}"
        result = await daemon.call("connect", address=address)
        assert (result["peerId"], result["address"]) == (other.peer_id, real)
        told = await other.call("addresses")
        assert told["listen"] == [real]
        assert told["announced"] == [real]
        await other.wait_event("peer:identify", peerId=daemon.peer_id)
        (observed,) = (await other.call("addresses"))["observed"]
        assert observed.startswith(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/")
        assert observed.endswith(f"/p2p/{other.peer_id}")


@pytest.mark.parametrize("listens", [[], ["/ip4/127.0.0.1/tcp/0"], ["/ip4/127.0.0.1/tcp/0/ws"]])
async def test_every_transport_is_dialled_whatever_is_listened_on(listens: list[str]) -> None:
    async with fabstird() as other, fabstird(listen_addresses=listens) as daemon:
        for count, transport in enumerate(("tcp", "ws"), 1):
            result = await daemon.call("connect", address=other.address(transport))
            assert (result["address"], result["alreadyConnected"]) == (other.address(transport), False)
            await daemon.call("disconnect", peerId=other.peer_id)
            await other.wait_event("peer:disconnect", count=count, peerId=daemon.peer_id)


async def test_an_address_is_told_beside_those_that_are_found() -> None:
    forwarded = "/dns4/home.example.org/tcp/4001"
    async with fabstird(announce_append=[forwarded]) as node, fabstird() as other:
        await other.call("connect", address=node.address("tcp"))
        told = await other.wait_event("peer:identify", peerId=node.peer_id)
        assert told["addresses"] == (await node.call("addresses"))["announced"]
        assert f"{forwarded}/p2p/{node.peer_id}" in told["addresses"]
        assert node.address("tcp") in told["addresses"]
        whence = {entry["address"]: entry["from"] for entry in (await node.call("addresses"))["reachability"]}
        assert whence[f"{forwarded}/p2p/{node.peer_id}"] == ["announced"]
        assert "interface" in whence[node.address("tcp")]
