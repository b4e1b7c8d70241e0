"""Methods that inspect the running daemon."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Literal, cast

import trio

from fabstir_client.api.debug import Dump, LogLevelParams, LogLevels, TaskRecord, TaskTree
from fabstir_client.api.errors import InvalidParams
from fabstir_client.api.types import NoParams
from fabstird import tasks
from fabstird.log import logger as log
from fabstird.rpc import dump
from fabstird.rpc.dispatch import Call, Method
from fabstird.threads import imported

LEVELS = ("debug", "info", "warning", "error")


def task_tree(_: Call, __: NoParams) -> TaskTree:
    """The call stack of every task of the daemon, which shows where it hangs."""
    found = list(tasks.walk())
    shown = [TaskRecord(task.name, task.depth, task.stack()) for task in itertools.islice(found, tasks.MOST)]
    return TaskTree(count=len(found), tasks=shown)


async def make_dump(call: Call, _: NoParams) -> Dump:
    """The zip holds the configuration, versions, status, peers, metrics, the newest 1,000 lines of the log, the newest
    1,000 events, and the task tree. It holds no keys, tokens or payloads, but it does show peers and their
    addresses."""
    prometheus = await imported("fabstird.metrics.prometheus")
    services = call.services
    render = prometheus.exposition(services.counters, services.gauges)
    bans = (await services.node.shared()).commands.bans()
    async with services.heavy:
        files = dump.gather(services, bans, render)
        instant = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        folder = f"fabstird-{services.node.identity.peer_id[-8:]}-{instant}"
        content = await trio.to_thread.run_sync(dump.pack, files, folder)
    return Dump(name=f"{folder}.zip", size=len(content), files=list(files), content=content)


def level(call: Call, params: LogLevelParams) -> LogLevels:
    """Changes the level of the whole log, or of one logger, until the daemon ends or reloads its configuration. Without
    ``level``, it only returns the current levels."""
    allowed = LEVELS if params.logger is None else (*LEVELS, "inherit")
    if params.level is not None:
        if params.level not in allowed:
            words = f"must be one of {', '.join(allowed)}, not {params.level!r}"
            raise InvalidParams(f"Invalid params: level: {words}", param="level")
        try:
            log.set_level(params.level, params.logger)
        except log.UnknownLogger as error:
            raise InvalidParams(f"Invalid params: logger: {error}", param="logger") from error
        if params.logger is None:
            running = call.services.config
            chosen = cast("Literal['debug', 'info', 'warning', 'error']", params.level)
            shown = dataclasses.replace(running.log, level=chosen)
            call.services.config = dataclasses.replace(running, log=shown)
    now, single = log.levels()
    return LogLevels(level=now, loggers=single, known=log.known())


METHODS = [
    Method("debug.tasks", NoParams, TaskTree, "The task tree: what every task is waiting for", task_tree,
           access="admin"),
    Method("debug.dump", NoParams, Dump, "A zip file for diagnosing faults", make_dump, access="admin"),
    Method("log.level", LogLevelParams, LogLevels, "Change the log level", level, changes=True, access="admin"),
]  # fmt: skip
