"""Collects what a search finds, and decides when it is enough. No single answer ends a search or fills its result.
Pure.

Nor do liars along the way: only the answers of the known peers closest to the key (``near``) count, and more than half
of them must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

WORDS = 5  # peers near the key that must have named providers before a search ends early
SHARE = 4  # one answer may fill this fraction (1/4) of what is wanted
LEAST = 5  # providers of one answer that are always taken


class FoundProviders:
    """Providers found. A share of each answer is taken as it arrives, the rest only if there is room at the end. Of too
    many, those named by most peers come first."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._share = max(LEAST, -(-wanted // SHARE))
        self._named: Counter[bytes] = Counter()
        self._given: dict[bytes, int] = {}  # by peer: how many of the providers it named were taken
        self._taken: dict[bytes, None] = {}
        self._spare: dict[bytes, None] = {}

    def learn(self, answerer: bytes, providers: Sequence[bytes]) -> list[bytes]:
        """Add an answer; returns the first of its providers that are new."""
        fresh: list[bytes] = []
        for provider in dict.fromkeys(providers):
            self._named[provider] += 1
            if provider in self._taken:
                continue
            if len(fresh) < self._share and len(self._taken) < self.wanted:
                self._taken[provider] = None
                self._spare.pop(provider, None)
                fresh.append(provider)
            else:
                self._spare[provider] = None
        if providers:
            self._given[answerer] = self._given.get(answerer, 0) + len(fresh)
        return fresh

    def enough(self, near: Set[bytes]) -> bool:
        """Whether enough providers were taken from answers of peers near the key: from `WORDS` of them, and from most
        of them."""
        given = [self._given[peer] for peer in near if peer in self._given]
        return sum(given) >= self.wanted and len(given) >= WORDS and 2 * len(given) > len(near)

    def result(self) -> list[bytes]:
        """As many as wanted, in the order in which they were found."""
        every = [*self._taken, *self._spare]
        best = sorted(every, key=lambda one: -self._named[one])[: self.wanted]
        return [one for one in every if one in set(best)]

    def __len__(self) -> int:
        return len(self._taken)


class FoundValues:
    """Values found, and how they are weighed. ``owner`` is the peer that the key names."""

    def __init__(self, owner: bytes | None, quorum: int) -> None:
        self.owner = owner
        self.quorum = quorum
        self.asked = 0
        self.values: dict[bytes, bytes] = {}

    @property
    def of_owner(self) -> bytes | None:
        """The owner's own value."""
        return self.values.get(self.owner) if self.owner is not None else None

    def enough(self, near: Set[bytes]) -> bool:
        """Whether the owner has answered; or as many peers near the key as required, and most of them, agree, and twice
        as many of all peers as give any other value."""
        if self.of_owner is not None:
            return True
        best = self.best
        words = sum(self.values[peer] == best for peer in near if peer in self.values)
        if words < self.quorum or 2 * words <= len(near):
            return False
        first, second, *_ = [count for _, count in Counter(self.values.values()).most_common(2)] + [0]
        return first >= 2 * second

    @property
    def best(self) -> bytes | None:
        """The owner's value, otherwise the one that most peers gave; of equals the first."""
        if self.of_owner is not None:
            return self.of_owner
        return next(iter([value for value, _ in Counter(self.values.values()).most_common(1)]), None)
