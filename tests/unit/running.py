"""Coroutines that wait for nothing, run to their end without an event loop: what Hypothesis draws examples for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """What the coroutine returns; it must not wait."""
    coroutine = function(*arguments)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("it waits")
