"""``fabstir peers --watch``: shows the peers live on a terminal; keys sort and filter them.

It needs the package rich, which ``fabstir[cli]`` installs. The client itself does not depend on it.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Session, decoded
from fabstir_client._sync.calling import request
from fabstir_client._sync.link import Link
from fabstir_client.api.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.cli import fitting
from fabstir_client.cli.format import counted, duration, table
from fabstir_client.cli.observe import SORTS
from fabstir_client.cli.results import ordered

if TYPE_CHECKING:
    from rich.console import RenderableType

DONE, USAGE = 0, 2
INTERVAL = 1.0  # seconds between updates
PATIENCE = 5.0  # seconds that an update may take; keys wait for it
COLUMNS = ("PEER", "DIR", "UP", "LATENCY", "STREAMS", "AGENT", "ADDRESS", "MARKS")
ROOMY, MIDDLE = 160, 100  # terminal columns from which ids are complete, or have 15 characters
LONGEST_FILTER = 60
AWAY = (DaemonUnreachable, ConnectionLost, BadAnswer, ClientTimeout)  # it may come back
ESCAPE, ENTERS, ERASES = "\x1b", "\r\n", "\x7f\x08"


@dataclass(frozen=True, slots=True)
class View:
    """How peers are shown. While ``typing``, keys go into the filter."""

    sort: str
    reverse: bool
    filter: str = ""
    typing: bool = False


def pressed(view: View, key: str) -> View | None:
    """The view after one key; None to leave."""
    if view.typing:
        if key in ENTERS:
            return replace(view, typing=False)
        if key == ESCAPE:
            return replace(view, typing=False, filter="")
        if key in ERASES:
            return replace(view, filter=view.filter[:-1])
        return replace(view, filter=(view.filter + key)[:LONGEST_FILTER]) if key.isprintable() else view
    if key == "q":
        return None
    if key == "s":
        return replace(view, sort=SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)])
    if key == "r":
        return replace(view, reverse=not view.reverse)
    if key == "/":
        return replace(view, typing=True)
    return replace(view, filter="") if key == ESCAPE else view


def chosen(peers: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """The peers that match the filter, sorted. The filter is searched for in the text of each row and in the complete
    id."""
    wanted = view.filter.lower()
    found = [peer for peer in peers if wanted in " ".join((*_row(peer), peer["peerId"], peer["direction"])).lower()]
    return ordered(found, view.sort, reverse=view.reverse)


def run(target: Target, sort: str, reverse: bool, complain: Callable[[str, int], int]) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return complain("peers --watch needs the package rich: pip install 'fabstir[cli]'", USAGE)
    console, view = Console(), View(sort, reverse)
    # Not redirected, because `fitting` asks standard output for its width and encoding.
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with _keys() as key_within, live:
        for status, peers, trouble in _updates(target):
            due = time.monotonic() + INTERVAL
            while True:
                fitting.fit_to(wide=False)  # it may have been resized
                live.update(_screen(status, peers, trouble, view, console.height), refresh=True)
                key = key_within(due - time.monotonic())
                if key is None:
                    break
                after = pressed(view, key)
                if after is None:
                    return DONE
                view = after
    return DONE


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Yield a function that returns the next key pressed within a number of seconds; None if there is none. Ctrl-C
    still interrupts."""
    if not sys.stdin.isatty():

        def none(within: float) -> str | None:
            time.sleep(max(0.0, within))
            return None

        yield none
        return
    import termios
    import tty

    descriptor, waiting = sys.stdin.fileno(), ""
    before = termios.tcgetattr(descriptor)

    def next_key(within: float) -> str | None:
        nonlocal waiting
        if not waiting and select.select([descriptor], [], [], max(0.0, within))[0]:
            typed = os.read(descriptor, 1024).decode(errors="ignore")
            # Arrow and function keys send several characters at once, starting with Escape.
            waiting = "" if typed.startswith(ESCAPE) and len(typed) > 1 else typed
        key, waiting = waiting[:1], waiting[1:]
        return key or None

    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield next_key
    finally:
        # TCSANOW, because waiting for the output to drain could hang if nobody reads it
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _updates(target: Target) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], str]]:
    """Yield status, peers, and the error if these could not be updated. If the daemon goes away, this tries again."""
    link: Link | None = None
    status: dict[str, Any] = {}
    peers: list[dict[str, Any]] = []
    while True:
        deadline = time.monotonic() + PATIENCE
        try:
            link = link or Link.open(target, deadline)
            status = decoded("status", request(link, Session(), raw_method("status", None), [], deadline))
            peers = decoded("peers", request(link, Session(), raw_method("peers", None), [], deadline))
            trouble = ""
        except FabstirError as error:
            if link is not None:
                link.close()
            if not isinstance(error, AWAY):
                raise
            link, trouble = None, str(error)
        yield status, peers, trouble


def _screen(
    status: dict[str, Any], peers: list[dict[str, Any]], trouble: str, view: View, height: int
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if trouble:
        head = Text(f"{trouble}; waiting for it to come back", style="bold red")
    else:
        state = status["state"]
        head = Text.assemble(
            (state, "bold green" if state == "started" else "bold yellow"),
            f"  {counted(len(peers), 'peer')}  {counted(status['connections'], 'connection')}",
            time.strftime("  %H:%M:%SZ", time.gmtime()),
        )
    shown = chosen(peers, view)
    room = max(1, height - 6)
    if shown:
        rows = table(COLUMNS, map(_row, shown[:room])).split("\n")
        lines = [Text(row, style="dim" if trouble else "", no_wrap=True) for row in rows]
        lines[0].stylize("bold")
    elif peers:
        lines = [Text("no peer matches the filter")]
    else:
        lines = [Text("no peers")]
    rest = [Text(f"and {len(shown) - room} more", style="dim")] if len(shown) > room else []
    return Group(head, Text(""), *lines, *rest, Text(""), Text(_help(view), style="dim", no_wrap=True))


def _help(view: View) -> str:
    """The last line: what the keys do, or the filter being typed."""
    if view.typing:
        return f"/{view.filter}_   Enter: keep it   Esc: all peers"
    order = f"{view.sort}, reversed" if view.reverse else view.sort
    kept = f"/ filter: {view.filter}   Esc all" if view.filter else "/ filter"
    return f"q quit   s sort: {order}   r reverse   {kept}"


def _row(peer: dict[str, Any]) -> list[str]:
    connections = peer.get("connections") or [{}]
    latency = peer.get("latency")
    marks = [name for name in ("bootstrap", "protected") if peer.get(name)]
    return [
        _id(str(peer["peerId"])),
        {"inbound": "in", "outbound": "out"}.get(peer["direction"], peer["direction"]),
        duration(max(0, time.time() * 1000 - peer["connectedAt"])),
        "-" if latency is None else f"{latency:.1f} ms",
        str(sum(one.get("streams", 0) for one in connections)),
        peer.get("agentVersion") or "-",
        connections[0].get("address", "-").partition("/p2p/")[0],
        ",".join(marks) or "-",
    ]


def _id(peer_id: str) -> str:
    columns = fitting.columns() or ROOMY
    if columns >= ROOMY or not fitting.ID.fullmatch(peer_id):
        return peer_id
    return f"{peer_id[:10]}{fitting.dots()}{peer_id[-4:]}" if columns >= MIDDLE else fitting.short_ids(peer_id)
