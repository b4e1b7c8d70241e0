"""``fabstir tunnel``: makes, lists and closes tunnels."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Session
from fabstir_client._sync.calling import call_once, request
from fabstir_client._sync.link import Link
from fabstir_client.cli import fitting
from fabstir_client.cli.format import clean, counted, table

DONE, REFUSED = 0, 1
INDENT = " " * 18  # the width of an id and the gap after it
LOOK = 2.0  # seconds between checks whether a tunnel in the foreground still exists
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Complain = Callable[[str, int], int]


def run(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Run one of the subcommands; returns the exit status."""
    if args.subcommand == "list":
        return _answer(target, args, "tunnel.list", {}, _ids if args.ids else _listed)
    if args.subcommand == "close":
        return _answer(target, args, "tunnel.close", {"tunnelId": args.tunnel}, _closed)
    params: dict[str, Any] = {"protocol": args.protocol, "keep": not (args.no_keep or args.foreground)}
    if args.subcommand == "listen":
        params |= {"target": args.target, "proxyProtocol": args.proxy_protocol}
        params |= {"peers": args.peers} if args.peers else {}
    else:
        params |= {"peerId": args.peer, "listen": args.listen}
    if args.foreground:
        return _foreground(target, args, params, complain)
    return _answer(target, args, f"tunnel.{args.subcommand}", params, _made)


def _answer(
    target: Target, args: argparse.Namespace, method: str, params: dict[str, Any], shown: Callable[[Any], str]
) -> int:
    result = call_once(target, raw_method(method, params))
    if text := bytes(result).decode() if args.json else shown(msgspec.json.decode(result)):
        print(text, flush=True)
    return DONE


def _foreground(target: Target, args: argparse.Namespace, params: dict[str, Any], complain: Complain) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # `sigtimedwait` below receives them
    link, session = Link.open(target), Session[None]()
    try:

        def ask(method: str, params: dict[str, Any]) -> Any:
            return request(link, session, raw_method(method, params), [])

        # The lease closes the tunnel if this command cannot, as after SIGKILL.
        result = ask(f"tunnel.{args.subcommand}", params | {"lease": "connection"})
        made = msgspec.json.decode(result)
        print(bytes(result).decode() if args.json else _made(made), flush=True)
        tunnel_id = made["tunnelId"]
        while signal.sigtimedwait(ENDS, LOOK) is None:
            present = msgspec.json.decode(ask("tunnel.list", {}))
            if all(tunnel["tunnelId"] != tunnel_id for tunnel in present):
                return complain(f"the tunnel {tunnel_id} was closed", REFUSED)
        ask("tunnel.close", {"tunnelId": tunnel_id})
        return DONE
    finally:
        link.close()


def _made(tunnel: dict[str, Any]) -> str:
    return "\n".join(_lines(tunnel))


def _closed(result: dict[str, Any]) -> str:
    return f"{clean(result['tunnelId'])} is closed, with {counted(result['closed'], 'open stream')}"


def _ids(tunnels: list[dict[str, Any]]) -> str:
    return "\n".join(clean(tunnel["tunnelId"]) for tunnel in tunnels)


def _listed(tunnels: list[dict[str, Any]]) -> str:
    if not tunnels:
        return "no tunnels"
    rows = [
        (
            tunnel["tunnelId"],
            _from(tunnel),
            _to(tunnel),
            "yes" if tunnel["keep"] else "no",
            f"{tunnel['open']}/{tunnel['total']}",
            _bytes(tunnel["bytesIn"]),
            _bytes(tunnel["bytesOut"]),
            clean(tunnel.get("lastError", "-")),
        )
        for tunnel in tunnels
    ]
    head = ("TUNNEL", "FROM", "TO", "KEPT", "OPEN/ALL", "IN", "OUT", "LAST ERROR")
    if fitting.fits([head, *rows]):
        return table(head, rows)
    return "\n".join(line for tunnel in tunnels for line in (*_lines(tunnel), _counts(tunnel)))


def _lines(tunnel: dict[str, Any]) -> list[str]:
    """The complete id, which `close` needs, and both ends; the second end in its own line if one is too short."""
    begin, end = _from(tunnel), _to(tunnel)
    columns = fitting.columns()
    if columns is not None:
        begin, end = fitting.short_ids(begin), fitting.short_ids(end)
    first = f"{clean(tunnel['tunnelId'])}  {begin}"
    line = f"{first} -> {end}"
    return [line] if columns is None or len(line) <= columns else [first, f"{INDENT}-> {end}"]


def _counts(tunnel: dict[str, Any]) -> str:
    text = f"{'kept' if tunnel['keep'] else 'not kept'}, {tunnel['open']} open of {tunnel['total']}"
    text += f", {_bytes(tunnel['bytesIn'])} in, {_bytes(tunnel['bytesOut'])} out"
    if tunnel.get("lastError"):
        text += f"; {clean(tunnel['lastError'])}"
    room = (fitting.columns() or len(INDENT + text)) - len(INDENT)
    return INDENT + fitting.cut(text, room)


def _from(tunnel: dict[str, Any]) -> str:
    if tunnel["kind"] == "forward":
        return clean(tunnel["listen"])
    peers = tunnel.get("peers")
    who = "all peers" if peers is None else ", ".join(peers) or "no peers"
    return f"{clean(tunnel['protocol'])} of {clean(who)}"


def _to(tunnel: dict[str, Any]) -> str:
    if tunnel["kind"] == "forward":
        return f"{clean(tunnel['protocol'])} of {clean(tunnel['peerId'])}"
    return clean(tunnel["target"])


def _bytes(size: float) -> str:
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
