"""``fabstir token`` and ``fabstir audit``: their arguments, the calls that they are, and what they print."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from fabstir_client.cli_tables import clean, duration, inline, instant, table

Command = Callable[..., argparse.ArgumentParser]  # makes a command of this name, with this help

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_commands(command: Command, nested: Callable[[argparse.ArgumentParser], Command]) -> None:
    """``nested`` gives what makes the commands below a command."""
    below = nested(command("token", "make, list and revoke tokens for HTTP and WebSocket"))
    making = below("create", "make a token, and print it: it is shown this once")
    making.add_argument("name", metavar="NAME", help="letters, digits and . _ -")
    making.add_argument("--access", required=True, choices=("read", "write", "admin"), help="what it grants")
    making.add_argument("--methods", type=_names, metavar="A,B", help="nothing but these methods")
    making.add_argument("--expires", type=_lifetime, metavar="TIME", help="such as 90s, 15m, 12h, 30d or 4w from now")
    below("list", "the tokens that there are")
    below("revoke", "end a token, at once").add_argument("name", metavar="NAME", help="as token list shows it")
    auditing = command("audit", "the last calls that changed something, or were refused")
    auditing.add_argument("--after", type=_number, metavar="SEQ", help="only entries after this one")
    auditing.add_argument("--limit", type=_number, metavar="N", help="entries at most (default: 100)")


def call_of(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The method and its parameters."""
    if args.command == "audit":
        names = {"after": "after", "limit": "limit"}
        method = "audit"
    else:
        names = {"name": "name", "access": "access", "methods": "methods", "expires": "expiresIn"}
        method = f"token.{args.subcommand}"
    given = {wire: getattr(args, name, None) for name, wire in names.items()}
    return method, {wire: value for wire, value in given.items() if value is not None}


def show(method: str, result: Any) -> str:
    """The result as text."""
    return _SHOWN[method](result)


def _created(made: dict[str, Any]) -> str:
    return f"{made['token']}\n{clean(made['name'])}: {_grants(made)}, {_until(made)}. The token is shown this once."


def _listed(tokens: list[dict[str, Any]]) -> str:
    if not tokens:
        return "no tokens but the one in api.token"
    rows = [
        (
            one["name"],
            one["access"],
            ",".join(one["methods"]) if one.get("methods") else "all",
            instant(one["created"])[:19],
            _until(one),
            instant(one["lastUsed"])[:19] if one.get("lastUsed") else "-",
        )
        for one in tokens
    ]
    return table(("NAME", "ACCESS", "METHODS", "MADE", "GOOD", "LAST USED"), rows)


def _revoked(result: dict[str, Any]) -> str:
    return f"{clean(result['name'])} {'is revoked' if result['revoked'] else 'was no token'}"


def _grants(token: dict[str, Any]) -> str:
    return f"{token['access']} access" + (f" to {', '.join(token['methods'])}" if token.get("methods") else "")


def _until(token: dict[str, Any]) -> str:
    if token.get("expired"):
        return "no more: expired"
    return f"until {instant(token['expires'])[:19]}" if token.get("expires") else "until revoked"


def _audit(told: dict[str, Any]) -> str:
    entries = told["entries"]
    if not entries:
        return "nothing was changed"
    rows = [
        (
            one["seq"],
            instant(one["time"]),
            _who(one),
            one["method"],
            one["outcome"],
            duration(one["duration"]) if one["duration"] >= 1000 else f"{one['duration']:.1f}ms",
            inline(one["params"]),
        )
        for one in entries
    ]
    lines = [table(("SEQ", "TIME", "WHO", "METHOD", "OUTCOME", "TOOK", "PARAMETERS"), rows)]
    if told["missed"]:
        lines.insert(0, f"-- {told['missed']} entries are missing: the daemon's log has them --")
    return "\n".join(lines)


def _who(entry: dict[str, Any]) -> str:
    parts: list[tuple[str, Any]] = [(name, entry.get(name)) for name in ("uid", "pid", "token", "remote")]
    return " ".join([entry["transport"], *(f"{name}={value}" for name, value in parts if value is not None)])


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _lifetime(text: str) -> int:
    """Milliseconds."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 15m, 12h, 30d or 4w")
    return int(match[1]) * _UNITS[match[2]] * 1000


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


_SHOWN: dict[str, Callable[[Any], str]] = {
    "token.create": _created,
    "token.list": _listed,
    "token.revoke": _revoked,
    "audit": _audit,
}
