"""What happened to each peer, in order: the material of ``peer.explain``.

Kept in memory, bounded in peers and in entries of each; the peer that was heard of longest ago goes first. A key is a
peer id, or an address that names no peer.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from fabstir_client.types import TimelineEntry

MAX_KEYS = 1000
MAX_ENTRIES = 64


class History:
    """``clock`` gives seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, deque[TimelineEntry]] = OrderedDict()

    def note(self, key: str, what: str, *, address: str | None = None, detail: str | None = None) -> None:
        """``what`` is one word for the kind (``dial_failed``, ``disconnected`` …), ``detail`` words for people."""
        entries = self._entries.get(key)
        if entries is None:
            entries = self._entries[key] = deque(maxlen=MAX_ENTRIES)
            if len(self._entries) > MAX_KEYS:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        entries.append(TimelineEntry(time=int(self._clock() * 1000), what=what, address=address, detail=detail))

    def of(self, key: str) -> list[TimelineEntry]:
        """Oldest first; nothing for a stranger."""
        return list(self._entries.get(key, ()))

    def last(self, key: str, *what: str) -> TimelineEntry | None:
        """The newest entry of one of these kinds."""
        return next((entry for entry in reversed(self._entries.get(key, ())) if entry.what in what), None)

    def __len__(self) -> int:
        return len(self._entries)
