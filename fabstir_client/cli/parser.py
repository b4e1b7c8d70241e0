"""The whole command line of ``fabstir``. What shells complete and the man page are made from it, too."""

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


class _Whole(Parser):
    """Its help has the commands in groups."""

    def format_help(self) -> str:
        [commands] = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        texts = {choice.dest: choice.help or "" for choice in commands._choices_actions}
        lines = ["usage: fabstir [OPTIONS] COMMAND …", "", self.description or ""]
        for title, names in GROUPS.items():
            lines += ["", f"{title}:", *(f"  {name:<11} {texts[name]}" for name in names)]
        formatter = self._get_formatter()
        for group in self._action_groups:
            formatter.start_section("options" if group.title == "options" else None)
            formatter.add_arguments([one for one in group._group_actions if one is not commands])
            formatter.end_section()
        lines += ["", formatter.format_help().rstrip(), "", "fabstir help COMMAND has more about each."]
        return "\n".join(lines) + "\n"


def helped(about: list[str]) -> int:
    """``fabstir help``: of all, or of the command that these words name."""
    made: argparse.ArgumentParser = parser()
    for word in about:
        below = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
        choices = below[0].choices if below else {}
        if word not in choices:
            made.error(f"there is no command {word!r}{meant(word, choices)}")
        made = choices[word]
    print(made.format_help(), end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """Its options and commands; the latter say with their defaults what they ask for (`calling`, `observe`)."""
    whole = _Whole(prog="fabstir", description="Drives fabstird, the local P2P daemon.")
    whole.add_argument("--version", action="version", version=f"fabstir {__version__}")
    _common(whole, first=True)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        _common(made, first=False)
        return made

    helping = command("help", "this list, or all about a command")
    helping.add_argument("about", metavar="COMMAND", nargs="*", help="the command, such as token create")

    def nested(parent: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
        below = parent.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

        def inner(name: str, text: str) -> argparse.ArgumentParser:
            made: argparse.ArgumentParser = below.add_parser(name, help=text, description=text)
            _common(made, first=False)
            return made

        return inner

    calling.add_commands(command, nested)
    _add_following(command)
    access.add_commands(command, nested)
    streams.add_commands(command, nested)
    observe.add_commands(command)
    observe.add_options(commands.choices)
    return whole


def _add_following(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    events = command("events", "print the events that the daemon still holds")
    events.add_argument("--follow", action="store_true", help="print what comes, from now on unless --after is given")
    events.add_argument("--after", type=arguments.number, metavar="SEQ", help="only events after this one")
    events.add_argument("--type", action="append", dest="types", metavar="TYPE", help="only this type; repeatable")
    events.add_argument(
        "--exec",
        metavar="CMD",
        dest="hook",
        help="with --follow: run it for each, with the event as JSON on its standard input, instead of printing it",
    )
    events.add_argument(
        "--exec-timeout",
        type=arguments.duration,
        metavar="TIME",
        default=60_000,
        help="for each run of it; it is killed then (default: 60s)",
    )
    waiting = command("wait", "wait until a condition holds; for 60 s, unless --timeout is given")
    waiting.add_argument("condition", metavar="CONDITION", type=arguments.condition, help=arguments.CONDITIONS)


def _common(parser: argparse.ArgumentParser, *, first: bool) -> None:
    """Options that may stand before or after the command: the later one wins, and an absent one changes nothing."""
    absent: Any = None if first else argparse.SUPPRESS
    parser.add_argument(
        "--json", action="store_true", default=absent or False if first else absent, help="print the result as JSON"
    )
    parser.add_argument(
        "--wide",
        action="store_true",
        default=absent or False if first else absent,
        help="whole ids and addresses, wider than the terminal",
    )
    parser.add_argument("--api", default=absent, metavar="ADDRESS", help="ipc:/path or http://host:port")
    parser.add_argument("--data-dir", default=absent, metavar="DIR", help="the data directory of the daemon to talk to")
    parser.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=absent,
        metavar="TIME",
        help=f"for all of it, such as {arguments.EXAMPLES}; a bare number is seconds, for wait alone",
    )
