"""Whether other tasks have their turns while a peer's bytes are taken apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def read_beside_others(read: Callable[[], Awaitable[bytes]], size: int) -> tuple[bytes, int]:
    """``size`` bytes or more of what ``read`` gives, and how many turns another task had meanwhile."""
    came, turns = b"", 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            while len(came) < size:
                came += await read()
            nursery.cancel_scope.cancel()
    return came, turns
