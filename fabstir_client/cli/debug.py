"""``fabstir dump``, ``fabstir tasks`` and ``fabstir log``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from fabstir_client._core import calls
from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import NOT_DECODED
from fabstir_client._sync.calling import call_once
from fabstir_client.api.debug import Dump, LogLevels, TaskTree
from fabstir_client.api.errors import BadAnswer
from fabstir_client.cli import fitting
from fabstir_client.cli.format import clean, pairs
from fabstir_client.cli.progress import progress

DONE, REFUSED = 0, 1
T = TypeVar("T")


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    if args.command == "dump":
        with progress("packing"):
            dump = call_once(target, calls.dump(), args.deadline)
        return _write(dump, args.file, complain, as_json=args.json)
    if args.command == "tasks":
        return _print(target, "debug.tasks", {}, TaskTree, _tasks, args)
    params = {key: value for key, value in (("logger", args.logger), ("level", args.level)) if value is not None}
    return _print(target, "log.level", params, LogLevels, _loggers if args.loggers else _levels, args)


def _write(dump: Dump, file: str | None, complain: Callable[[str, int], int], *, as_json: bool) -> int:
    if file == "-":
        sys.stdout.buffer.write(dump.content)
        return DONE
    path = os.path.basename(dump.name) if file is None else file
    if file is not None and os.path.isdir(path):
        path = os.path.join(path, os.path.basename(dump.name))
        file = None
    if file is None:
        path = _free(path)  # two dumps may have the same second in their names
    try:
        # Readable for the owner only, because it shows peers and their addresses.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(dump.content)
    except OSError as error:
        return complain(f"{path} cannot be written: {error.strerror}", REFUSED)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode({"file": path, "size": dump.size, "files": dump.files}) + b"\n")
    else:
        print(f"{path}: {dump.size} bytes")
        print("It contains no keys or tokens, but it does show peers and their addresses.")
    return DONE


def _free(path: str) -> str:
    """The path if it does not exist, otherwise the next free one with a number."""
    stem, ending = os.path.splitext(path)
    number = 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}-{number}{ending}"
    return path


def _print(
    target: Target,
    method: str,
    params: dict[str, str],
    kind: type[T],
    show: Callable[[T], str],
    args: argparse.Namespace,
) -> int:
    raw = call_once(target, raw_method(method, params), args.deadline)
    if args.json:
        sys.stdout.buffer.write(bytes(raw) + b"\n")
    else:
        print(show(_typed(method, raw, kind)))
    return DONE


def _typed(method: str, raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except NOT_DECODED as error:
        raise BadAnswer(f"the daemon's answer to {method} does not fit: {error}") from error


def _tasks(tree: TaskTree) -> str:
    lines = []
    for task in tree.tasks:
        own = [call for call in task.stack if "/trio/" not in f"/{call}"]
        where = (own or task.stack)[-1:]
        lines.append(task_line("  " * task.depth + clean(task.name), "".join(clean(_short(call)) for call in where)))
    if len(tree.tasks) < tree.count:
        lines.append(f"and {tree.count - len(tree.tasks)} more")
    return "\n".join(lines)


def task_line(name: str, where: str) -> str:
    """Both in one line if they fit; otherwise without the function's name, if it repeats the task's; otherwise in two
    lines."""
    room = (fitting.columns() or 0) - len(name) - 2
    if fitting.columns() is None or len(where) <= room:
        return f"{name}  {where}".rstrip()
    place, _, function = where.rpartition(" ")
    if place and name.endswith(function) and len(place) <= room:
        return f"{name}  {place}"
    indent = " " * (len(name) - len(name.lstrip()) + 4)
    return f"{fitting.cut(name, len(name) + room + 2)}\n{indent}{where}"


def _short(call: str) -> str:
    """A call such as ``…/fabstird/canary.py:45 Canary.run``, without the path before the package."""
    for package in ("/fabstird/", "/fabstir_client/"):
        before, found, rest = call.rpartition(package)
        if found and before:
            return package[1:] + rest
    return call


def _loggers(levels: LogLevels) -> str:
    return "\n".join(clean(name) for name in levels.known)


def _levels(levels: LogLevels) -> str:
    known = fitting.broken(" ".join(map(clean, levels.known)), len("loggers") + 2)
    return pairs([("level", levels.level), *levels.loggers.items(), ("loggers", known)])
