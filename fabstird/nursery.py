"""Errors that leave a nursery. trio wraps the error of a child in an `ExceptionGroup`, even if it is the only one, so
``except LimitExceeded`` would not match it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from fabstir_client.api.errors import FabstirError


@asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """A nursery for the parts of one call. A `FabstirError` of a part leaves it unwrapped."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except ExceptionGroup as group:
        error = unwrapped(group)
        if error is group:
            raise
        raise error from None


def unwrapped(error: Exception) -> Exception:
    """The first `FabstirError` of a group that holds nothing else; any other error unchanged."""
    found = list(leaves(error))
    return found[0] if all(isinstance(one, FabstirError) for one in found) else error


def leaves(error: Exception) -> Iterator[Exception]:
    """The errors in a group, nested groups included; any other error is its own only leaf."""
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error
