"""Whether others can reach the node, as ``fabstir doctor`` tells it: what servers of AutoNAT have told the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fabstir_client.cli.doctor_findings import Context, Finding

FORWARD = (
    "forward the port at the router, or open it in the firewall; or name a relay in [relay] nodes. "
    "docs/how-to/behind-a-nat.md has the ways"
)


def reach(context: Context) -> Iterator[Finding]:
    """One finding, where the daemon tells its addresses."""
    known = context.addresses.get("reachability", [])
    if not known:
        return
    reached = [one for one in known if one.get("reachable") == "reachable"]
    failed = [one for one in known if one.get("reachable") == "unreachable"]
    relayed = any(one.get("reachable") == "relayed" for one in known)
    if reached:
        best = max(reached, key=lambda one: int(one.get("confirmedBy", 0)))
        text = f"{best.get('confirmedBy', 0)} servers have reached {_bare(best)}"
        yield Finding("reach", "ok", text)
    elif relayed and failed:
        yield Finding("reach", "ok", f"nobody gets through to {_bare(failed[0])}; peers come through a relay")
    elif relayed:
        yield Finding("reach", "ok", "peers come through a relay")
    elif failed:
        yield Finding("reach", "warning", f"nobody gets through to {_bare(failed[0])}", FORWARD)
    else:
        yield Finding("reach", "skipped", "no server has told yet whether others get through to this node")


def _bare(one: dict[str, Any]) -> str:
    return str(one["address"]).rpartition("/p2p/")[0]
