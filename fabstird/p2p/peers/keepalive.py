"""Keeps idle connections open. Other implementations close a connection on which no stream was opened for a while, the
Fabstir node after 120 s, and yamux pings are not streams. So idle peers are asked now and then who they are (identify),
which every libp2p node answers; this also keeps what is known about them current."""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstird.p2p.host.host import Host

RECONSIDER = 30.0  # seconds between two checks of a setting that is 0


async def keep_in_use(host: Host, interval: Callable[[], float]) -> None:
    """Ask the peers of all links in turn, once per ``interval`` (seconds, read again each time; 0 for never), until
    cancelled. No link is left alone for more than twice as long, and they are never asked all at once."""
    async with trio.open_nursery() as nursery:
        while True:
            pause, links = interval(), host.links()
            if not pause or not links:
                await trio.sleep(pause or RECONSIDER)
                continue
            for link in links:
                await trio.sleep(pause / len(links))
                if not link.is_closed and not link.streams:
                    host.fence.spawn(nursery, "keepalive", host.identify_again, link)
