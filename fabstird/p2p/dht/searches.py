"""What all DHT searches share: a deadline, and a bound on their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from fabstir_client.api.errors import DeadlineExceeded, LimitExceeded

MAX_SEARCHES = 64  # at a time


class Searches:
    """``default`` (ms) is the deadline of a call that sets none."""

    def __init__(self, default: int) -> None:
        self._default = default
        self._searches = 0

    @contextmanager
    def within(self, timeout: int | None) -> Iterator[trio.CancelScope]:
        """The deadline of a call. Raises `LimitExceeded`."""
        if self._searches >= MAX_SEARCHES:
            raise LimitExceeded(
                f"{MAX_SEARCHES} searches are under way", limit=MAX_SEARCHES, current=self._searches, configKey=None
            )
        self._searches += 1
        try:
            with trio.move_on_after(self.limit(timeout) / 1000) as scope:
                yield scope
        finally:
            self._searches -= 1

    def limit(self, timeout: int | None) -> int:
        # A call without a deadline is cancelled from outside at the default one: the answer must come before that
        return timeout if timeout is not None else max(1, self._default * 19 // 20)

    def late(self, words: str, timeout: int | None) -> DeadlineExceeded:
        limit = self.limit(timeout)
        return DeadlineExceeded(f"{words} within {limit} ms", timeout=limit)
