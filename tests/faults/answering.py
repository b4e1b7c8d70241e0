"""Whether a daemon goes on answering while something is done to it, on a machine that may be busy with other things.

How long an answer takes by the clock says little there. So what counts is how long the daemon's own threads ran between
a question and its answer: a loop that is held by a stranger's bytes burns that time itself. By the clock there is one
more, generous bound, for a loop that waits for something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.harness import Daemon

RATE = 20  # status calls a second
BUSY = 0.5  # seconds that the daemon may run between a call and its answer
PATIENCE = 20.0  # seconds by the clock


@dataclass
class Answers:
    """How long the daemon ran for each answer, in seconds, and how long that took by the clock."""

    ran: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


def cpu(daemon: Daemon) -> float:
    """Seconds that the event loop's thread has run."""
    pid = daemon.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


@asynccontextmanager
async def answering(daemon: Daemon, *, busy: float = BUSY) -> AsyncIterator[Answers]:
    """While the body runs, `RATE` status calls a second are all answered in time. The first that is not fails the test
    at once."""
    answers = Answers()

    async def ask() -> None:
        asked, ran = trio.current_time(), cpu(daemon)
        await daemon.call("status")
        answers.ran.append(cpu(daemon) - ran)
        answers.took.append(trio.current_time() - asked)
        assert answers.ran[-1] < busy, f"the daemon ran {answers.ran[-1]:.2f} s before it answered"
        assert answers.took[-1] < PATIENCE, f"an answer took {answers.took[-1]:.2f} s"

    async def keep_asking(nursery: trio.Nursery) -> None:
        due = trio.current_time()
        while True:
            if len(nursery.child_tasks) < RATE:
                nursery.start_soon(ask)
            due += 1 / RATE
            await trio.sleep_until(due)

    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_asking, nursery)
        try:
            yield answers
            await ask()  # and it does when all is over
        except BaseException as error:  # noqa: BLE001 - raised again below, outside the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    print(
        f"{len(answers.ran)} answers; at most {max(answers.ran):.3f} s of work, {max(answers.took):.3f} s by the clock"
    )
