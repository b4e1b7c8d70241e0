"""What commands that are one call share: how they are declared, and their parameters."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Callable
from typing import Any

from fabstir_client.cli import arguments

Command = Callable[[str, str], argparse.ArgumentParser]  # makes a command of this name, with this help
Nested = Callable[[argparse.ArgumentParser], Command]  # what makes the commands below a command
Asked = tuple[str, Any]  # a method and its parameters

BANNABLE = "TARGET a peer id, IP address or network"


def given(args: argparse.Namespace, **names: str) -> dict[str, Any]:
    """Parameters by their names on the wire, of those arguments that were given."""
    found = {wire: getattr(args, name, None) for name, wire in names.items()}
    return {wire: value for wire, value in found.items() if value is not None}


def add_arguments(made: argparse.ArgumentParser, described: tuple[str, ...]) -> None:
    """Each is its name and what it is for."""
    for argument in described:
        name = argument.partition(" ")[0]
        kinds = {"ADDRESS": arguments.address, "TARGET": arguments.address, "PEERID": arguments.peer}
        kind = str if argument == BANNABLE else kinds.get(name, str)
        made.add_argument(name.lower(), metavar=name, help=argument, type=kind)


def said(text: str | None) -> str:
    """The text, or else standard input, in base64."""
    message = sys.stdin.buffer.read() if text is None else text.encode("utf-8", "surrogateescape")
    return base64.b64encode(message).decode()
