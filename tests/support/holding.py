"""What a daemon's process holds, before and after: tasks, descriptors, threads, memory."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass, field

import trio

from tests.harness import TASK_TREE, Daemon, until

APART = 0.5  # seconds


@dataclass(frozen=True)
class Held:
    """Tasks by name, told by the daemon itself on SIGUSR1; descriptors by kind; the number of threads."""

    tasks: Counter[str]
    descriptors: Counter[str]
    threads: int = field(compare=False)  # trio lets idle ones go after a while

    def beyond(self, other: Held) -> str:
        """What is held here and not there."""
        return (
            f"tasks {dict(self.tasks - other.tasks)}, descriptors {dict(self.descriptors - other.descriptors)}, "
            f"threads {self.threads - other.threads}"
        )


async def held(daemon: Daemon) -> Held:
    def trees() -> list[list[str]]:
        return [entry["tree"] for entry in daemon.said if entry["event"] == TASK_TREE]

    before, pid = len(trees()), daemon.process.pid
    daemon.process.send_signal(signal.SIGUSR1)
    tree = (await until(lambda: trees()[before:]))[0]
    return Held(
        tasks=Counter(line.strip().partition(" at ")[0] for line in tree),
        descriptors=_descriptors(pid),
        threads=len(os.listdir(f"/proc/{pid}/task")),
    )


async def settled(daemon: Daemon) -> Held:
    """What is held when two looks agree that lie `APART`: a push of identify waits almost as long."""
    previous = await held(daemon)
    for _ in range(50):
        await trio.sleep(APART)
        now = await held(daemon)
        if now == previous:
            return now
        previous = now
    raise AssertionError(f"the daemon does not come to rest: {previous}")


async def released(daemon: Daemon, before: Held, *, within: float = 60) -> None:
    """Returns once no more is held than before; an AssertionError that names the rest after `within` seconds. Less is
    fine: a task that was about to end may have been among what was held."""
    deadline = trio.current_time() + within
    while (now := await held(daemon)).tasks - before.tasks or now.descriptors - before.descriptors:
        assert trio.current_time() < deadline, f"new: {now.beyond(before)}; missing: {before.beyond(now)}"


def resident(daemon: Daemon) -> int:
    """Bytes of memory."""
    with open(f"/proc/{daemon.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(daemon: Daemon) -> int:
    """How many descriptors."""
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def _descriptors(pid: int) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds[os.readlink(f"/proc/{pid}/fd/{descriptor}").partition(":")[0]] += 1
        except FileNotFoundError:
            pass  # closed since
    return kinds
