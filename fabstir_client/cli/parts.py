"""Helpers of commands that make one call: declaring arguments, and making parameters of them."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Callable
from typing import Any

from fabstir_client.cli import arguments

Command = Callable[[str, str], argparse.ArgumentParser]  # declares a command with a name and a help text
Nested = Callable[[argparse.ArgumentParser], Command]  # makes a `Command` for subcommands
Asked = tuple[str, Any]  # a method and its parameters

BANNABLE = "TARGET a peer id, IP address or network"


def given(args: argparse.Namespace, **names: str) -> dict[str, Any]:
    """The arguments that were given, as parameters by their names on the wire."""
    found = {wire: getattr(args, name, None) for name, wire in names.items()}
    return {wire: value for wire, value in found.items() if value is not None}


def add_arguments(parser: argparse.ArgumentParser, described: tuple[str, ...]) -> None:
    """Add arguments, each described by its name and its help in one text."""
    for argument in described:
        name = argument.partition(" ")[0]
        kinds = {"ADDRESS": arguments.address, "TARGET": arguments.address, "PEERID": arguments.peer}
        kind = str if argument == BANNABLE else kinds.get(name, str)
        parser.add_argument(name.lower(), metavar=name, help=argument, type=kind)


def as_base64(text: str | None) -> str:
    """The text in base64; standard input if it is None."""
    message = sys.stdin.buffer.read() if text is None else text.encode("utf-8", "surrogateescape")
    return base64.b64encode(message).decode()
