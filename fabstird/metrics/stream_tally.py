"""Totals of users' streams by protocol. Only protocols that were handled here get a label of their own, since peers and
callers can make up any number of names."""

from __future__ import annotations

from collections import Counter

OTHER = "other"
MAX_LABELS = 64


class StreamTally:
    """Totals of streams that have ended. ``ended`` counts them by protocol, direction and outcome; ``moved`` counts
    bytes by protocol and direction, ``in`` or ``out``."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.moved: Counter[tuple[str, str]] = Counter()
        self._labels: set[str] = set()

    def handled(self, protocol: str) -> None:
        """Give a protocol its own label, unless there are too many."""
        if len(self._labels) < MAX_LABELS:
            self._labels.add(protocol)

    def label(self, protocol: str) -> str:
        return protocol if protocol in self._labels else OTHER

    def note(self, protocol: str, direction: str, outcome: str, bytes_in: int, bytes_out: int) -> None:
        """Count a stream that has ended."""
        label = self.label(protocol)
        self.ended[label, direction, outcome] += 1
        self.moved[label, "in"] += bytes_in
        self.moved[label, "out"] += bytes_out
