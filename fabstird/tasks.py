"""The task tree, which shows what every task waits for, for SIGUSR1 and ``debug.tasks``; and the threads' stacks, for
when the event loop is stuck."""

from __future__ import annotations

import inspect
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import trio

MOST = 5000  # tasks shown
DEEPEST = 64  # calls shown of one stack


@dataclass(frozen=True, slots=True)
class Seen:
    """One task: its depth in the tree, and its calls, outermost first, as (frame, line)."""

    task: trio.lowlevel.Task
    depth: int

    @property
    def name(self) -> str:
        return self.task.name

    def frames(self) -> list[tuple[FrameType, int]]:
        return _running(self.task) if self.task is trio.lowlevel.current_task() else list(self.task.iter_await_frames())

    def stack(self) -> list[str]:
        """``file:line function`` for each call."""
        return [f"{_place(frame, line)} {frame.f_code.co_qualname}" for frame, line in self.frames()[:DEEPEST]]


def walk() -> Iterator[Seen]:
    """Every task, each followed by its children. Call it in the event loop."""
    root = trio.lowlevel.current_root_task()
    pending = [Seen(root, 0)] if root is not None else []
    while pending:  # not recursive: peers decide how many streams a connection has, and users how deep the tree is
        seen = pending.pop()
        yield seen
        children = [child for nursery in seen.task.child_nurseries for child in nursery.child_tasks]
        children.sort(key=lambda child: child.name, reverse=True)
        pending += [Seen(child, seen.depth + 1) for child in children]


def tree() -> list[str]:
    """One line for each task, indented, with the innermost line of our own code in its stack."""
    lines = []
    for number, seen in enumerate(walk()):
        if number == MOST:
            lines.append("… and more")
            break
        lines.append(f"{'  ' * seen.depth}{seen.name}{_where(seen)}")
    return lines


def threads() -> dict[str, list[str]]:
    """The stack of every thread, innermost call last. It needs neither the event loop nor a lock."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [line.strip() for line in traceback.format_stack(frame)]
        for ident, frame in sys._current_frames().items()
    }


def _running(task: trio.lowlevel.Task) -> list[tuple[FrameType, int]]:
    """The calls of the running task, which waits for nothing, without those in this module."""
    first, frame = getattr(task.coro, "cr_frame", None), inspect.currentframe()
    found: list[tuple[FrameType, int]] = []
    while frame is not None:
        if found or frame.f_code.co_filename != __file__:
            found.append((frame, frame.f_lineno))
        frame = None if frame is first else frame.f_back
    return found[::-1]


def _where(seen: Seen) -> str:
    frames = seen.frames()
    if not frames:
        return ""
    own = [(one, number) for one, number in frames if "/trio/" not in one.f_code.co_filename]
    frame, line = own[-1] if own else frames[-1]
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    return f" at {_place(frame, line)} {text}"


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename.rpartition('/site-packages/')[2]}:{line}"
