"""Connections stay in use. Other implementations close one on which no stream has been opened for a while: the Fabstir
node after 120 s, whatever yamux says in between, for its pings are no streams. So an idle peer is asked now and then
who it is, which every libp2p node answers; and what is known of it stays true.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstird.p2p.host import Host

RECONSIDER = 30.0  # seconds between two looks at a setting that is 0


async def keep_in_use(host: Host, interval: Callable[[], float]) -> None:
    """Goes round all links in ``interval`` (seconds, read again each time; 0: not at all), until cancelled. None is
    left alone for more than twice as long, and they are never asked all at once."""
    async with trio.open_nursery() as nursery:
        while True:
            pause, links = interval(), host.links()
            if not pause or not links:
                await trio.sleep(pause or RECONSIDER)
                continue
            for link in links:
                await trio.sleep(pause / len(links))
                if not link.is_closed and not link.streams:
                    nursery.start_soon(host.identify_again, link)
