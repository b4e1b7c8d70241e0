"""Whether others can reach the node, for ``fabstir doctor``: what AutoNAT servers have reported to the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fabstir_client.cli.doctor_findings import Context, Finding

FORWARD = (
    "forward the port at the router, or open it in the firewall; or name a relay in [relay] nodes. "
    "see docs/how-to/behind-a-nat.md"
)


def reach(context: Context) -> Iterator[Finding]:
    """One finding, if the daemon has returned its addresses."""
    known = context.addresses.get("reachability", [])
    if not known:
        return
    reached = [entry for entry in known if entry.get("reachable") == "reachable"]
    failed = [entry for entry in known if entry.get("reachable") == "unreachable"]
    relayed = any(entry.get("reachable") == "relayed" for entry in known)
    if reached:
        best = max(reached, key=lambda entry: int(entry.get("confirmedBy", 0)))
        text = f"{best.get('confirmedBy', 0)} servers have reached {_bare(best)}"
        yield Finding("reach", "ok", text)
    elif relayed and failed:
        yield Finding("reach", "ok", f"nobody gets through to {_bare(failed[0])}; peers come through a relay")
    elif relayed:
        yield Finding("reach", "ok", "peers come through a relay")
    elif failed:
        yield Finding("reach", "warning", f"nobody gets through to {_bare(failed[0])}", FORWARD)
    else:
        yield Finding("reach", "skipped", "no server has reported yet whether this node can be reached")


def _bare(entry: dict[str, Any]) -> str:
    return str(entry["address"]).rpartition("/p2p/")[0]
