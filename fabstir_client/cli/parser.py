"""The command line of ``fabstir``. The completion scripts and the man page are made from it, too."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fabstir_client._command_line import Parser, meant
from fabstir_client._version import __version__
from fabstir_client.cli import access, arguments, calling, observe, streams

GROUPS = {
    "The node": ("status", "id", "start", "stop", "addresses", "metrics", "wait", "events", "ui"),
    "Peers": ("peers", "connect", "disconnect", "ping", "explain", "keep", "forget", "protect", "unprotect", "tag",
              "untag", "ban", "unban", "bans"),
    "Talking to peers": ("pipe", "tunnel", "request", "perf"),
    "Finding things": ("dht", "announce", "withdraw", "discover"),
    "The daemon": ("doctor", "config", "version", "token", "audit", "log", "tasks", "dump", "shutdown"),
    "Others": ("call", "completion", "help"),
}  # fmt: skip


class _GroupedParser(Parser):
    """A parser whose help shows the commands in groups."""

    def format_help(self) -> str:
        [commands] = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        texts = {choice.dest: choice.help or "" for choice in commands._choices_actions}
        lines = ["usage: fabstir [OPTIONS] COMMAND …", "", self.description or ""]
        for title, names in GROUPS.items():
            lines += ["", f"{title}:", *(f"  {name:<11} {texts[name]}" for name in names)]
        formatter = self._get_formatter()
        for group in self._action_groups:
            formatter.start_section("options" if group.title == "options" else None)
            formatter.add_arguments([action for action in group._group_actions if action is not commands])
            formatter.end_section()
        lines += ["", formatter.format_help().rstrip(), "", "See fabstir help COMMAND for more."]
        return "\n".join(lines) + "\n"


def helped(about: list[str]) -> int:
    """``fabstir help``: print the help of everything, or of the command that these words name."""
    found: argparse.ArgumentParser = parser()
    for word in about:
        below = [action for action in found._actions if isinstance(action, argparse._SubParsersAction)]
        choices = below[0].choices if below else {}
        if word not in choices:
            found.error(f"there is no command {word!r}{meant(word, choices)}")
        found = choices[word]
    print(found.format_help(), end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """Options and commands. The defaults of a command say which call it makes (`calling`, `observe`)."""
    root = _GroupedParser(prog="fabstir", description="Controls fabstird, the local P2P daemon.")
    root.add_argument("--version", action="version", version=f"fabstir {__version__}")
    _common(root, first=True)
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        declared: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        _common(declared, first=False)
        return declared

    helping = command("help", "show this list, or the help of a command")
    helping.add_argument("about", metavar="COMMAND", nargs="*", help="the command, such as token create")

    def nested(parent: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
        below = parent.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

        def inner(name: str, text: str) -> argparse.ArgumentParser:
            declared: argparse.ArgumentParser = below.add_parser(name, help=text, description=text)
            _common(declared, first=False)
            return declared

        return inner

    calling.add_commands(command, nested)
    _add_events_and_wait(command)
    access.add_commands(command, nested)
    streams.add_commands(command, nested)
    observe.add_commands(command)
    observe.add_options(commands.choices)
    return root


def _add_events_and_wait(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    events = command("events", "print the events that the daemon still holds")
    events.add_argument("--follow", action="store_true", help="print events as they happen, from now or from --after")
    events.add_argument("--after", type=arguments.number, metavar="SEQ", help="only events after this one")
    events.add_argument("--type", action="append", dest="types", metavar="TYPE", help="only this type; repeatable")
    events.add_argument(
        "--exec",
        metavar="CMD",
        dest="hook",
        help="with --follow: run CMD for each event, with the event as JSON on its standard input, and do not print it",
    )
    events.add_argument(
        "--exec-timeout",
        type=arguments.duration,
        metavar="TIME",
        default=60_000,
        help="how long each run of CMD may take before it is killed (default: 60s)",
    )
    waiting = command("wait", "wait until a condition holds, for 60 s unless --timeout is given")
    waiting.add_argument("condition", metavar="CONDITION", type=arguments.condition, help=arguments.CONDITIONS)


def _common(parser: argparse.ArgumentParser, *, first: bool) -> None:
    """Add options that may be given before or after the command. The later one wins, and an absent one changes
    nothing."""
    absent: Any = None if first else argparse.SUPPRESS
    parser.add_argument(
        "--json", action="store_true", default=absent or False if first else absent, help="print the result as JSON"
    )
    parser.add_argument(
        "--wide",
        action="store_true",
        default=absent or False if first else absent,
        help="print complete ids and addresses, even if wider than the terminal",
    )
    parser.add_argument("--api", default=absent, metavar="ADDRESS", help="ipc:/path or http://host:port")
    parser.add_argument("--data-dir", default=absent, metavar="DIR", help="the data directory of the daemon to talk to")
    parser.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=absent,
        metavar="TIME",
        help=f"for the whole command, such as {arguments.EXAMPLES}; only wait also takes a bare number, in seconds",
    )
