"""Vocabulary for inspecting a running daemon: its tasks, its log levels, and a dump for diagnosis."""

from __future__ import annotations

from typing import Annotated

from fabstir_client.api.types import Params, Record, words

SetLevel = Annotated[str, words("debug", "info", "warning", "error")]
AskedLevel = Annotated[str, words("debug", "info", "warning", "error", "inherit")]


class TaskRecord(Record, frozen=True):
    """One task of the event loop."""

    name: str  # the name of its function
    depth: int  # its depth in the tree; 0 for the root
    stack: list[str]  # where it waits, outermost call first: file:line function


class TaskTree(Record, frozen=True):
    """All tasks, each followed by its children."""

    count: int  # number of tasks
    tasks: list[TaskRecord]  # the first 5,000


class Dump(Record, frozen=True):
    """A zip file for diagnosing faults. It contains no keys and no tokens, but it shows peers and their addresses."""

    name: str  # a file name that shows the node and the time
    size: int  # bytes
    files: list[str]  # names of the files in it
    content: bytes  # the zip file


class LogLevelParams(Params, frozen=True):
    logger: str | None = None  # one logger and those below it, such as p2p, api.http or libp2p; all if left out
    level: AskedLevel | None = None  # "inherit" only with `logger`; unchanged if left out


class LogLevels(Record, frozen=True):
    level: SetLevel  # of all loggers without their own
    loggers: dict[str, SetLevel]  # loggers with their own level
    known: list[str]  # loggers whose level can be set
