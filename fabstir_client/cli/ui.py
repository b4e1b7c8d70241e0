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
    """Get a code, and open the page with it. If no browser opens, print the page's address."""
    access = "admin" if args.admin else "write" if args.write else "read"
    result = call_once(target, raw_method("ui.code", {"access": access}), args.deadline)
    if args.json:
        print(bytes(result).decode())
        return 0
    code = msgspec.json.decode(result, type=UiCode)
    if args.printed or not _open(code.url):
        print(code.url)
        print("Open it in a browser on this machine within 30 seconds; it works once.", file=sys.stderr)
        return 0
    print(f"opened {code.url.partition('#')[0]}")
    return 0


def _open(url: str) -> bool:
    """Open a graphical browser; returns False if there is none. A terminal browser could not show the page."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return webbrowser.open(url)
