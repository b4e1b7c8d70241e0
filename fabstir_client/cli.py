"""``fabstir``: the command-line client.

It is started often and runs for milliseconds, so it uses the blocking client and imports neither an event loop's
library nor, over IPC, a WebSocket library. CONTRACT, section 1.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fabstir_client import cli_observe
from fabstir_client._version import __version__
from fabstir_client.cli_access import add_commands as add_access_commands
from fabstir_client.cli_access import call_of
from fabstir_client.cli_access import show as show_access
from fabstir_client.discovery import Target
from fabstir_client.errors import FabstirError, InvalidConfig, RpcError

DONE, REFUSED, USAGE, UNREACHED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130

# Commands that are one call without parameters, and what they are for.
PLAIN = {
    "status": "the state of the node",
    "peers": "the connected peers",
    "addresses": "where the node listens and what it announces",
    "metrics": "counters since the daemon started",
    "start": "start the node, with the daemon's configuration",
    "stop": "stop the node; the daemon stays",
    "version": "versions and protocols of the daemon",
    "config": "the daemon's effective configuration",
    "shutdown": "stop the daemon",
}

# What is told on a terminal where one takes longer than a second.
DOING = {
    "connect": "dialling",
    "ping": "waiting for the peer",
    "request": "waiting for the peer",
    "start": "starting the node",
    "stop": "stopping the node",
}

# Commands about one peer: the method, what they are for, and their arguments, which have the parameters' names.
PEER = {
    "explain": ("peer.explain", "why a peer is connected, or is not", "TARGET a peer id or an address"),
    "keep": ("peer.keep", "stay connected to an address, across restarts", "ADDRESS a multiaddr with /p2p/"),
    "forget": ("peer.forget", "no longer keep an address or a peer", "TARGET a kept address or a peer id"),
    "ban": ("peer.ban", "keep out a peer, an IP address or a network", "TARGET a peer id, IP address or network"),
    "unban": ("peer.unban", "lift a ban", "TARGET a peer id, IP address or network"),
    "bans": ("peer.bans", "the bans in force"),
    "tag": ("peer.tag", "give a peer a tag: trimming spares high values", "PEERID the peer", "TAG the tag's name"),
    "untag": ("peer.untag", "take a tag from a peer", "PEERID the peer", "TAG the tag's name"),
    "protect": ("peer.protect", "never trim a peer", "PEERID the peer"),
    "unprotect": ("peer.unprotect", "a peer may be trimmed again", "PEERID the peer"),
}


class _Help(argparse.HelpFormatter):
    """Argparse makes one of these for every option; asking the terminal for its width each time is what costs most."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(columns) if columns.isdecimal() and int(columns) > 20 else 100)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"fabstir: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        status = _run(parser().parse_args(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()  # its reader has seen enough
        return DONE
    except OSError as error:  # those of the connection have become FabstirErrors
        _discard_output()
        return _complain(f"the output cannot be written: {error.strerror}", REFUSED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except FabstirError as error:
        log_id = error.data.get("logId")
        hint = f"; the daemon's log has the whole of it under {log_id}" if log_id else ""
        return _complain(f"{error}{hint}", _status_of(error))
    return status


def _discard_output() -> None:
    """What is still buffered cannot be written, and Python would try once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int) -> int:
    print(f"fabstir: {' '.join(message.split())}", file=sys.stderr)
    return status


def _status_of(error: FabstirError) -> int:
    if isinstance(error, RpcError):
        return REFUSED
    return USAGE if isinstance(error, InvalidConfig) else UNREACHED


def parser() -> argparse.ArgumentParser:
    """The whole command line; what shells complete and the man page are made from it, too."""
    whole = _Parser(prog="fabstir", description="Drives fabstird, the local P2P daemon.")
    whole.add_argument("--version", action="version", version=f"fabstir {__version__}")
    _common(whole, first=True)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        _common(made, first=False)
        return made

    def nested(parent: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
        below = parent.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

        def inner(name: str, text: str) -> argparse.ArgumentParser:
            made: argparse.ArgumentParser = below.add_parser(name, help=text, description=text)
            _common(made, first=False)
            return made

        return inner

    for name, text in PLAIN.items():
        command(name, text)
    connecting = command("connect", "connect to a peer")
    connecting.add_argument("address", metavar="ADDRESS", help="a multiaddr with /p2p/, or a known peer id")
    connecting.add_argument("--timeout", type=_positive, metavar="MS", help="milliseconds for the whole call")
    disconnecting = command("disconnect", "close all connections to a peer")
    disconnecting.add_argument("peer", metavar="PEER", help="its peer id")
    pinging = command("ping", "measure the round trip to a connected peer")
    pinging.add_argument("peer", metavar="PEER", help="its peer id")
    pinging.add_argument("--timeout", type=_positive, metavar="MS", help="milliseconds for the whole call")
    for name, (_, text, *arguments) in PEER.items():
        made = command(name, text)
        for argument in arguments:
            made.add_argument(argument.partition(" ")[0].lower(), metavar=argument.partition(" ")[0], help=argument)
    commands.choices["tag"].add_argument("value", metavar="VALUE", type=int, help="its weight, an integer")
    banning = commands.choices["ban"]
    banning.add_argument("--duration", type=_positive, metavar="MS", help="milliseconds; for good where it is left out")
    banning.add_argument("--reason", metavar="TEXT", help="shown by bans and explain")
    events = command("events", "print the events that the daemon still holds")
    events.add_argument("--follow", action="store_true", help="print what comes, from now on unless --after is given")
    events.add_argument("--after", type=_number, metavar="SEQ", help="only events after this one")
    events.add_argument("--type", action="append", dest="types", metavar="TYPE", help="only this type; repeatable")
    waiting = command("wait", "wait until a condition holds")
    waiting.add_argument("condition", metavar="CONDITION", type=_condition, help=_CONDITIONS)
    waiting.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds to wait (default: 60)")
    requesting = command("request", "send a message to a peer and print its answer")
    requesting.add_argument("peer", metavar="PEER", help="its peer id")
    requesting.add_argument("protocol", metavar="PROTOCOL", help="such as /fabstir/job/1.0.0")
    requesting.add_argument("text", metavar="TEXT", nargs="?", help="the message; standard input where it is left out")
    requesting.add_argument("--framing", choices=("u32be", "uvarint", "none"), help="default: uvarint")
    requesting.add_argument("--timeout", type=_positive, metavar="MS", help="milliseconds for the whole call")
    add_access_commands(command, nested)
    discovering = command("discover", "nodes that serve a model, the best first")
    discovering.add_argument("model", metavar="MODEL", help="its name")
    discovering.add_argument("--max-price", metavar="N", help="an integer per token, as the nodes count it")
    discovering.add_argument("--max-latency", type=_positive, metavar="MS", help="as measured here")
    discovering.add_argument("--min-reputation", type=_seconds, metavar="N", help="0 to 100, as the node says")
    discovering.add_argument("--refresh", action="store_true", help="search even where an answer is remembered")
    discovering.add_argument("--timeout", type=_positive, metavar="MS", help="milliseconds for the whole call")
    cli_observe.add_commands(command)
    cli_observe.add_options(commands.choices)
    calling = command("call", "call any method")
    calling.add_argument("method", metavar="METHOD")
    calling.add_argument("params", metavar="JSON", nargs="?", type=_json, help="its parameters: an object or an array")
    return whole


def _common(parser: argparse.ArgumentParser, *, first: bool) -> None:
    """Options that may stand before or after the command: the later one wins, and an absent one changes nothing."""
    absent: Any = None if first else argparse.SUPPRESS
    parser.add_argument(
        "--json", action="store_true", default=absent or False if first else absent, help="print the result as JSON"
    )
    parser.add_argument("--api", default=absent, metavar="ADDRESS", help="ipc:/path or http://host:port")
    parser.add_argument("--data-dir", default=absent, metavar="DIR", help="the data directory of the daemon to talk to")


_CONDITIONS = "ready, started, stopped, peers=N (at least N; peers=0: none) or peer=ID"


def _condition(text: str) -> str:
    name, _, value = text.partition("=")
    fine = (name == "peer" and value) or (name == "peers" and value.isdecimal())
    if text not in ("ready", "started", "stopped") and not fine:
        raise argparse.ArgumentTypeError(f"no such condition: {text!r}; it must be {_CONDITIONS}")
    return text


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _json(text: str) -> Any:
    import msgspec

    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict | list):
        raise argparse.ArgumentTypeError(f"parameters must be a JSON object or array, not {text!r}")
    return value


def _run(args: argparse.Namespace) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    target = Target(args.api, args.data_dir)
    if args.command == "events":
        from fabstir_client.cli_watch import follow, held

        colour = cli_observe.coloured(args.color)
        if args.follow:
            return follow(target, args.types, args.after, as_json=args.json, complain=_complain, colour=colour)
        return held(target, args.types, args.after, as_json=args.json, colour=colour)
    if args.command in cli_observe.RUN_BY:
        return cli_observe.run(target, args, _complain)
    if args.command == "wait":
        from fabstir_client.cli_watch import wait

        return wait(target, args.condition, args.timeout, as_json=args.json, complain=_complain)
    return _call(target, args)


def _call(target: Target, args: argparse.Namespace) -> int:
    import msgspec

    from fabstir_client.calls import raw_method
    from fabstir_client.cli_progress import progress
    from fabstir_client.cli_tables import show
    from fabstir_client.sync_link import call_once

    method, params = args.command, {}
    if method == "connect":
        params = {"address": args.address}
    elif method in ("disconnect", "ping"):
        params = {"peerId": args.peer}
    elif method == "request":
        message = sys.stdin.buffer.read() if args.text is None else args.text.encode("utf-8", "surrogateescape")
        params = {"peerId": args.peer, "protocol": args.protocol, "data": base64.b64encode(message).decode()}
        if args.framing is not None:
            params["framing"] = args.framing
    elif method == "discover":
        method, params = "fabstir.discover", {"model": args.model}
        filters = {"maxPrice": args.max_price, "maxLatency": args.max_latency, "minReputation": args.min_reputation}
        given = {name: value for name, value in filters.items() if value is not None}
        params |= ({"filters": given} if given else {}) | ({"forceRefresh": True} if args.refresh else {})
    elif method in PEER:
        names = ("target", "address", "tag", "value", "duration", "reason")
        params = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
        if hasattr(args, "peerid"):
            params["peerId"] = args.peerid
        method = PEER[method][0]
    elif method in ("token", "audit"):
        method, params = call_of(args)
    elif method == "call":
        method, params = args.method, args.params
    if getattr(args, "timeout", None) is not None:
        params["timeout"] = args.timeout
    with progress(DOING.get(args.command, "waiting for the daemon")):
        result = call_once(target, raw_method(method, params))
    if args.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(bytes(result) + b"\n")
    elif args.command in ("token", "audit"):
        print(show_access(method, msgspec.json.decode(result)))
    else:
        print(show(args.command, msgspec.json.decode(result)))
    return DONE
