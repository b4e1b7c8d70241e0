"""``fabstir status``: the state of the daemon, on one screen."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Session, decoded
from fabstir_client._sync.calling import request
from fabstir_client._sync.link import Link
from fabstir_client.api.errors import RpcError
from fabstir_client.cli.format import counted, pairs, readable
from fabstir_client.cli.results import state_of

DONE = 0
ADDRESSES = 6  # addresses listed at most
NEARLY = 0.8  # the part of a bound from which it is shown as nearly full
RINGS = ("events", "timelines", "auditEntries", "knownPeers")  # these are normally full


def run(target: Target, args: argparse.Namespace, _: Callable[[str, int], int]) -> int:
    link = Link.open(target, args.deadline)
    try:
        raw = request(link, Session(), raw_method("status", None), [], args.deadline)
        if args.json:
            sys.stdout.buffer.write(bytes(raw) + b"\n")
            return DONE
        metrics, peers = _more(link, "metrics", args.deadline), _more(link, "peers", args.deadline)
    finally:
        link.close()
    print(readable(lambda status: screen(status, metrics, peers), decoded("status", raw)))
    return DONE


def _more(link: Link, method: str, deadline: float | None) -> Any:
    """The result of a method; None if this caller may not call it, or an older daemon does not have it."""
    try:
        raw = request(link, Session(), raw_method(method, None), [], deadline)
    except RpcError:
        return None
    return decoded(method, raw)


def screen(status: dict[str, Any], metrics: dict[str, Any] | None, peers: list[dict[str, Any]] | None) -> str:
    """The text, from the results of these methods."""
    rows = state_of(status)
    rows += [("peers", _peers(status, peers)), ("bootstrap", _bootstrap(status, peers))]
    rows.append(("listening", _some(status["listenAddresses"])))
    if metrics is not None:
        rows.append(("dials", _dials(metrics)))
        rows.append(("traffic", f"{size(metrics['bytesReceived'])} received, {size(metrics['bytesSent'])} sent"))
        if full := _full(metrics):
            rows.append(("nearly full", full))
    rows.append(("daemon", f"version {status['version']}, run {status['epoch']}, {counted(status['head'], 'event')}"))
    return pairs(rows)


def size(count: float) -> str:
    """``512 B``, ``1.5 KiB``, ``2.0 MiB`` …"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _peers(status: dict[str, Any], peers: list[dict[str, Any]] | None) -> str:
    text = f"{status['peers']} ({counted(status['connections'], 'connection')})"
    directions = Counter(peer["direction"] for peer in peers or ())
    return text + "".join(f", {count} {direction}" for direction, count in sorted(directions.items()))


def _bootstrap(status: dict[str, Any], peers: list[dict[str, Any]] | None) -> list[str]:
    nodes = status["bootstrapNodes"]
    if not nodes or peers is None:
        return _some(nodes)
    up = {peer["peerId"] for peer in peers if peer.get("bootstrap")}
    marked = [f"{node}  {'connected' if node.rpartition('/p2p/')[2] in up else 'not connected'}" for node in nodes]
    return _some(marked)


def _some(addresses: list[str]) -> list[str]:
    more = len(addresses) - ADDRESSES
    return addresses if more <= 0 else [*addresses[:ADDRESSES], f"and {more} more"]


def _dials(metrics: dict[str, Any]) -> str:
    outbound = f"{metrics['outboundConnections']} succeeded, {metrics['failedConnections']} failed"
    return f"{outbound}; {counted(metrics['inboundConnections'], 'inbound connection')}"


def _full(metrics: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {bound['current']} of {bound['limit']}"
        for name, bound in metrics.get("bounds", {}).items()
        if name not in RINGS and bound["current"] > bound["limit"] * NEARLY
    ]
