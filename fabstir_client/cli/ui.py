"""``fabstir ui``: opens the daemon's page in a browser, or prints its address."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from collections.abc import Callable

import msgspec

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._sync.calling import call_once
from fabstir_client.api.ui import UiCode


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    """Ask for a code, and open the page with it; where no browser opens, its address is printed all the same."""
    access = "admin" if args.admin else "write" if args.write else "read"
    result = call_once(target, raw_method("ui.code", {"access": access}), args.deadline)
    if args.json:
        print(bytes(result).decode())
        return 0
    made = msgspec.json.decode(result, type=UiCode)
    if args.printed or not _open(made.url):
        print(made.url)
        print("Open it in a browser on this machine within 30 seconds; it works once.", file=sys.stderr)
        return 0
    print(f"opened {made.url.partition('#')[0]}")
    return 0


def _open(url: str) -> bool:
    """Whether a graphical browser has taken it. One in the terminal could not show the page."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return webbrowser.open(url)
