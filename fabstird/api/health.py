"""The answers of ``/healthz`` and ``/readyz``: 200, or 503 with the cause. Each cause has a code that does not
change."""

from __future__ import annotations

from typing import Any

from fabstird.rpc.services import Services

SLOW = 0.5  # seconds of delay of the event loop, at any check within the last minute
SPARE = 0.1  # part of the file descriptors that should be free
STUCK = 60.0  # seconds without a turn of the node's loop; the watchdog waits as long (`service`)

Answer = tuple[int, dict[str, Any]]


def healthy(services: Services) -> Answer:
    """Whether the daemon serves. A daemon that answers at all is healthy unless its node no longer does its work."""
    silence = services.node.silence()
    if silence > STUCK:
        reason = f"the node's loop has not run for {silence:.0f} s"
        return 503, {"status": "stuck", "code": "NODE_STUCK", "reason": reason, **_warnings(services)}
    return 200, {"status": "ok", **_warnings(services)}


def ready(services: Services) -> Answer:
    """Whether the node is started."""
    status, answer = healthy(services)
    if status != 200:
        return status, answer
    node = services.node
    if node.state == "started":
        return 200, {"status": "ready", **_warnings(services)}
    cause = {"status": "not ready", "code": f"NODE_{node.state.upper()}", "reason": f"the node is {node.state}"}
    return 503, {**cause, **({"error": node.error} if node.error else {}), **_warnings(services)}


def _warnings(services: Services) -> dict[str, Any]:
    """Problems that are no reason to refuse callers; empty where there are none."""
    found = []
    if (delay := services.canary.max) > SLOW:
        found.append({"code": "LOOP_SLOW", "reason": f"the event loop was {delay:.1f} s late within the last minute"})
    descriptors = services.bounds()["fileDescriptors"]
    if descriptors.current > descriptors.limit * (1 - SPARE):
        words = f"{descriptors.current} of {descriptors.limit} file descriptors are in use"
        found.append({"code": "DESCRIPTORS_LOW", "reason": words})
    return {"warnings": found} if found else {}
