"""Peers that dial one address, one after the other, and go once both sides have identified: a process of its own, since
its CPU is not what is measured. Each is a host of ours with an identity of its own.

`python -m bench.quic_dialer ADDRESS WIDTH`, with /p2p in the address: reads numbers, a line each; opens so many
connections, `WIDTH` at a time, and says how many there were.
"""

from __future__ import annotations

import os
import sys

import trio

from fabstird.p2p.host.host import Host, HostObserver, HostSettings, Limits, Link, PeerInfo

TIMEOUT = 60.0  # seconds for one connection
LIMITS = Limits(max=64, max_per_ip=64, handshake_timeout=TIMEOUT)


class _Watch(HostObserver):
    """Tells when a link was identified."""

    def __init__(self) -> None:
        self.told = trio.Event()

    def connected(self, link: Link) -> None:
        pass

    def disconnected(self, link: Link) -> None:
        pass

    def identified(self, link: Link, info: PeerInfo) -> None:
        self.told.set()


async def _dial(address: str, count: int) -> int:
    """So many, one after the other."""
    done = 0
    for _ in range(count):
        watch = _Watch()
        settings = HostSettings(seed=os.urandom(32), agent="bench/1", limits=LIMITS, listen=())
        async with Host.open(settings, watch) as host:
            with trio.move_on_after(TIMEOUT):
                link = await host.dial(address, timeout=TIMEOUT)
                await watch.told.wait()
                await host.ping(link.peer_id)  # by then it has identified us, too
                await host.close_peer(link.peer_id)
                done += 1
    return done


async def main() -> None:
    address, width = sys.argv[1], int(sys.argv[2])
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        done: list[int] = []

        async def some(count: int, done: list[int] = done) -> None:
            done.append(await _dial(address, count))

        async with trio.open_nursery() as nursery:
            wanted = int(line)
            for at in range(width):
                nursery.start_soon(some, wanted // width + (at < wanted % width))
        print(sum(done), flush=True)


if __name__ == "__main__":
    trio.run(main)
