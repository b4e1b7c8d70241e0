"""The task tree as text: what every task of the process is waiting for, for SIGUSR1."""

from __future__ import annotations

import linecache
from collections.abc import Iterator

import trio


def tree() -> list[str]:
    """One line a task and nursery, indented; each task with the innermost lines of its stack."""
    root = trio.lowlevel.current_root_task()
    return list(_lines(root, 0)) if root is not None else []


def _lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}{task.name}{_where(task)}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines(child, depth + 1)


def _where(task: trio.lowlevel.Task) -> str:
    frames = list(task.iter_await_frames())
    if not frames:
        return ""
    frame, line = frames[-1]
    own = [(one, number) for one, number in frames if "/trio/" not in one.f_code.co_filename]
    frame, line = own[-1] if own else (frame, line)
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    return f" at {frame.f_code.co_filename.rpartition('/site-packages/')[2]}:{line} {text}"
