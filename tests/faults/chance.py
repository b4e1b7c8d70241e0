"""Chance that can be repeated: the seed of a run is printed, and `FABSTIR_SEED` sets it."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import hypothesis
import trio
from hypothesis import HealthCheck, Phase, given
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
SEED = int(os.environ.get("FABSTIR_SEED") or random.SystemRandom().randrange(2**32))


def seed() -> int:
    """The seed of this run; pytest shows what is printed here where the test fails."""
    print(f"FABSTIR_SEED={SEED} repeats this run's chances")
    return SEED


async def each(
    strategy: SearchStrategy[T], check: Callable[[T], Awaitable[object]], *, examples: int, known: Sequence[T] = ()
) -> None:
    """`check` with what is `known` to have failed once, and with as many examples of `strategy`, or `FABSTIR_FUZZ`
    times as many. Hypothesis drives from a thread, `check` runs here."""
    number, times = seed(), int(os.environ.get("FABSTIR_FUZZ") or 1)

    def drive() -> None:
        @hypothesis.seed(number)
        @hypothesis.settings(
            max_examples=examples * times,
            deadline=None,
            database=None,
            phases=[
                Phase.explicit,
                Phase.generate,
            ],  # an example may take seconds to fail; shrinking one would take minutes
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def one(example: T) -> None:
            trio.from_thread.run(check, example)

        for example in known:
            one = hypothesis.example(example)(one)
        one()

    await trio.to_thread.run_sync(drive)
