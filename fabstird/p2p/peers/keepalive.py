"""Keeps idle connections open. Other implementations close a connection on which no stream was opened for a while, the
Fabstir node after 120 s, and yamux pings are not streams. So idle peers are asked now and then who they are (identify),
which every libp2p node answers; this also keeps what is known about them current."""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstird.p2p.host.host import Host, Link

RECONSIDER = 30.0  # seconds between two checks of a setting that is 0, and at most between two looks at all links
LOOKS = 16  # looks at all links in an interval
EARLIEST, LATEST = 0.7, 0.92  # when a link's turn comes, as a share of the interval; `LOOKS` leaves it late by a little
TICK = 0.1  # seconds between two turns of those whose turn comes, if there are many


async def keep_in_use(host: Host, interval: Callable[[], float]) -> None:
    """Ask the peer of each link on which no stream was used for a while, until cancelled. None is left alone for longer
    than ``interval`` (seconds, read again each time; 0 for never). Links that have come together are asked at different
    times."""
    async with trio.open_nursery() as nursery:
        while True:
            pause = interval()
            if not pause:
                await trio.sleep(RECONSIDER)
                continue
            now = trio.current_time()
            look = min(pause / LOOKS, RECONSIDER)
            due = [link for link in host.links() if not link.streams and _turn(link, pause) <= now + look]
            asked, until = 0, now + look
            while asked < len(due):
                await trio.sleep_until(min(until, trio.current_time() + max(TICK, look / len(due))))
                share = 1.0 - max(0.0, until - trio.current_time()) / look
                wanted = max(asked + 1, round(share * len(due)))
                for link in due[asked:wanted]:
                    if not link.is_closed and not link.streams:
                        link.used = trio.current_time()
                        host.fence.spawn(nursery, "keepalive", host.identify_again, link)
                asked = wanted
            await trio.sleep_until(until)


def _turn(link: Link, pause: float) -> float:
    """When a link is to be asked, unless a stream is used on it before."""
    share = hash(link.peer_id) % 1024 / 1024
    return link.used + pause * (EARLIEST + (LATEST - EARLIEST) * share)
