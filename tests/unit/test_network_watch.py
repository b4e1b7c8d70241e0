"""A change of interfaces or routes is noticed once, and what is read of the kernel's tables is right here."""

import trio
import trio.testing

from fabstird.p2p.peers.network_watch import LOOK, network, watch


async def test_each_change_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    seen = frozenset({"192.0.2.1"})
    told = 0

    def changed() -> None:
        nonlocal told
        told += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, changed, lambda: seen)
        await trio.sleep(3 * LOOK)
        assert told == 0
        seen = frozenset({"192.0.2.1", "default route by eth0"})
        await trio.sleep(3 * LOOK)
        assert told == 1
        seen = frozenset()
        await trio.sleep(3 * LOOK)
        assert told == 2
        nursery.cancel_scope.cancel()


def test_this_machine_is_looked_at_without_its_loopback() -> None:
    assert not {one for one in network() if one.startswith("127.") or one == "::1" or one.endswith(" lo")}
