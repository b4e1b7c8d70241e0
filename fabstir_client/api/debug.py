"""Vocabulary of looking inside a running daemon: its tasks, its log's levels, and a dump of all that helps."""

from __future__ import annotations

from typing import Annotated

from fabstir_client.api.types import Params, Record, words

SetLevel = Annotated[str, words("debug", "info", "warning", "error")]
AskedLevel = Annotated[str, words("debug", "info", "warning", "error", "inherit")]


class TaskRecord(Record, frozen=True):
    """One task of the event loop."""

    name: str  # of its function
    depth: int  # in the tree: how many tasks it lies below
    stack: list[str]  # where it waits, outermost call first: file:line function


class TaskTree(Record, frozen=True):
    """The tasks, each followed by those that it owns."""

    count: int  # tasks that there are
    tasks: list[TaskRecord]  # the first 5,000


class Dump(Record, frozen=True):
    """A zip file with what helps to find out what is wrong. It has no key and no token in it, but it names peers and
    their addresses."""

    name: str  # for the file: it names the node and the instant
    size: int  # bytes
    files: list[str]  # that are in it
    content: bytes  # the zip


class LogLevelParams(Params, frozen=True):
    logger: str | None = None  # one logger and those below it, such as p2p, api.http or libp2p; all of them if left out
    level: AskedLevel | None = None  # "inherit" with a logger only; left as it is if left out


class LogLevels(Record, frozen=True):
    level: SetLevel  # of all loggers that have none of their own
    loggers: dict[str, SetLevel]  # those that have, and it
    known: list[str]  # loggers that can be given one
