"""Waiting for a thing, with a bound: what tests do in place of sleeping."""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def until(condition: Callable[[], T], *, within: float = 10, every: float = 0.01) -> T:
    """The first true value of `condition`; an AssertionError that shows the last one after `within` seconds."""
    deadline = trio.current_time() + within
    while not (value := condition()):
        if trio.current_time() > deadline:
            raise AssertionError(f"{getattr(condition, '__qualname__', condition)} is still {value!r} after {within} s")
        await trio.sleep(every)
    return value
