"""Traps 1, 4, 5, 6 and 17: connections that come, are dialled, and go. Of each pair, the first test shows the defect on
stock py-libp2p 0.8.1, the second its absence in our host."""

from contextlib import suppress
from itertools import count
from math import inf

import pytest
import trio

from fabstird.p2p.host.host import DialError, Host
from tests.harness import until
from tests.support.counting import held, released
from tests.support.minipeer import Connection, Gone, MiniPeer, Stage, mini_peers
from tests.support.ports import black_hole, refusing_port

from .ours import LOOPBACK, PATIENCE, Record, address, our_host
from .stock import stock

# ------------------------------------------------------------------------------------------------------------- trap 1


async def test_stock_accepts_only_so_many_connections_in_its_life() -> None:
    """Trap 1, libp2p 0.8.1: network/swarm.py, `Swarm._handle_inbound_connection` gives its limiter's token back, and
    `_do_handle_inbound_connection` returns, when the swarm stops (`manager.wait_finished()`), not when the connection
    ends. With nobody connected the next peer is turned away; each past connection has left its tasks."""
    verdict = await stock("connections", "inbound_tokens")
    assert verdict["connected"] == 0
    assert verdict["tokens_left"] == 0
    assert verdict["refused"]
    assert verdict["tasks_leaked"] >= verdict["limit"]


async def test_ours_accepts_for_ever() -> None:
    """Trap 1: three times as many peers come and go as are let in at a time; then a full house comes and stays."""
    limit, record = 8, Record()
    async with our_host(most=limit, record=record) as host, mini_peers(4 * limit) as peers:
        before = await held()
        for house in range(3):
            for peer in peers[house * limit : (house + 1) * limit]:
                await (await peer.dial(address(host))).ping()
            for peer in peers:
                for conn in list(peer.connections):
                    await conn.aclose()
            await until(lambda: len(record.went) == len(record.came))
            await released(before)  # whoever has gone keeps its place until its last words are heard
        assert len(record.came) == 3 * limit
        for peer in peers[3 * limit :]:
            assert await (await peer.dial(address(host))).ping() > 0
        assert len(host.links()) == limit


# ------------------------------------------------------------------------------------------------------------- trap 4


async def test_stock_loses_a_slot_with_each_cancelled_dial() -> None:
    """Trap 4, libp2p 0.8.1: network/swarm.py, `Swarm._dial_addr_single_attempt` closes the raw connection before the
    resource manager's scope; in a cancelled dial that close raises `Cancelled` and the scope stays open for ever."""
    verdict = await stock("connections", "cancelled_dials")
    assert verdict["connections"] == 0
    assert verdict["slots_taken"] == verdict["limit"]
    assert "denied by resource manager" in verdict["denied"]


@pytest.mark.parametrize("stage", [Stage.TCP, Stage.GREETED, Stage.SECURITY, Stage.NOISE, Stage.SECURED])
async def test_ours_keeps_nothing_of_a_cancelled_dial(stage: Stage) -> None:
    """Trap 4: as many dials as there may be connections are cancelled at one stage; then as many come up."""
    limit, record = 4, Record()
    async with our_host(most=limit, record=record) as host, mini_peers(1 + limit) as [silent, *healthy]:
        target = await silent.listen(hold=stage)
        before = await held()
        for _ in range(limit):
            async with trio.open_nursery() as nursery:

                async def dial() -> None:
                    await host.dial(target, timeout=PATIENCE)

                nursery.start_soon(dial)
                conn = await silent.accepted()
                await conn.reached(stage)
                nursery.cancel_scope.cancel()
            with trio.fail_after(PATIENCE):
                await conn.closed.wait()
        await released(before)
        assert not host.links()
        assert not record.events
        for peer in healthy:
            await host.dial(await peer.listen(), timeout=PATIENCE)
        assert len(host.links()) == limit


# ------------------------------------------------------------------------------------------------------------- trap 5


async def test_stock_does_not_apply_its_dial_timeout() -> None:
    """Trap 5, libp2p 0.8.1: `ConnectionConfig.dial_timeout` is read by network/auto_connector.py alone;
    network/swarm.py (`dial_peer`, `_dial_addr_single_attempt`) puts no bound on opening a socket or on the security
    upgrade."""
    verdict = await stock("connections", "dial_timeout")
    assert sorted(verdict["unfinished"]) == ["black hole", "tcp", "ws"]


TIMEOUT = 0.3


@pytest.mark.parametrize("stage", [Stage.TCP, Stage.GREETED, Stage.SECURITY, Stage.NOISE, Stage.SECURED])
async def test_ours_gives_up_in_time(stage: Stage) -> None:
    """Trap 5: a TCP peer that falls silent somewhere in the handshake."""
    async with our_host() as host, mini_peers(1) as [silent]:
        await gives_up(host, await silent.listen(hold=stage))


async def test_ours_gives_up_in_time_over_websocket() -> None:
    """Trap 5: a WebSocket server that never answers the upgrade."""
    async with our_host() as host, mini_peers(1) as [silent]:
        await gives_up(host, (await silent.listen(hold=Stage.TCP)).replace("/p2p/", "/ws/p2p/"))


async def test_ours_gives_up_in_time_on_a_black_hole() -> None:
    """Trap 5: an endpoint that answers no SYN."""
    with black_hole() as port:
        async with our_host() as host, mini_peers(1) as [lost]:
            await gives_up(host, f"/ip4/127.0.0.1/tcp/{port}/p2p/{lost.peer_id}")


async def gives_up(host: Host, target: str) -> None:
    began = trio.current_time()
    with trio.fail_after(PATIENCE), pytest.raises(DialError, match="timed out"):  # the stock library takes longer
        await host.dial(target, timeout=TIMEOUT)
    assert trio.current_time() - began >= TIMEOUT
    assert not host.links()


@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize("stage", [Stage.TCP, Stage.GREETED, Stage.SECURITY, Stage.NOISE, Stage.SECURED])
async def test_ours_drops_a_dialer_that_falls_silent(stage: Stage, transport: str) -> None:
    """Trap 5, the other way round: whoever stops half-way in a handshake with us loses the only slot there is."""
    if transport == "ws" and stage > Stage.GREETED:
        return  # the mini peer speaks no WebSocket: it connects and is silent, or sends what is no upgrade
    listen = "/ip4/127.0.0.1/tcp/0" + ("/ws" if transport == "ws" else "")
    async with our_host((listen, *LOOPBACK), most=1, handshake_timeout=TIMEOUT) as host, mini_peers(2) as peers:
        silent, healthy = peers
        target, good = host.listen_addresses()
        before = await held()
        with trio.fail_after(PATIENCE):
            conn, times = await insistent(silent, target.replace("/ws", ""), stage)
            await conn.closed.wait()
        await released(before)
        assert host.swarm.inbound.handshakes_failed == times
        with trio.fail_after(PATIENCE):
            conn, _ = await insistent(healthy, good, None)
            assert await conn.ping() > 0


async def insistent(peer: MiniPeer, target: str, stage: Stage | None) -> tuple[Connection, int]:
    """A connection that has got so far, and how often it was tried: on a busy machine `TIMEOUT` may be too short."""
    for times in count(1):
        with suppress(Gone):
            return await peer.dial(target, hold=stage), times
    raise AssertionError("unreachable")


# ------------------------------------------------------------------------------------------------------------- trap 6


async def test_stock_dials_one_address_and_then_refuses_the_peer() -> None:
    """Trap 6, libp2p 0.8.1: network/swarm.py, `Swarm.dial_peer` keeps the first address of each transport and, once
    that has failed, `_NegativePeerCache` refuses the peer for 60 s, good addresses or not. It also waits 250 ms
    (`_HAPPY_EYEBALLS_DELAY`) after starting a dial, even where that has succeeded."""
    verdict = await stock("connections", "addresses_of_a_peer")
    both, good_alone = verdict["errors"]
    assert "no addresses established a successful connection" in both
    assert "negative cache" in good_alone
    assert verdict["accepted"] == 0
    assert verdict["healthy_took"] >= 0.25


async def test_ours_dials_the_address_it_is_told_at_once() -> None:
    """Trap 6: an address that has failed ten times stands in the way of neither the peer's next one nor itself; and the
    fastest of some dials is faster than the stock library's floor."""
    with refusing_port() as port:
        async with our_host() as host, mini_peers(1) as [peer]:
            for _ in range(10):
                with pytest.raises(DialError, match="refused"):
                    await host.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer.peer_id}", timeout=PATIENCE)
            target, took = await peer.listen(), [inf]
            while min(took) >= 0.25 and len(took) < 100:  # as often as it takes on a busy machine
                began = trio.current_time()
                link = await host.dial(target, timeout=PATIENCE)
                took.append(trio.current_time() - began)
                assert link.peer_id == peer.peer_id
                assert await host.close_peer(peer.peer_id) == 1
            assert min(took) < 0.25


async def test_ours_tries_every_address_behind_a_name() -> None:
    """Trap 6: localhost has two addresses where it has IPv6, and only one of them answers."""
    async with our_host() as host, mini_peers(1) as [peer]:
        target = (await peer.listen()).replace("/ip4/127.0.0.1/", "/dns/localhost/")
        assert (await host.dial(target, timeout=PATIENCE)).peer_id == peer.peer_id


# ------------------------------------------------------------------------------------------------------------ trap 17


async def test_stock_disconnects_what_never_connected() -> None:
    """Trap 17, libp2p 0.8.1: network/swarm.py, `Swarm.add_conn` closes a connection over the limit through
    `SwarmConn.close` (network/connection/swarm_connection.py), whose `_cleanup` notifies `disconnected` although
    `connected` was never notified."""
    verdict = await stock("connections", "burst")
    assert verdict["connected"] == verdict["limit"]
    assert verdict["never_connected"] > 0


async def test_ours_announces_in_pairs_when_many_dial_it() -> None:
    """Trap 17: sixteen peers dial a host that takes two. `Record.disconnected` holds each departure to its arrival."""
    limit, record = 2, Record()
    async with our_host(most=limit, record=record) as host, mini_peers(16) as peers:
        up: list[Connection] = []

        async def dial(peer: MiniPeer) -> None:
            try:
                up.append(await peer.dial(address(host)))
            except (Gone, OSError):
                pass

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(dial, peer)
        await until(lambda: len(host.links()) == len(up) == limit)
        assert len(record.came) == limit
        for conn in up:
            await conn.aclose()
        await until(lambda: not host.links())
        await until(lambda: len(record.went) == limit)


async def test_ours_announces_in_pairs_when_it_dials_many() -> None:
    """Trap 17: the other way round."""
    limit, record, refused = 2, Record(), []
    async with our_host(most=limit, record=record) as host, mini_peers(8) as peers:

        async def dial(target: str) -> None:
            try:
                await host.dial(target, timeout=PATIENCE)
            except DialError as error:
                refused.append(str(error))

        targets = [await peer.listen() for peer in peers]
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(dial, target)
        assert len(host.links()) == len(record.came) == limit
        assert len(refused) == len(peers) - limit
        assert all("connections.max" in words for words in refused)
    assert len(record.went) == limit
