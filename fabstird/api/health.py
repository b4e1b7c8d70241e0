"""What ``/healthz`` and ``/readyz`` answer: 200, or 503 with the cause, each under a code that does not change."""

from __future__ import annotations

from typing import Any

from fabstird.rpc.services import Services

SLOW = 0.5  # seconds by which the event loop was late at one look within the last minute
SPARE = 0.1  # of the file descriptors
STUCK = 60.0  # seconds that the node may owe a turn of its loop; the watchdog waits as long (`service`)

Answer = tuple[int, dict[str, Any]]


def healthy(services: Services) -> Answer:
    """Whether the daemon serves. Only one thing keeps one that answers from it: a node that does its work no more."""
    silence = services.node.silence()
    if silence > STUCK:
        reason = f"the node has owed a turn for {silence:.0f} s"
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
    """What is amiss without being a reason to turn callers away; nothing where nothing is."""
    found = []
    if (delay := services.canary.max) > SLOW:
        found.append({"code": "LOOP_SLOW", "reason": f"the event loop was {delay:.1f} s late within the last minute"})
    descriptors = services.bounds()["fileDescriptors"]
    if descriptors.current > descriptors.limit * (1 - SPARE):
        words = f"{descriptors.current} of {descriptors.limit} file descriptors are in use"
        found.append({"code": "DESCRIPTORS_LOW", "reason": words})
    return {"warnings": found} if found else {}
