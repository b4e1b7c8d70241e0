"""The position of an event reader, and how it continues after its connection broke; without I/O.

The position moves as items are taken, not as they arrive. Items that arrived on a broken connection and were not taken
are requested again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fabstir_client._core import calls
from fabstir_client._core.protocol import Call, Heartbeat, Notification
from fabstir_client.api.types import Event, Lagged, Status, SubscribeResult

SILENCE = 45.0  # seconds of silence, three heartbeats, after which a connection counts as dead
FIRST_DELAY = 0.05  # seconds before the first attempt to reconnect; doubles
LAST_DELAY = 2.0


class Cursor:
    """Filter and position of one stream of events.

    ``snapshot`` is the result of the newest subscription: status and peers at entry ``snapshot.head``.
    """

    def __init__(self, kinds: Sequence[str] | None, after: int | None, epoch: str | None) -> None:
        self.kinds = None if kinds is None else list(kinds)
        self.after = after
        self.epoch = epoch
        self.snapshot: SubscribeResult | None = None
        self._delay = FIRST_DELAY
        self._gap: Lagged | None = None

    def probe(self) -> Call[Status] | None:
        """A call to make before `subscribe`, to check whether the daemon is still in the same run; None if that does
        not matter."""
        return None if self.epoch is None else calls.status()

    def subscribe(self, probed: Status | None) -> Call[SubscribeResult]:
        """The call that continues from here.

        In another run of the daemon the stream continues with its very first entry, so nothing that happened since its
        start is lost; only the end of the old run may be.
        """
        if probed is not None and probed.epoch != self.epoch:
            self.epoch, self.after = probed.epoch, 0
            self._gap = Lagged(missed=None, resume=1)
        return calls.subscribe(self.kinds, self.after, self.epoch)

    def subscribed(self, result: SubscribeResult) -> list[Notification]:
        """The subscription is accepted; returns what its reader must get first."""
        self.snapshot = result
        self.epoch = result.epoch
        if self.after is None:
            self.after = result.head
        self._delay = FIRST_DELAY
        gap, self._gap = self._gap, None
        return [] if gap is None else [gap]

    def take(self, item: Notification) -> Event | Lagged | None:
        """``item`` for the reader, with the position moved past it; None if it is not an entry."""
        if isinstance(item, Heartbeat):
            # Entries that the filter left out are behind us too, and must not count as missed later
            self.after = max(self.after or 0, item.head)
            return None
        if isinstance(item, Lagged):
            self.after = max(0, item.resume - 1)
            return item
        if isinstance(item, Event):
            self.epoch, self.after = item.epoch, item.seq
            return item
        return None

    def delay(self) -> float:
        """Seconds to wait before the next attempt to connect."""
        delay, self._delay = self._delay, min(self._delay * 2, LAST_DELAY)
        return delay
