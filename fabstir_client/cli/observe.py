"""Commands for observing and inspecting a daemon. They are declared here; each runs in a module that is imported only
then."""

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
    dumping = command("dump", "write a zip file for diagnosing faults")
    dumping.add_argument(
        "file", metavar="FILE", nargs="?", help="default: a new file in this folder; -: standard output"
    )
    command("tasks", "show what each task of the daemon is waiting for")
    logging = command("log", "show or change the level of the daemon's log")
    logging.add_argument("level", metavar="LEVEL", nargs="?", choices=LEVELS, help=f"one of {', '.join(LEVELS)}")
    logging.add_argument("--logger", metavar="LOGGER", help="only this logger and those below it, such as p2p")
    logging.add_argument("--loggers", action="store_true", help="only the names of its loggers, one per line")
    doctor = command("doctor", "find problems, even if no daemon is running")
    doctor.add_argument("--config", metavar="FILE", help="the daemon's configuration, if not the usual one")
    page = command("ui", "open the daemon's page in a browser")
    page.add_argument("--write", action="store_true", help="with buttons that control the node")
    page.add_argument("--admin", action="store_true", help="also with the daemon's log")
    page.add_argument("--print", action="store_true", dest="printed", help="print its address instead of opening it")
    shell = command("completion", "print the completion script for a shell")
    shell.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def add_options(choices: Mapping[str, argparse.ArgumentParser]) -> None:
    """Options of commands that are declared elsewhere."""
    peers = choices["peers"]
    peers.add_argument("--watch", action="store_true", help="show them live; keys sort and filter")
    peers.add_argument("--sort", choices=SORTS, default="since", help=f"by one of {', '.join(SORTS)} (default: since)")
    peers.add_argument("--reverse", action="store_true", help="in reverse order")
    peers.add_argument("--ids", action="store_true", help="only their ids, one per line")
    when = ("auto", "always", "never")
    choices["events"].add_argument(
        "--color", choices=when, default="auto", help="use colours; auto: on a terminal, unless NO_COLOR is set"
    )


def coloured(when: str) -> bool:
    """Whether to use colours, with this value of ``--color`` and the current output (no-color.org)."""
    return when == "always" or (when == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def run(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Run one of these commands; returns the exit status."""
    module = import_module(f"fabstir_client.cli.{RUN_BY[args.command]}")
    status: int = module.run(target, args, complain)
    return status
