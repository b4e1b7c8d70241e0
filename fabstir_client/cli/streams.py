"""``fabstir pipe``, ``tunnel`` and ``perf``: declared here, carried out in modules that are imported when asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from fabstir_client._core.discovery import Target
from fabstir_client.cli import arguments

Command = Callable[..., argparse.ArgumentParser]  # makes a command of this name, with this help
Complain = Callable[[str, int], int]

COMMANDS = ("pipe", "tunnel", "perf")


def add_commands(command: Command, nested: Callable[[argparse.ArgumentParser], Command]) -> None:
    """``nested`` gives what makes the commands below a command."""
    piping = command("pipe", "join standard input and output to a stream")
    piping.add_argument("peer", metavar="PEER", nargs="?", help="open one to this peer, by its id")
    piping.add_argument("protocol", metavar="PROTOCOL", nargs="?", help="such as /echo/1.0.0")
    piping.add_argument("--listen", metavar="PROTOCOL", help="wait for a peer to open one on this protocol")
    piping.add_argument("--keep", action="store_true", help="with --listen: take one after the other")
    measuring = command("perf", "measure how fast a peer takes and gives bytes")
    measuring.add_argument("peer", metavar="PEER", help="its id; it must answer /perf/1.0.0 ([streams] perf)")
    measuring.add_argument("--upload", type=arguments.size, default="100MiB", metavar="SIZE", help="default: 100MiB")
    measuring.add_argument("--download", type=arguments.size, default="100MiB", metavar="SIZE", help="default: 100MiB")
    below = nested(command("tunnel", "connect peers to local programs, and local programs to peers"))
    listening = below("listen", "peers' streams on a protocol are connected to a program")
    listening.add_argument("protocol", metavar="PROTOCOL", help="such as /ssh/1.0.0")
    listening.add_argument("target", metavar="HOST:PORT", help="host:port or unix:/path of the program")
    listening.add_argument("--peer", action="append", dest="peers", metavar="PEER", help="only this peer; repeatable")
    listening.add_argument("--proxy-protocol", action="store_true", help="tell the program first which peer it is")
    forwarding = below("forward", "programs that connect to a local socket talk to a peer")
    forwarding.add_argument("peer", metavar="PEER", help="its id")
    forwarding.add_argument("protocol", metavar="PROTOCOL", help="such as /ssh/1.0.0")
    forwarding.add_argument(
        "listen", metavar="LISTEN", nargs="?", default="127.0.0.1:0", help="host:port or unix:/path (default: any port)"
    )
    for made in (listening, forwarding):
        made.add_argument("--no-keep", action="store_true", help="until the daemon stops, not for good")
        made.add_argument("--foreground", action="store_true", help="for as long as this command runs")
    listed = below("list", "the tunnels, and what went through them")
    listed.add_argument("--ids", action="store_true", help="only their ids, one a line")
    below("close", "close a tunnel").add_argument("tunnel", metavar="TUNNEL", help="as tunnel list shows it")


def run(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Carry one of them out; returns the exit status."""
    module = import_module(f"fabstir_client.cli.{'tunnels' if args.command == 'tunnel' else args.command}")
    status: int = module.run(target, args, complain)
    return status
