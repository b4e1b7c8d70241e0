"""``fabstir completion``: scripts that make bash, zsh and fish complete its commands.

Peer ids have 52 characters and nobody types them, so the shell asks the daemon for those of connected peers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.resources import files

from fabstir_client import _shells
from fabstir_client._core.discovery import Target
from fabstir_client._shells.words import Words
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.cli.parser import GROUPS, parser

ASKED = {
    **dict.fromkeys(("PEER", "PEERID", "TARGET"), "peers --ids"),
    "TOKEN": "token list --names",
    "LOGGER": "log --loggers",
    "TUNNEL": "tunnel list --ids",
}


def run(_: Target, args: argparse.Namespace, __: Callable[[str, int], int]) -> int:
    print(script(args.shell), end="")
    return 0


def script(shell: str) -> str:
    """The completion script for a shell."""
    document = json.loads(files("fabstir_client").joinpath("openrpc.json").read_bytes())
    methods = tuple(method["name"] for method in document["methods"])
    fixed = {
        "CONDITION": ("ready", "started", "stopped", "peers=", "peer="),
        "TYPE": tuple(EVENT_DATA),
        "METHOD": methods,
        "A,B": methods,
        "COMMAND": tuple(name for names in GROUPS.values() for name in names),
    }
    return _shells.script(shell, parser(), Words(fixed, ASKED))
