"""The timeline of each peer: the material for ``peer.explain``.

It is kept in memory, bounded in peers and in entries of each; the peer heard from longest ago is dropped first. A key
is a peer id, or an address that names no peer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from fabstir_client.api.types import TimelineEntry

MAX_KEYS = 1000
MAX_ENTRIES = 64


class History:
    """The timelines. ``clock`` returns seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, list[TimelineEntry]] = OrderedDict()

    def note(self, key: str, what: str, *, address: str | None = None, detail: str | None = None) -> None:
        """Add an entry. ``what`` is its kind (``dial_failed``, ``disconnected`` …), ``detail`` text for people."""
        entries = self._entries.get(key)
        if entries is None:
            entries = self._entries[key] = []  # not a deque, which takes 760 bytes for two entries
            if len(self._entries) > MAX_KEYS:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        if len(entries) == MAX_ENTRIES:
            del entries[0]
        entries.append(TimelineEntry(time=int(self._clock() * 1000), what=what, address=address, detail=detail))

    def of(self, key: str) -> list[TimelineEntry]:
        """The entries of a key, oldest first; empty for an unknown one."""
        return list(self._entries.get(key, ()))

    def last(self, key: str, *what: str) -> TimelineEntry | None:
        """The newest entry of one of these kinds."""
        return next((entry for entry in reversed(self._entries.get(key, ())) if entry.what in what), None)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"timelines": (len(self._entries), MAX_KEYS)}
