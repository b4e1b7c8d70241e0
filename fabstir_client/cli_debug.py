"""``fabstir dump``, ``fabstir tasks`` and ``fabstir log``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from fabstir_client import calls
from fabstir_client.calls import raw_method
from fabstir_client.cli_progress import progress
from fabstir_client.cli_tables import clean, pairs
from fabstir_client.discovery import Target
from fabstir_client.sync_link import call_once
from fabstir_client.types_debug import Dump, LogLevels, TaskTree

DONE, REFUSED = 0, 1
T = TypeVar("T")


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    if args.command == "dump":
        with progress("packing"):
            dump = call_once(target, calls.dump())
        return _write(dump, args.file, complain, as_json=args.json)
    if args.command == "tasks":
        return _print(target, "debug.tasks", {}, TaskTree, _tasks, as_json=args.json)
    params = {key: value for key, value in (("logger", args.logger), ("level", args.level)) if value is not None}
    return _print(target, "log.level", params, LogLevels, _levels, as_json=args.json)


def _write(dump: Dump, file: str | None, complain: Callable[[str, int], int], *, as_json: bool) -> int:
    if file == "-":
        sys.stdout.buffer.write(dump.content)
        return DONE
    path = os.path.basename(dump.name) if file is None else file
    if os.path.isdir(path):
        path = os.path.join(path, os.path.basename(dump.name))
    try:
        # For its owner alone: it names peers and their addresses
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(dump.content)
    except OSError as error:
        return complain(f"{path} cannot be written: {error.strerror}", REFUSED)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode({"file": path, "size": dump.size, "files": dump.files}) + b"\n")
    else:
        print(f"{path}: {dump.size} bytes. No key and no token is in it, but peers and addresses are")
    return DONE


def _print(
    target: Target, method: str, params: dict[str, str], kind: type[T], show: Callable[[T], str], *, as_json: bool
) -> int:
    raw = call_once(target, raw_method(method, params))
    if as_json:
        sys.stdout.buffer.write(bytes(raw) + b"\n")
    else:
        print(show(msgspec.json.decode(raw, type=kind)))
    return DONE


def _tasks(tree: TaskTree) -> str:
    lines = []
    for task in tree.tasks:
        own = [call for call in task.stack if "/trio/" not in f"/{call}"]
        where = (own or task.stack)[-1:]
        lines.append("  " * task.depth + clean(task.name) + "".join(f"  {clean(_short(call))}" for call in where))
    if len(tree.tasks) < tree.count:
        lines.append(f"and {tree.count - len(tree.tasks)} more")
    return "\n".join(lines)


def _short(call: str) -> str:
    """``…/fabstird/canary.py:45 Canary.run`` without what is before the package."""
    for package in ("/fabstird/", "/fabstir_client/"):
        before, found, rest = call.rpartition(package)
        if found and before:
            return package[1:] + rest
    return call


def _levels(levels: LogLevels) -> str:
    return pairs([("level", levels.level), *levels.loggers.items(), ("loggers", " ".join(levels.known))])
