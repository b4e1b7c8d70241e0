"""``fabstir peers``: once, their ids alone, or live on a terminal.

Live needs the package rich, which comes with ``fabstir[cli]``: the client itself stays thin.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from fabstir_client.calls import raw_method
from fabstir_client.cli_tables import clean, counted, duration, ordered, show
from fabstir_client.discovery import Target
from fabstir_client.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.protocol import Session
from fabstir_client.sync_link import SyncLink, call_once, request

if TYPE_CHECKING:
    from rich.console import RenderableType

DONE, USAGE = 0, 2
INTERVAL = 1.0  # seconds between two looks
COLUMNS = ("PEER", "DIR", "UP", "LATENCY", "STREAMS", "AGENT", "ADDRESS", "MARKS")


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    if args.watch:
        if not sys.stdout.isatty() or args.json:
            return complain("peers --watch is for a terminal; a program follows with: events --follow --json", USAGE)
        return _watch(target, args.sort, args.reverse, complain)
    raw = call_once(target, raw_method("peers", None))
    if args.json:
        sys.stdout.buffer.write(bytes(raw) + b"\n")
        return DONE
    peers = ordered(msgspec.json.decode(raw), args.sort, reverse=args.reverse)
    if args.ids:
        sys.stdout.write("".join(f"{clean(peer['peerId'])}\n" for peer in peers))
    else:
        print(show("peers", peers))
    return DONE


def _watch(target: Target, sort: str, reverse: bool, complain: Callable[[str, int], int]) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return complain("peers --watch needs the package rich: pip install 'fabstir[cli]'", USAGE)
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for status, peers, trouble in _looks(target):
            live.update(_screen(status, ordered(peers, sort, reverse=reverse), trouble, console.height), refresh=True)
            time.sleep(INTERVAL)
    return DONE


def _looks(target: Target) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], str]]:
    """Status, peers, and why these are old where they are; a daemon that goes away is waited for."""
    link: SyncLink | None = None
    status: dict[str, Any] = {}
    peers: list[dict[str, Any]] = []
    while True:
        try:
            link = link or SyncLink.open(target)
            status = msgspec.json.decode(request(link, Session(), raw_method("status", None), []))
            peers = msgspec.json.decode(request(link, Session(), raw_method("peers", None), []))
            trouble = ""
        except (DaemonUnreachable, ConnectionLost, BadAnswer, ClientTimeout) as error:
            link, trouble = None, str(error)
        except FabstirError:
            if link is not None:
                link.close()
            raise
        yield status, peers, trouble


def _screen(status: dict[str, Any], peers: list[dict[str, Any]], trouble: str, height: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if trouble:
        head = Text(f"{trouble}; waiting for it to come back", style="bold red")
    else:
        state = status["state"]
        head = Text.assemble(
            (state, "bold green" if state == "started" else "bold yellow"),
            f"  {counted(len(peers), 'peer')}  {counted(status['connections'], 'connection')}",
            time.strftime("  %H:%M:%S"),
        )
    ratios = {"PEER": 4, "AGENT": 3, "ADDRESS": 5}  # these share what the others leave
    table = Table(box=None, expand=True, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        long = name in ratios
        right = name in ("UP", "LATENCY", "STREAMS")
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if right else "left",
            min_width=10 if long else max(len(name), 7 if right else 0),
            ratio=ratios.get(name),
        )
    room = max(1, height - 4)
    for peer in peers[:room]:
        table.add_row(*(Text(clean(cell)) for cell in _row(peer)), style="dim" if trouble else "")
    rest = [Text(f"and {len(peers) - room} more", style="dim")] if len(peers) > room else []
    return Group(head, Text(""), table if peers else Text("no peers"), *rest)


def _row(peer: dict[str, Any]) -> list[str]:
    connections = peer.get("connections") or [{}]
    latency = peer.get("latency")
    marks = [name for name in ("bootstrap", "protected") if peer.get(name)]
    return [
        peer["peerId"],
        {"inbound": "in", "outbound": "out"}.get(peer["direction"], peer["direction"]),
        duration(max(0, time.time() * 1000 - peer["connectedAt"])),
        "-" if latency is None else f"{latency:.1f} ms",
        str(sum(one.get("streams", 0) for one in connections)),
        peer.get("agentVersion") or "-",
        connections[0].get("address", "-").partition("/p2p/")[0],
        ",".join(marks) or "-",
    ]
