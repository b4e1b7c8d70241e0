"""What every task is doing, the one that asks too."""

from __future__ import annotations

import trio

from fabstird import tasks


async def test_the_task_that_asks_has_its_calls_too() -> None:
    def asked() -> tasks.Seen:
        [seen] = [one for one in tasks.walk() if one.task is trio.lowlevel.current_task()]
        stacks.append(seen.stack())
        return seen

    async def ask() -> None:
        async with trio.open_nursery():
            asked()

    stacks: list[list[str]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
    names = [line.rpartition(".")[2] for line in stacks[0]]
    assert names == ["ask", "asked"]
