"""What a process holds: tasks, sockets. Compared before and after, they tell leaks."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import trio
import trio.testing


@dataclass(frozen=True)
class Held:
    """The tasks of a trio run by name, system tasks included, and the open sockets of the process."""

    tasks: Counter[str]
    sockets: int


async def held() -> Held:
    """What is held once every task waits for something."""
    await trio.testing.wait_all_tasks_blocked()
    return Held(Counter(task_names()), sockets())


async def released(before: Held, *, within: float = 60) -> None:
    """Returns when no more is held than before; an AssertionError that names the rest after `within` seconds. Less is
    fine: what an earlier test has left is collected when it pleases the collector."""
    deadline = trio.current_time() + within
    while (now := await held()).tasks - before.tasks or now.sockets > before.sockets:
        if trio.current_time() > deadline:
            more, fewer = now.tasks - before.tasks, before.tasks - now.tasks
            raise AssertionError(
                f"sockets {before.sockets} -> {now.sockets}; new tasks {dict(more)}, missing tasks {dict(fewer)}"
            )
        await trio.sleep(0.01)


def tasks() -> int:
    """The number of tasks of this trio run, system tasks included."""
    return trio.lowlevel.current_statistics().tasks_living


def task_names() -> list[str]:
    """The qualified names of all tasks of this trio run."""

    def below(task: trio.lowlevel.Task) -> Iterator[str]:
        yield task.name
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return list(below(root))


def sockets() -> int:
    """The number of open sockets of this process (Linux)."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found
