"""Traps 13 and 16: what happens without being asked for. Of each pair, the first test shows the defect on stock
py-libp2p 0.8.1, the others its absence in our host."""

import pytest
import trio

from tests.harness import until
from tests.support.counting import task_names
from tests.support.minipeer import mini_peers

from .ours import PATIENCE, Record, address, our_host
from .stock import in_process, stock

# ------------------------------------------------------------------------------------------------------------ trap 13


async def test_stock_dials_whoever_it_has_heard_of() -> None:
    """Trap 13, libp2p 0.8.1: network/auto_connector.py, `AutoConnector.maybe_connect` runs at the start, every 10 to
    30 s and after a disconnect, and dials what the peer store knows while there are fewer than 200 connections (by
    default)."""
    assert (await stock("background", "auto_connector"))["dialled"] == [True]


async def test_stock_does_not_prune_a_peer_with_a_stream() -> None:
    """Trap 13, libp2p 0.8.1: network/connection_pruner.py, `ConnectionPruner._maybe_prune_connections` skips every
    connection that has a stream, so peers that keep one open are over the high watermark for ever."""
    verdict = await stock("background", "pruner")
    assert verdict["connections"] > verdict["high_watermark"]


async def test_ours_dials_nobody_and_closes_nobody_by_itself() -> None:
    """Trap 13: neither task runs, and a peer that was met is not dialled again, not even when a
    connection ends, which wakes the stock auto-connector at once."""
    record = Record()
    async with our_host(record=record) as host, mini_peers(2) as [idle, caller]:
        before = set(task_names())
        link = await host.dial(await idle.listen(), timeout=PATIENCE)  # from now on the host has met it
        await idle.accepted()
        link.end("closed")
        await until(lambda: record.went)
        conn = await caller.dial(address(host))
        await until(lambda: len(record.came) == 2)
        await conn.aclose()
        await until(lambda: len(record.went) == 2)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await idle.accepted()
        assert not [name for name in before | set(task_names()) if "AutoConnector" in name or "_prune" in name]


# ------------------------------------------------------------------------------------------------------------ trap 16


async def test_stock_is_slow_to_import_and_takes_the_root_logger() -> None:
    """Trap 16, libp2p 0.8.1: libp2p/__init__.py imports every transport, aiortc's and zeroconf's included; and
    network/connection/swarm_connection.py logs through `logging.debug(…)`, which puts a handler on a bare root logger
    at the first connection."""
    verdict = await stock("background", "import_and_connect")
    assert verdict["root_handlers_after_a_connection"] == ["StreamHandler"]
    assert verdict["modules"] > 500
    assert verdict["seconds"] > 0.05
    assert verdict["megabytes"] > 20


async def test_ours_keeps_the_root_logger() -> None:
    """Trap 16: logging as the daemon sets it up, libp2p loaded as the node loads it; then connections either way and a
    handshake that fails, of which the library says nothing on a stream of its own."""
    verdict = await in_process("ours_processes", "root_logger")
    assert verdict == {"root_handlers_are_ours": True, "libp2p_handlers": 0, "libp2p_joins": True, "lines": []}


async def test_ours_answers_before_libp2p_is_imported() -> None:
    """Trap 16: nothing on the way to a listening API imports the library."""
    verdict = await in_process("ours_processes", "imports")
    assert "fabstird.p2p.node" in verdict["imported"]
    assert verdict["libp2p_modules"] == []
