"""``fabstir token`` and ``fabstir audit``: their arguments, their calls, and their output."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from fabstir_client.cli import arguments, fitting
from fabstir_client.cli.format import clean, duration, inline, instant, second, table
from fabstir_client.cli.parts import Asked, Command, Nested, given

LIMITS = ("PROTOCOLS", "PEERS")


def add_commands(command: Command, nested: Nested) -> None:
    """Declare them."""
    below = nested(command("token", "create, list and revoke tokens for HTTP and WebSocket"))
    creating = below("create", "create a token and print it; it is shown only once")
    creating.add_argument("name", metavar="NAME", help="letters, digits and . _ -")
    creating.add_argument("--access", required=True, choices=("read", "write", "admin"), help="what it grants")
    creating.add_argument("--methods", type=arguments.names, metavar="A,B", help="only these methods")
    creating.add_argument(
        "--protocol",
        action="append",
        metavar="PATTERN",
        dest="protocols",
        help="only protocols of this pattern, such as /acme/*; may be repeated",
    )
    creating.add_argument(
        "--peer", action="append", metavar="PEER", dest="peers", help="only calls about this peer; may be repeated"
    )
    creating.add_argument("--expires", type=arguments.duration, metavar="TIME", help="such as 15m, 12h, 30d or 4w")
    creating.set_defaults(call=_create, show=lambda created: str(created["token"]), note=_created)
    listing = below("list", "list the tokens")
    listing.set_defaults(call=lambda _: ("token.list", {}), show=_listed)
    listing.add_argument(
        "--names", action="store_const", const=_names, dest="show", help="only their names, one per line"
    )
    revoking = below("revoke", "revoke a token, at once")
    revoking.add_argument("name", metavar="TOKEN", help="as token list shows it")
    revoking.set_defaults(call=lambda args: ("token.revoke", {"name": args.name}), show=_revoked)
    auditing = command("audit", "list recent calls that changed something, or were refused")
    auditing.add_argument("--after", type=arguments.number, metavar="SEQ", help="only entries after this one")
    auditing.add_argument("--limit", type=arguments.number, metavar="N", help="at most N entries (default: 100)")
    auditing.set_defaults(call=lambda args: ("audit", given(args, after="after", limit="limit")), show=_audit)


def _create(args: argparse.Namespace) -> Asked:
    names = {"name": "name", "access": "access", "methods": "methods", "protocols": "protocols", "peers": "peers"}
    return "token.create", given(args, **names, expires="expiresIn")


def _created(token: dict[str, Any]) -> str:
    return f"{clean(token['name'])}: {_grants(token)}, {_until(token)}. The token will not be shown again."


def _names(tokens: list[dict[str, Any]]) -> str:
    return "\n".join(clean(token["name"]) for token in tokens)


def _listed(tokens: list[dict[str, Any]]) -> str:
    if not tokens:
        return "no tokens except the one in api.token"
    rows: list[tuple[str, ...]] = [
        (
            token["name"],
            token["access"],
            ",".join(token["methods"]) if token.get("methods") else "all",
            ",".join(token["protocols"]) if token.get("protocols") else "all",
            ",".join(token["peers"]) if token.get("peers") else "all",
            second(token["created"]),
            _until(token),
            second(token["lastUsed"]) if token.get("lastUsed") else "-",
        )
        for token in tokens
    ]
    columns = ("NAME", "ACCESS", "METHODS", "PROTOCOLS", "PEERS", "CREATED", "EXPIRES", "LAST USED")
    # A limit that is "all" in every row is left out.
    shown = [at for at, name in enumerate(columns) if name not in LIMITS or any(row[at] != "all" for row in rows)]
    lines = [tuple(row[at] for at in shown) for row in (columns, *rows)]
    if fitting.fits(lines):
        return table(lines[0], lines[1:])
    return "\n".join(_limits_below(columns, rows))


def _limits_below(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """The table, with the limits of each token in lines below its row."""
    limits = {at: name.lower() for at, name in enumerate(columns) if name in ("METHODS", *LIMITS)}
    others = [at for at in range(len(columns)) if at not in limits]
    head, *lines = table([columns[at] for at in others], [[row[at] for at in others] for row in rows]).split("\n")
    yield head
    for line, row in zip(lines, rows, strict=True):
        yield line
        for at, name in limits.items():
            if row[at] != "all":
                yield fitting.wrapped(f"  {name}: {clean(row[at].replace(',', ', '))}")


def _revoked(result: dict[str, Any]) -> str:
    return f"{clean(result['name'])} is revoked"


def _grants(token: dict[str, Any]) -> str:
    words = f"{token['access']} access" + (f" to {', '.join(token['methods'])}" if token.get("methods") else "")
    if token.get("protocols"):
        words += f", on protocols {', '.join(token['protocols'])}"
    return words + (f", with peers {', '.join(token['peers'])}" if token.get("peers") else "")


def _until(token: dict[str, Any]) -> str:
    if token.get("expired"):
        return "expired"
    return f"until {second(token['expires'])}" if token.get("expires") else "until revoked"


def _audit(result: dict[str, Any]) -> str:
    entries = result["entries"]
    if not entries:
        return "no entries"
    rows: list[tuple[str, ...]] = [
        (
            str(entry["seq"]),
            instant(entry["time"]),
            _who(entry),
            entry["method"],
            entry["outcome"],
            duration(entry["duration"]) if entry["duration"] >= 1000 else f"{entry['duration']:.1f}ms",
            inline(entry["params"]),
        )
        for entry in entries
    ]
    head = ("SEQ", "TIME", "WHO", "METHOD", "OUTCOME", "TOOK", "PARAMETERS")
    if fitting.fits([head, *rows]):
        lines = [table(head, rows)]
    else:  # the parameters go below each row, uncut
        shown = table(head[:-1], [row[:-1] for row in rows]).splitlines()
        below = [fitting.wrapped(f"  {clean(row[-1])}") for row in rows]
        lines = [shown[0], *(part for pair in zip(shown[1:], below, strict=True) for part in pair if part.strip())]
    if result["missed"]:
        lines.insert(0, f"-- {result['missed']} entries are missing here; the daemon's log has them --")
    return "\n".join(lines)


def _who(entry: dict[str, Any]) -> str:
    parts: list[tuple[str, Any]] = [(name, entry.get(name)) for name in ("uid", "pid", "token", "remote")]
    return " ".join([entry["transport"], *(f"{name}={value}" for name, value in parts if value is not None)])
