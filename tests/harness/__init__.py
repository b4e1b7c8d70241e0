"""Real daemons for tests, and what speaks to them.

`fabstird()` is a daemon whose node is started, driven over its IPC socket; `pair()` is two of them, connected.
`daemon()` is a process whose API listens: what goes over its endpoints is looked at message by message or byte by byte.
`process()` is one that may end before that. `running_daemon()` is for tests that are no trio tasks.
"""

from tests.harness.blocking import RunningDaemon, running_daemon, stopped_daemon
from tests.harness.connections import ANSWER, Connection, Ipc, Ws, ipc, ws
from tests.harness.daemon import TASK_TREE, Daemon, fabstird, pair
from tests.harness.http import Reply, exchange, fetch, post, request_text, upgrade_text
from tests.harness.launch import LISTEN, OWN, START_TIMEOUT, STOP_TIMEOUT, Json, command, environment, is_error, parsed
from tests.harness.process import Process, daemon, process
from tests.harness.waiting import asked_until, until, wait_until

__all__ = [
    "ANSWER",
    "LISTEN",
    "OWN",
    "START_TIMEOUT",
    "STOP_TIMEOUT",
    "TASK_TREE",
    "Connection",
    "Daemon",
    "Ipc",
    "Json",
    "Process",
    "Reply",
    "RunningDaemon",
    "Ws",
    "asked_until",
    "command",
    "daemon",
    "environment",
    "exchange",
    "fabstird",
    "fetch",
    "ipc",
    "is_error",
    "pair",
    "parsed",
    "post",
    "process",
    "request_text",
    "running_daemon",
    "stopped_daemon",
    "until",
    "upgrade_text",
    "wait_until",
    "ws",
]
