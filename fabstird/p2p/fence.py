"""The wall between the daemon and what strangers and callers send.

Every task that handles a peer's or a caller's bytes runs in the `Fence`. An error that leaves such a task ends only
that stream, dial, connection or round of a loop. It is counted by kind, and logged once a minute with its traceback.
Expected errors (a peer that leaves, falls silent or sends garbage) are handled where they occur: whatever gets here is
a defect.

The daemon's own loops, such as the plan of whom to dial and the states of the node, are not fenced. A defect there ends
the process with an error, and systemd starts another: without them a daemon would look alive and do nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

import trio

from fabstird.log.logger import Throttled, get_logger

log = get_logger("p2p.fence")

Kind = Literal[
    "autonat",
    "book",
    "bridge",
    "caller",
    "connection",
    "dht",
    "dial",
    "identify",
    "keepalive",
    "mdns",
    "network",
    "portmap",
    "relay",
    "stream",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Task = Callable[..., Awaitable[object]]
PAUSE = 5.0  # seconds until a failed loop is started again


class Fence:
    """One fence for the whole daemon. ``caught`` counts what it has stopped, by kind."""

    def __init__(self) -> None:
        self.caught: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._tellers: dict[Kind, Throttled] = {kind: Throttled(log) for kind in KINDS}

    # Ways to run a task inside. `run` and its like are the outermost call of the task, where a test of the task tree
    # finds them.

    def spawn(self, nursery: trio.Nursery, kind: Kind, task: Task, *args: Any) -> None:
        """Run one task, such as a stream's or a connection's."""
        nursery.start_soon(self.run, kind, task, *args, name=task)

    def keep(self, nursery: trio.Nursery, kind: Kind, loop: Task, *args: Any) -> None:
        """Run a loop as long as its nursery: it is started again `PAUSE` after it has failed."""
        nursery.start_soon(self._again, kind, loop, *args, name=loop)

    async def start(self, nursery: trio.Nursery, kind: Kind, task: Task, *args: Any) -> Any:
        """As ``nursery.start``: until the task has started, its errors are the caller's."""
        return await nursery.start(self._until_started, kind, task, *args, name=task)

    async def run(self, kind: Kind, task: Task, *args: Any) -> None:
        """As `spawn`, for a task that somebody else starts."""
        with self.around(kind):
            await task(*args)

    async def _again(self, kind: Kind, loop: Task, *args: Any) -> None:
        while True:
            with self.around(kind):
                await loop(*args)
                return
            await trio.sleep(PAUSE)

    async def _until_started(self, kind: Kind, task: Task, *args: Any, task_status: trio.TaskStatus[Any]) -> None:
        status = _Status(task_status)
        try:
            await task(*args, task_status=status)
        except BaseException:
            if not status.begun:
                raise
            with self.around(kind):
                raise

    # ----------------------------------------------------------------------------------------------------------------

    def around(self, kind: Kind, *, but: type[Exception] | tuple[type[Exception], ...] = ()) -> _Around:
        """Fence a part of a task. ``but`` are errors that the task expects and handles outside."""
        return _Around(self, kind, but)

    def note(self, kind: Kind, error: BaseException, **about: object) -> None:
        """Count and log a defect that was caught elsewhere; ``about`` says whom it concerns."""
        self.caught[kind] += 1
        self._tellers[kind].error("a fence has caught an error", kind=kind, **about, exc_info=error)


class _Around:
    """A context that lets no error out. If a task is cancelled at the moment in which something in it fails, the error
    stays here and the cancellation goes on."""

    __slots__ = ("_but", "_fence", "_kind")

    def __init__(self, fence: Fence, kind: Kind, but: type[Exception] | tuple[type[Exception], ...]) -> None:
        self._fence = fence
        self._kind = kind
        self._but = but

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None or isinstance(error, self._but):
            return False
        if isinstance(error, Exception):
            self._fence.note(self._kind, error)
            return True
        if not isinstance(error, BaseExceptionGroup):
            return False
        errors, rest = error.split(Exception)
        if errors is not None:
            self._fence.note(self._kind, errors)
        if rest is not None:
            raise rest from None
        return True


class _Status:
    """A task's status, and whether the task has started."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.begun = False

    def started(self, value: object = None) -> None:
        self.begun = True
        self._status.started(value)
