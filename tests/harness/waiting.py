"""Waiting for a thing, with a bound: what tests do in place of sleeping. The bounds are for a machine that is busy with
other things; who asserts how soon something comes says so itself."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def until(condition: Callable[[], T], *, within: float = 60, every: float = 0.01) -> T:
    """The first true value of `condition`; an AssertionError that shows the last one after `within` seconds."""
    deadline = trio.current_time() + within
    while not (value := condition()):
        if trio.current_time() > deadline:
            raise AssertionError(f"{getattr(condition, '__qualname__', condition)} is still {value!r} after {within} s")
        await trio.sleep(every)
    return value


async def asked_until(
    ask: Callable[[], Awaitable[T]], condition: Callable[[T], object], *, within: float = 60, every: float = 0.05
) -> T:
    """The first answer of ``ask`` for which `condition` holds; what is asked may be in another process."""
    answer: T | None = None
    with trio.move_on_after(within):
        while True:
            answer = await ask()
            if condition(answer):
                return answer
            await trio.sleep(every)
    raise AssertionError(f"after {within} s the answer is still {answer!r}")


def wait_until(condition: Callable[[], T], within: float = 60, *, every: float = 0.01) -> T:
    """As `until`, for a thread of no event loop: it blocks."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still {value!r} after {within} s"
        time.sleep(every)
    return value
