"""Text lines of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio


async def lines(stream: trio.abc.ReceiveStream, *, whole: bool = False) -> AsyncIterator[str]:
    """With ``whole``, not one that is not ended: whoever was killed may have been in the middle of it."""
    rest = b""
    async for data in stream:
        *ended, rest = (rest + data).split(b"\n")
        for line in ended:
            yield line.decode(errors="replace")
    if rest and not whole:
        yield rest.decode(errors="replace")
