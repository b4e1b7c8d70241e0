"""Traps 3 and 8: leaving and closing. Of each pair, the first test shows the defect on stock py-libp2p 0.8.1, the
others its absence in our host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trio

from fabstird.p2p.host.host import DialError
from tests.harness import until
from tests.support.counting import held, released
from tests.support.minipeer import Stage, mini_peers

from .ours import LOOPBACK, Record, address, our_host
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
        with trio.fail_after(60), trio.CancelScope() as scope, suppress_groups(ZeroDivisionError):
            async with our_host(both, record=record) as host, trio.open_nursery() as nursery:
                ports += [int(each.split("/")[4]) for each in host.listen_addresses()]
                await caller.dial(address(host))
                await slow_caller.dial(address(host), hold=Stage.NOISE)
                await slow_ws_caller.dial(f"/ip4/127.0.0.1/tcp/{ports[1]}", hold=Stage.TCP)
                await host.dial(callee_address, timeout=60)
                nursery.start_soon(partial(host.dial, slow_address, timeout=30))
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
    it times out."""
    ended: list[str] = []
    async with mini_peers(1) as [slow], trio.open_nursery() as nursery:
        target = await slow.listen(hold=Stage.NOISE)
        with trio.fail_after(60):
            async with our_host() as host:

                async def dial() -> None:
                    try:
                        await host.dial(target, timeout=300)
                    except DialError as error:
                        ended.append(str(error))

                nursery.start_soon(dial)
                await (await slow.accepted()).reached(Stage.NOISE)
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
        before, listen = await held(), LOOPBACK
        for _ in range(10):
            async with our_host(listen) as host:
                target = address(host)
                listen = (target.split("/p2p/")[0],)
                conn = await peer.dial(target)
                assert await conn.ping() > 0
            with trio.fail_after(60):
                await conn.closed.wait()
        await released(before)


# ------------------------------------------------------------------------------------------------------------- trap 8


async def test_stock_closes_one_peer_after_another() -> None:
    """Trap 8, libp2p 0.8.1: network/swarm.py, `Swarm.close` awaits each connection's close in turn, and each sleeps for
    0.1 s twice (`Yamux.close`, `SwarmConn._cleanup`)."""
    verdict = await stock("stop", "closing_many")
    assert verdict["took"] >= 0.1 * verdict["peers"]


@pytest.mark.parametrize("frozen", [False, True])
async def test_ours_closes_all_at_once(frozen: bool) -> None:
    """Trap 8: as many peers, in less than half of what the stock library needs at least; also if none of them reads.
    The fastest of ten times: the machine may be busy with something else during one."""
    count, took = 20, trio.current_time()
    async with mini_peers(count) as peers:
        for _ in range(10):
            record = Record()
            async with our_host(record=record) as host:
                conns = [await peer.dial(address(host)) for peer in peers]
                await until(lambda host=host: len(host.links()) == count)
                if frozen:
                    for conn in conns:
                        conn.freeze()
                began = trio.current_time()
            took = min(took, trio.current_time() - began)
            assert len(record.went) == count
            if took < 0.05 * count:
                break
        assert took < 0.05 * count
