"""Commands for looking at a daemon and into it: declared here, carried out in modules of their own, each imported when
it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from fabstir_client._core.discovery import Target

Command = Callable[[str, str], argparse.ArgumentParser]
Complain = Callable[[str, int], int]

SHELLS = ("bash", "zsh", "fish")
LEVELS = ("debug", "info", "warning", "error", "inherit")
SORTS = ("since", "peer", "latency", "agent", "direction", "streams")
RUN_BY = {
    **dict.fromkeys(("dump", "tasks", "log"), "debug"),
    "peers": "peers",
    "status": "status",
    "doctor": "doctor",
    "completion": "completion",
    "ui": "ui",
}


def add_commands(command: Command) -> None:
    """Declare them."""
    dumping = command("dump", "write a zip file with all that helps to find a fault")
    dumping.add_argument(
        "file", metavar="FILE", nargs="?", help="default: its own name, in this folder; -: standard output"
    )
    command("tasks", "what each task of the daemon waits for")
    logging = command("log", "change the level of the daemon's log, or show it")
    logging.add_argument("level", metavar="LEVEL", nargs="?", choices=LEVELS, help=f"one of {', '.join(LEVELS)}")
    logging.add_argument("--logger", metavar="LOGGER", help="of this logger and those below it, such as p2p")
    logging.add_argument("--loggers", action="store_true", help="only the names of its loggers, one a line")
    doctor = command("doctor", "find what is wrong, even if no daemon runs")
    doctor.add_argument("--config", metavar="FILE", help="the daemon's configuration, if not the usual one")
    page = command("ui", "open the daemon's page in a browser")
    page.add_argument("--write", action="store_true", help="with buttons that change what the node does")
    page.add_argument("--admin", action="store_true", help="with the daemon's log too")
    page.add_argument("--print", action="store_true", dest="printed", help="print its address instead of opening it")
    shell = command("completion", "print what makes a shell complete fabstir's commands")
    shell.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def add_options(choices: Mapping[str, argparse.ArgumentParser]) -> None:
    """Options of commands that are declared elsewhere."""
    peers = choices["peers"]
    peers.add_argument("--watch", action="store_true", help="show them live; keys sort and filter")
    peers.add_argument("--sort", choices=SORTS, default="since", help=f"by one of {', '.join(SORTS)} (default: since)")
    peers.add_argument("--reverse", action="store_true", help="the other way round")
    peers.add_argument("--ids", action="store_true", help="only their ids, one a line")
    when = ("auto", "always", "never")
    choices["events"].add_argument(
        "--color", choices=when, default="auto", help="in colour: auto is on a terminal, unless NO_COLOR is set"
    )


def coloured(when: str) -> bool:
    """What ``--color`` asks for, given where the output goes (no-color.org)."""
    return when == "always" or (when == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def run(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Carry one of them out; returns the exit status."""
    module = import_module(f"fabstir_client.cli.{RUN_BY[args.command]}")
    status: int = module.run(target, args, complain)
    return status
