"""``fabstir peers``: lists the peers once. `watch` shows them live."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import decoded
from fabstir_client._sync.calling import call_once
from fabstir_client.cli.format import clean, readable
from fabstir_client.cli.results import ordered, show

DONE, USAGE = 0, 2


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    if args.watch:
        if not sys.stdout.isatty() or args.json:
            return complain("peers --watch is for a terminal; in a program, use events --follow --json", USAGE)
        from fabstir_client.cli.watch import run as watch

        return watch(target, args.sort, args.reverse, complain)
    raw = call_once(target, raw_method("peers", None), args.deadline)
    if args.json:
        sys.stdout.buffer.write(bytes(raw) + b"\n")
        return DONE
    peers = decoded("peers", raw)
    if args.ids:
        text = readable(lambda peers: "\n".join(clean(peer["peerId"]) for peer in _sorted(peers, args)), peers)
    else:
        text = readable(lambda peers: show("peers", _sorted(peers, args)), peers)
    sys.stdout.write(f"{text}\n" if text else "")
    return DONE


def _sorted(peers: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    return ordered(peers, args.sort, reverse=args.reverse)
