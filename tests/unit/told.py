"""What handlers of a client's events are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio

from tests.unit.scripted_daemon import ScriptedDaemon

Seen = list[tuple[str, Any]]
NAMES = (
    *("p2p:started", "p2p:stopped", "peer:connect", "peer:disconnect", "peer:identify"),
    *("connection:retry", "connection:failed", "connection:cancelled", "error", "lagged"),
)


def listen(emitter: Any, seen: Seen, names: Any = NAMES) -> None:
    for name in names:
        emitter.on(name, lambda payload, name=name: seen.append((name, payload)))


async def eventually(condition: Callable[[], Any]) -> Any:
    """The first true value of ``condition``; whoever calls brings the bound."""
    while not (value := condition()):  # noqa: ASYNC110 - threads make it true
        await anyio.sleep(0.005)
    return value


async def has(seen: Seen, name: str) -> Any:
    """The payload of the newest event of that name, once there is one."""
    found = await eventually(lambda: [payload for known, payload in seen if known == name])
    return found[-1]


def following() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fabstir_client events"]


def fail_bootstrap(daemon: ScriptedDaemon) -> dict[str, Any]:
    data = {"type": "BOOTSTRAP_CONNECTION_FAILED", "address": "/ip4/1.2.3.4/tcp/1", "message": "refused"}
    daemon.publish("error", **data)
    return data
