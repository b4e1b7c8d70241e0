"""Traps 3 and 8: leaving and closing. Of each pair, the first test shows the defect on stock py-libp2p 0.8.1, the
others its absence in our host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from fabstird.p2p.host.host import DialError
from tests.harness import until
from tests.support.counting import held, released
from tests.support.minipeer import Stage, mini_peers
from tests.support.ports import free_port

from .ours import PATIENCE, Record, address, our_host
from .stock import stock

# ------------------------------------------------------------------------------------------------------------- trap 3


async def test_stock_leaves_its_listener_and_its_dialled_connections_behind() -> None:
    """Trap 3, libp2p 0.8.1: leaving `BasicHost.run` (host/basic_host.py) cancels the swarm's service, and the clean-up
    in `Swarm.run` (network/swarm.py) runs in that cancelled scope: its first `await` raises and skips the rest. The
    listener, a system task (transport/tcp/tcp.py, `TCPListener._spawn_background_task`), goes on accepting."""
    verdict = await stock("stop", "leaving_run")
    assert verdict["connected"] == 2
    assert verdict["disconnected"] == 0
    assert verdict["left_open"] >= 1
    assert verdict["tasks"] >= 1
    assert verdict["sockets"] >= 2
    assert verdict["knock"] == "accepted"


@pytest.mark.parametrize("leaving", ["returns", "raises", "is cancelled"])
async def test_ours_leaves_nothing_behind(leaving: str) -> None:
    """Trap 3: inbound and outbound connections over TCP, and half-made ones over TCP and ws, all ended by leaving."""
    record = Record()
    async with mini_peers(5) as [caller, callee, slow_caller, slow_ws_caller, slow_callee]:
        callee_address = await callee.listen()
        slow_address = await slow_callee.listen(hold=Stage.NOISE)
        before = await held()
        both = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
        ports: list[int] = []
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope, suppress_groups(ZeroDivisionError):
            async with our_host(both, record=record) as host, trio.open_nursery() as nursery:
                ports += [int(each.split("/")[4]) for each in host.listen_addresses()]
                await caller.dial(address(host))
                await slow_caller.dial(address(host), hold=Stage.NOISE)
                await slow_ws_caller.dial(f"/ip4/127.0.0.1/tcp/{ports[1]}", hold=Stage.TCP)
                await host.dial(callee_address, timeout=PATIENCE)
                nursery.start_soon(partial(host.dial, slow_address, timeout=PATIENCE))
                await (await slow_callee.accepted()).reached(Stage.NOISE)
                await until(lambda: len(host.links()) == 2)
                if leaving == "raises":
                    raise ZeroDivisionError
                (scope if leaving == "is cancelled" else nursery.cancel_scope).cancel()
        await released(before)
        announced = [event for event, _ in record.events if event != "identified"]
        assert announced == ["connected", "connected", "disconnected", "disconnected"]
        assert not caller.connections
        assert not callee.connections
        for port in ports:
            with pytest.raises(OSError, match="failed"):
                await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_ours_says_that_it_stopped(cancelled: bool) -> None:
    """Trap 3: the reason of each disconnect, whichever way the host is left; `Node.stop` cancels it."""
    record = Record()
    async with mini_peers(1) as [peer]:
        with trio.CancelScope() as scope:
            async with our_host(record=record) as host:
                await peer.dial(address(host))
                await until(lambda: record.came)
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()
        assert [link.reason for link in record.went] == ["stopped"]


async def test_ours_ends_a_dial_that_somebody_else_waits_for() -> None:
    """Trap 3: a call of the API waits for a dial when the host is left. Leaving ends that dial, and does not wait until
    it times out (after two minutes here)."""
    ended: list[str] = []
    async with mini_peers(1) as [slow], trio.open_nursery() as nursery:
        target = await slow.listen(hold=Stage.NOISE)
        async with our_host() as host:

            async def dial() -> None:
                try:
                    await host.dial(target, timeout=2 * PATIENCE)
                except DialError as error:
                    ended.append(str(error))

            nursery.start_soon(dial)
            await (await slow.accepted()).reached(Stage.NOISE)
            began = trio.current_time()
        assert trio.current_time() - began < PATIENCE
        await until(lambda: ended)


@contextmanager
def suppress_groups(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except* kind:
        pass


async def test_ours_starts_and_stops_again_and_again() -> None:
    """Trap 3: ten hosts, one after the other, on the same port and with a peer each."""
    async with mini_peers(1) as [peer]:
        # No port that the kernel would give somebody between two hosts
        before, listen = await held(), (f"/ip4/127.0.0.1/tcp/{free_port()}",)
        for _ in range(10):
            async with our_host(listen) as host:
                conn = await peer.dial(address(host))
                assert await conn.ping() > 0
            with trio.fail_after(PATIENCE):
                await conn.closed.wait()
        await released(before)


# ------------------------------------------------------------------------------------------------------------- trap 8


async def test_stock_closes_one_peer_after_another() -> None:
    """Trap 8, libp2p 0.8.1: network/swarm.py, `Swarm.close` awaits each connection's close in turn, and each sleeps for
    0.1 s twice (`Yamux.close`, `SwarmConn._cleanup`)."""
    verdict = await stock("stop", "closing_many")
    assert verdict["took"] >= 0.1 * verdict["peers"]


@pytest.mark.parametrize("frozen", [False, True])
async def test_ours_closes_all_at_once(frozen: bool, mock_clock: MockClock) -> None:
    """Trap 8: as many peers, in less than half of what the stock library needs at least; also if none of them reads.
    By a clock that stands while anything is done, and jumps to what is waited for where nothing is."""
    count, record = 20, Record()
    mock_clock.rate = 1
    async with mini_peers(count) as peers:
        async with our_host(record=record) as host:
            conns = [await peer.dial(address(host)) for peer in peers]
            await until(lambda: len(host.links()) == count)
            if frozen:
                for conn in conns:
                    conn.freeze()
            mock_clock.rate = 0
            mock_clock.autojump_threshold = 0.05
            began = trio.current_time()
        assert trio.current_time() - began < 0.05 * count
        assert len(record.went) == count
