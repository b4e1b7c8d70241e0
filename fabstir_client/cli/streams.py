"""``fabstir pipe``, ``tunnel`` and ``perf``. They are declared here; each runs in a module that is imported only
then."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from fabstir_client._core.discovery import Target
from fabstir_client.cli import arguments

Command = Callable[..., argparse.ArgumentParser]  # declares a command with a name and a help text
Complain = Callable[[str, int], int]

COMMANDS = ("pipe", "tunnel", "perf")


def add_commands(command: Command, nested: Callable[[argparse.ArgumentParser], Command]) -> None:
    """Declare them. ``nested`` makes a `Command` for the subcommands of a command."""
    piping = command("pipe", "connect standard input and output to a stream")
    piping.add_argument("peer", metavar="PEER", nargs="?", help="the id of the peer to open a stream to")
    piping.add_argument("protocol", metavar="PROTOCOL", nargs="?", help="such as /echo/1.0.0")
    piping.add_argument("--listen", metavar="PROTOCOL", help="wait for a peer to open a stream on this protocol")
    piping.add_argument("--keep", action="store_true", help="with --listen: serve one stream after another")
    measuring = command("perf", "measure the throughput to and from a peer")
    measuring.add_argument("peer", metavar="PEER", help="its id; it must answer /perf/1.0.0 ([streams] perf)")
    measuring.add_argument("--upload", type=arguments.size, default="100MiB", metavar="SIZE", help="default: 100MiB")
    measuring.add_argument("--download", type=arguments.size, default="100MiB", metavar="SIZE", help="default: 100MiB")
    below = nested(command("tunnel", "connect peers to local programs, and local programs to peers"))
    listening = below("listen", "connect peers' streams on a protocol to a program")
    listening.add_argument("protocol", metavar="PROTOCOL", help="such as /ssh/1.0.0")
    listening.add_argument("target", metavar="HOST:PORT", help="host:port or unix:/path of the program")
    listening.add_argument("--peer", action="append", dest="peers", metavar="PEER", help="only this peer; repeatable")
    listening.add_argument(
        "--proxy-protocol", action="store_true", help="first send a PROXY v2 header with the peer's id"
    )
    forwarding = below("forward", "listen on a local socket, and connect programs there to a peer")
    forwarding.add_argument("peer", metavar="PEER", help="its id")
    forwarding.add_argument("protocol", metavar="PROTOCOL", help="such as /ssh/1.0.0")
    forwarding.add_argument(
        "listen", metavar="LISTEN", nargs="?", default="127.0.0.1:0", help="host:port or unix:/path (default: any port)"
    )
    for making in (listening, forwarding):
        making.add_argument("--no-keep", action="store_true", help="only until the daemon stops")
        making.add_argument("--foreground", action="store_true", help="only while this command runs")
    listed = below("list", "list the tunnels and their traffic")
    listed.add_argument("--ids", action="store_true", help="only their ids, one per line")
    below("close", "close a tunnel").add_argument("tunnel", metavar="TUNNEL", help="as tunnel list shows it")


def run(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Run one of these commands; returns the exit status."""
    module = import_module(f"fabstir_client.cli.{'tunnels' if args.command == 'tunnel' else args.command}")
    status: int = module.run(target, args, complain)
    return status
