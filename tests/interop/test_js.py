"""The daemon and js-libp2p: dialled and dialling, over TCP and WebSocket, seen from both sides, closed and killed."""

from __future__ import annotations

from typing import Literal

import pytest
import trio

from fabstir_client.api.errors import DialFailed, InternalError, RpcError
from tests.harness import Daemon, fabstird
from tests.interop.jspeer import js_peer
from tests.interop.peerdriver import Peer, PeerError

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("js")]

Transport = Literal["tcp", "ws"]
Dialler = Literal["daemon", "js"]

BOTH = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
AGENT = "js-under-test/1.2.3"
IDENTIFY, PING, ECHO = "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/fabstir-interop/echo/1.0.0"

over = pytest.mark.parametrize("transport", ["tcp", "ws"])
by = pytest.mark.parametrize("dialler", ["daemon", "js"])


async def join(daemon: Daemon, peer: Peer, transport: Transport, dialler: Dialler) -> None:
    """Connects the two, and waits until both know and have identified each other."""
    if dialler == "daemon":
        result = await daemon.call("connect", address=peer.address(transport))
        assert result["peerId"] == peer.peer_id
        assert result["direction"] == "outbound"
        assert result["alreadyConnected"] is False
    else:
        assert (await peer.call("dial", address=daemon.address(transport)))["peerId"] == daemon.peer_id
    connected = await daemon.wait_event("peer:connect", peerId=peer.peer_id)
    assert connected["direction"] == ("outbound" if dialler == "daemon" else "inbound")
    assert connected["address"].startswith("/ip4/127.0.0.1/tcp/")
    await peer.wait_event("connect", peer_id=daemon.peer_id)
    await daemon.wait_event("peer:identify", peerId=peer.peer_id)
    await peer.wait_event("identify", peer_id=daemon.peer_id)


async def quiet(daemon: Daemon, peer: Peer) -> None:
    """Waits until no bytes of ours are on their way to js: it closes a TCP connection with RST while some lie unread
    (README). The daemon is asked first: what it had sent by then, js has read before it answers. `latency` says that
    yamux's own first ping, half a second after the start, has been answered; the next one comes 30 s later."""
    with trio.fail_after(60):
        while True:
            entry = await daemon.peer(peer.peer_id)
            (theirs,) = await peer.call("peers")
            assert entry is not None
            streams = [side["connections"][0]["streams"] for side in (entry, theirs)]
            if "latency" in entry and streams == [0, 0]:
                return
            await trio.sleep(0.02)  # then look again


async def assert_came_and_went_once(daemon: Daemon, peer: Peer) -> None:
    """In the whole of the daemon's log, and all that the peer has seen."""
    log = [event["type"] for event in await daemon.whole_log() if event["data"].get("peerId") == peer.peer_id]
    assert log.count("peer:connect") == 1, log
    assert log.count("peer:disconnect") == 1, log
    assert log.index("peer:connect") < log.index("peer:disconnect"), log
    assert len(peer.found("connect", peer_id=daemon.peer_id)) == 1


# ----------------------------------------------------------------------------------------------------------------------
# up


@over
@by
async def test_connected_and_seen_from_both_sides(dialler: Dialler, transport: Transport) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH, agent_version=AGENT) as peer:
        await join(daemon, peer, transport, dialler)

        # the daemon's side
        entry = await daemon.peer(peer.peer_id)
        assert entry is not None
        direction = "outbound" if dialler == "daemon" else "inbound"
        assert entry["direction"] == direction
        (connection,) = entry["connections"]
        assert connection["direction"] == direction
        assert connection["transport"] == transport
        assert connection["security"] == "/noise"
        assert connection["muxer"] == "/yamux/1.0.0"
        assert entry["agentVersion"] == AGENT
        assert entry["protocolVersion"] == "ipfs/0.1.0"
        assert {IDENTIFY, PING, ECHO} <= set(entry["protocols"])
        assert {peer.address("tcp"), peer.address("ws")} <= set(entry["addresses"])
        assert entry["bootstrap"] is False
        told = await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        assert told["agentVersion"] == AGENT
        assert {IDENTIFY, PING, ECHO} <= set(told["protocols"])
        status = await daemon.call("status")
        assert (status["peers"], status["connections"]) == (1, 1)
        metrics = await daemon.call("metrics")
        assert metrics["connectedPeers"] == [peer.peer_id]
        assert metrics[f"{direction}Connections"] == 1

        # js's side
        (entry,) = await peer.call("peers")
        assert entry["peerId"] == daemon.peer_id
        (connection,) = entry["connections"]
        assert connection["direction"] == ("inbound" if dialler == "daemon" else "outbound")
        assert connection["encryption"] == "/noise"
        assert connection["multiplexer"] == "/yamux/1.0.0"
        told = await peer.call("identify", peerId=daemon.peer_id)
        assert told["agentVersion"].startswith("fabstird/")
        assert {IDENTIFY, PING} <= set(told["protocols"])
        assert told["observedAddr"].startswith("/ip4/127.0.0.1/tcp/")
        listening = {address.removesuffix(f"/p2p/{daemon.peer_id}") for address in daemon.status["listenAddresses"]}
        assert {address.removesuffix(f"/p2p/{daemon.peer_id}") for address in told["addresses"]} == listening

        # what js told the daemon of its own address
        observed = (await daemon.call("addresses"))["observed"]
        assert [address for address in observed if address.startswith("/ip4/127.0.0.1/tcp/")], observed


@over
@by
async def test_ping_both_ways(dialler: Dialler, transport: Transport) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, transport, dialler)
        for _ in range(3):
            result = await daemon.call("ping", peerId=peer.peer_id)
            assert result["peerId"] == peer.peer_id
            assert 0 < result["rtt"] < 10_000
            assert 0 < (await peer.call("ping", peerId=daemon.peer_id))["rtt"] < 10_000
        await quiet(daemon, peer)  # says that the latency is known, too
        entry = await daemon.peer(peer.peer_id)
        assert entry is not None
        assert 0 < entry["latency"] < 10_000


async def test_connecting_again_is_the_same_connection() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, "tcp", "daemon")
        for address in (peer.address("tcp"), peer.address("ws"), peer.peer_id):
            assert (await daemon.call("connect", address=address))["alreadyConnected"] is True
        entry = await daemon.peer(peer.peer_id)
        assert entry is not None
        assert len(entry["connections"]) == 1
        await daemon.call("disconnect", peerId=peer.peer_id)
        await assert_came_and_went_once(daemon, peer)


async def test_connect_by_peer_id_once_its_addresses_are_known() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, "ws", "js")  # identify tells where js listens
        await daemon.call("disconnect", peerId=peer.peer_id)
        await peer.wait_event("disconnect", peer_id=daemon.peer_id)
        result = await daemon.call("connect", address=peer.peer_id)
        assert result["peerId"] == peer.peer_id
        assert result["direction"] == "outbound"
        await daemon.wait_event("peer:connect", count=2, peerId=peer.peer_id)


async def test_a_peer_without_ping_stays() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH, protocols=[IDENTIFY, ECHO]) as peer:
        await join(daemon, peer, "tcp", "daemon")
        told = await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        assert PING not in told["protocols"]
        with pytest.raises(RpcError) as caught:
            await daemon.call("ping", peerId=peer.peer_id)
        assert not isinstance(caught.value, InternalError)
        assert await daemon.peer(peer.peer_id) is not None
        assert daemon.found("peer:disconnect") == []


# ----------------------------------------------------------------------------------------------------------------------
# down


@over
@by
async def test_killed(dialler: Dialler, transport: Transport) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, transport, dialler)
        peer.kill()
        gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        assert gone["reason"] in ("closed_by_peer", "reset")  # a dead process's socket ends with FIN or with RST
        assert gone["duration"] >= 0
        assert await daemon.peer(peer.peer_id) is None
        await assert_came_and_went_once(daemon, peer)


@over
@by
@pytest.mark.parametrize("how", ["disconnect", "exit"])
async def test_closed_by_js(dialler: Dialler, transport: Transport, how: Literal["disconnect", "exit"]) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, transport, dialler)
        await quiet(daemon, peer)
        if how == "disconnect":
            assert (await peer.call("disconnect", peerId=daemon.peer_id))["closed"] == 1
        else:
            assert await peer.exit() == 0
        gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        assert gone["reason"] == "closed_by_peer"
        assert await daemon.peer(peer.peer_id) is None
        await assert_came_and_went_once(daemon, peer)


@over
@by
async def test_closed_by_the_daemon(dialler: Dialler, transport: Transport) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, transport, dialler)
        assert await daemon.call("disconnect", peerId=peer.peer_id) == {"peerId": peer.peer_id, "closed": 1}
        await peer.wait_event("disconnect", peer_id=daemon.peer_id)
        assert (await daemon.wait_event("peer:disconnect", peerId=peer.peer_id))["reason"] == "closed"
        assert await peer.call("peers") == []
        await assert_came_and_went_once(daemon, peer)


async def test_a_second_connection_is_not_a_second_peer() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, "tcp", "js")
        try:
            await peer.call("dial", address=daemon.address("ws"), force=True)
        except PeerError:
            pass  # the daemon may turn it away: what matters is that nobody comes or goes
        assert (await daemon.call("status"))["peers"] == 1
        peer.kill()
        await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        await assert_came_and_went_once(daemon, peer)


async def test_one_of_three_goes_and_the_others_notice_nothing() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as one, js_peer(listen=BOTH) as two, js_peer() as three:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, daemon, one, "tcp", "daemon")
            nursery.start_soon(join, daemon, two, "ws", "daemon")
            nursery.start_soon(join, daemon, three, "tcp", "js")
        assert (await daemon.call("status"))["peers"] == 3
        one.kill()
        await daemon.wait_event("peer:disconnect", peerId=one.peer_id)
        for peer in (two, three):
            assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
            assert (await peer.call("ping", peerId=daemon.peer_id))["rtt"] > 0
            assert peer.found("disconnect") == []
        assert {peer["peerId"] for peer in await daemon.call("peers")} == {two.peer_id, three.peer_id}


async def test_stop_and_start_again_under_a_connected_peer() -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        await join(daemon, peer, "tcp", "js")
        first = daemon.peer_id
        await daemon.call("stop")
        await peer.wait_event("disconnect", peer_id=first)
        assert (await daemon.wait_event("peer:disconnect", peerId=peer.peer_id))["reason"] == "stopped"
        with pytest.raises(PeerError):
            await peer.call("dial", address=daemon.address("tcp"))

        await daemon.call("start")
        await daemon.wait_event("p2p:started", count=2)
        daemon.status = await daemon.call("status")
        assert daemon.peer_id == first
        after = peer.mark()
        await peer.call("dial", address=daemon.address("ws"))
        await daemon.wait_event("peer:connect", count=2, peerId=peer.peer_id)
        assert (await peer.wait_event("identify", peer_id=first, after=after))["agentVersion"].startswith("fabstird/")


# ----------------------------------------------------------------------------------------------------------------------
# bootstrap


@over
async def test_bootstrap(transport: Transport) -> None:
    async with (
        js_peer(listen=BOTH, agent_version=AGENT) as peer,
        fabstird(bootstrap_nodes=[peer.address(transport)]) as daemon,
    ):
        connected = await daemon.wait_event("peer:connect", peerId=peer.peer_id)
        assert connected["direction"] == "outbound"
        assert (await daemon.wait_event("peer:identify", peerId=peer.peer_id))["agentVersion"] == AGENT
        assert (await peer.wait_event("identify", peer_id=daemon.peer_id))["agentVersion"].startswith("fabstird/")
        entry = await daemon.peer(peer.peer_id)
        assert entry is not None
        assert entry["bootstrap"] is True
        assert entry["connections"][0]["transport"] == transport
        assert {event["type"] for event in daemon.events} == {"p2p:started", "peer:connect", "peer:identify"}


async def test_two_addresses_of_one_bootstrap_peer_are_one_peer() -> None:
    async with (
        js_peer(listen=BOTH) as peer,
        fabstird(bootstrap_nodes=[peer.address("tcp"), peer.address("ws")]) as daemon,
    ):
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        peer.kill()
        await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        # both cycles begin anew and find it gone, which says that the first ones had ended quietly
        await daemon.wait_event("connection:retry", attempt=1)
        await assert_came_and_went_once(daemon, peer)


@over
async def test_a_bootstrap_peer_that_dies_is_found_again_when_it_returns(transport: Transport) -> None:
    seed = "5e" * 32
    async with js_peer(listen=BOTH, seed=seed) as peer:
        address = peer.address(transport)
        where = [peer.address(name).removesuffix(f"/p2p/{peer.peer_id}") for name in ("tcp", "ws")]
        async with fabstird(bootstrap_nodes=[address], retry_delay=100, max_retries=8) as daemon:
            await daemon.wait_event("peer:identify", peerId=peer.peer_id)
            peer.kill()
            await peer.wait_closed()
            await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
            retry = await daemon.wait_event("connection:retry", address=address)
            assert (retry["attempt"], retry["maxRetries"], retry["delay"]) == (1, 8, 100)
            async with js_peer(listen=where, seed=seed) as again:
                assert again.peer_id == peer.peer_id
                await daemon.wait_event("peer:connect", count=2, peerId=peer.peer_id, timeout=60)
                await again.wait_event("connect", peer_id=daemon.peer_id)
                entry = await daemon.peer(peer.peer_id)
                assert entry is not None
                assert entry["bootstrap"] is True


# ----------------------------------------------------------------------------------------------------------------------
# an address that names another peer than the one that answers


@pytest.fixture
async def somebody_else() -> str:
    async with js_peer(seed="7f" * 32) as peer:
        return peer.peer_id


@over
async def test_a_lying_address_fails_in_words_and_harms_nothing(transport: Transport, somebody_else: str) -> None:
    async with fabstird() as daemon, js_peer(listen=BOTH) as peer:
        lie = peer.address(transport).replace(peer.peer_id, somebody_else)
        with pytest.raises(DialFailed) as caught:
            await daemon.call("connect", address=lie)
        assert list(caught.value.data["errors"]) == [lie]
        assert caught.value.data["errors"][lie]  # in words

        await join(daemon, peer, transport, "daemon")  # the same listener, the truth this time
        assert [entry["peerId"] for entry in await daemon.call("peers")] == [peer.peer_id]
        assert len(peer.found("connect")) == 1, "js took the connection that the daemon refused"
        assert daemon.found("peer:connect", peerId=somebody_else) == []
        assert (await daemon.call("metrics"))["failedConnections"] == 1


@over
async def test_a_lying_bootstrap_node_is_retried_and_reported(transport: Transport, somebody_else: str) -> None:
    async with js_peer(listen=BOTH) as peer:
        lie = peer.address(transport).replace(peer.peer_id, somebody_else)
        async with fabstird(bootstrap_nodes=[lie], max_retries=2, retry_delay=50) as daemon:
            failed = await daemon.wait_event("connection:failed", address=lie)
            assert failed["attempts"] == 3
            assert failed["reason"] == "Max retries exceeded"
            assert failed["error"]
            retries = [event["data"] for event in daemon.found("connection:retry", address=lie)]
            assert [(r["attempt"], r["maxRetries"], r["delay"]) for r in retries] == [(1, 2, 50), (2, 2, 100)]
            (error,) = daemon.found("error")
            assert error["data"]["type"] == "BOOTSTRAP_CONNECTION_FAILED"
            assert error["data"]["address"] == lie
            assert (await daemon.call("status"))["state"] == "started"
            await join(daemon, peer, transport, "js")  # and works as ever
            assert [event["data"]["peerId"] for event in daemon.found("peer:connect")] == [peer.peer_id]
