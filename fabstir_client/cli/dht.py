"""``fabstir dht …``: the commands, each of which is one call, and what is printed of its result."""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Callable
from typing import Any

from fabstir_client.cli import arguments, fitting
from fabstir_client.cli.format import clean, counted, duration, pairs, second, table
from fabstir_client.cli.parts import Asked, Command, add_arguments, given, said

ENCODINGS = ("text", "base64", "cid")
STOPPED = "(the time was over before the search was)"


def add_commands(below: Command) -> None:
    """Declare them."""
    for name, (method, text, show, *described) in COMMANDS.items():
        made = below(name, text)
        add_arguments(made, tuple(described))
        made.set_defaults(call=_of(method), show=show, timed=name not in ("forget", "status", "routing"))
        if "KEY the key" in described:
            made.add_argument("--encoding", choices=ENCODINGS, help="of the key; default: text")
        if name == "find-providers":
            made.add_argument("--count", type=arguments.number, metavar="N", help="so many are enough")
        if name == "put":
            made.add_argument("value", metavar="VALUE", nargs="?", help="standard input where it is left out")


def _of(method: str) -> Callable[[argparse.Namespace], Asked]:
    def call(args: argparse.Namespace) -> Asked:
        params = given(args, peerid="peerId", key="key", encoding="encoding", count="count")
        if method == "dht.put_value":
            params["value"] = said(args.value)
        return method, params

    return call


def _found_peer(told: dict[str, Any]) -> str:
    state = "connected" if told["connected"] else "not connected"
    rows = [("peer id", told["peerId"]), ("addresses", told["addresses"]), ("state", state), ("asked", _asked(told))]
    return pairs(rows)


def _found_providers(told: dict[str, Any]) -> str:
    rows = [(one["peerId"], one["addresses"][0] if one["addresses"] else "-") for one in told["providers"]]
    shown = table(("PROVIDER", "ADDRESS"), rows) if rows else f"nobody provides {_key(told)}"
    return _ended(f"{shown}\n({_asked(told)} asked)", told)


def _provided(told: dict[str, Any]) -> str:
    words = f"{_key(told)} is provided: {counted(told['sent'], 'peer')} told, {told['confirmed']} have it"
    return _ended(_with_failures(words, told), told)


def _found_value(told: dict[str, Any]) -> str:
    if not told["found"]:
        return _ended(f"no value under {_key(told)} ({_asked(told)} asked)", told)
    words = f"(from {counted(told['answers'], 'peer')}; {told['others']} gave another value)"
    return _ended(f"{_text(told['value'])}\n{words}", told)


def _stored_value(told: dict[str, Any]) -> str:
    words = f"{_key(told)} is put: {counted(told['stored'], 'peer')} of {told['asked']} asked took it"
    return _ended(_with_failures(words, told), told)


def _forgotten(told: dict[str, Any]) -> str:
    gone = [words for field, words in (("provided", "provided"), ("value", "put")) if told[field]]
    return f"{_key(told)} is no longer {' or '.join(gone)}" if gone else f"nothing was announced under {_key(told)}"


def _status(told: dict[str, Any]) -> str:
    asked = f"{told['asked']} messages to others, {told['failed']} without an answer"
    rows: list[tuple[str, Any]] = [
        ("mode", told["mode"]),
        ("peers", told["peers"]),
        ("holds", f"{counted(told['values'], 'value')} and {counted(told['providedKeys'], 'provided key')} of others"),
        ("lookups", f"{told['lookups']}; {asked}"),
        ("answered", ", ".join(f"{count} {kind}" for kind, count in told["answered"].items()) or "-"),
        ("refused", f"{told['refused']} against the rules, {told['malformed']} malformed"),
    ]
    kept = [
        (_key(one), "provided" if one["provided"] else "value", _when(one, "announced"), _when(one, "next"))
        for one in told["kept"]
    ]
    return pairs(rows) + ("\n\n" + table(("KEY", "KIND", "ANNOUNCED", "NEXT"), kept) if kept else "")


def _routing(told: dict[str, Any]) -> str:
    rows = [
        (
            bucket["sharedBits"],
            peer["peerId"],
            "connected" if peer["connected"] else "-",
            f"{duration(max(0, time.time() * 1000 - peer['heard']))} ago",
            "suspect" if peer["suspect"] else "-",
        )
        for bucket in told["buckets"]
        for peer in bucket["peers"]
    ]
    return table(("SHARED BITS", "PEER", "STATE", "HEARD", "MARKS"), rows) if rows else "the routing table is empty"


def _when(record: dict[str, Any], field: str) -> str:
    return second(record[field]) if record.get(field) else "-"


def _key(told: dict[str, Any]) -> str:
    return _text(told["key"])


def _text(encoded: str) -> str:
    """As text where it is some, else the base64 that it came as."""
    try:
        text = base64.b64decode(encoded).decode()
    except ValueError:
        return clean(encoded)
    return text if text.isprintable() and text else clean(encoded)


def _asked(told: dict[str, Any]) -> str:
    return counted(told["asked"], "peer")


def _with_failures(words: str, told: dict[str, Any]) -> str:
    failures = [fitting.sentence(f"{clean(peer)}: {clean(why)}") for peer, why in told["failures"].items()]
    return "\n".join([words, *failures])


def _ended(words: str, told: dict[str, Any]) -> str:
    return words if told["complete"] else f"{words}\n{STOPPED}"


Show = Callable[[dict[str, Any]], str]
# The method, what they are for, what is printed, and their arguments.
COMMANDS: dict[str, tuple[str, str, Show, *tuple[str, ...]]] = {
    "find-peer": ("dht.find_peer", "where a peer is", _found_peer, "PEERID the peer"),
    "find-providers": ("dht.find_providers", "who provides a key", _found_providers, "KEY the key"),
    "provide": ("dht.provide", "tell others that this node provides a key, again and again", _provided, "KEY the key"),
    "get": ("dht.get_value", "the value of a key", _found_value, "KEY the key"),
    "put": ("dht.put_value", "put a value, again and again", _stored_value, "KEY the key"),
    "forget": ("dht.forget", "stop announcing a key, and a value under it", _forgotten, "KEY the key"),
    "status": ("dht.status", "how the DHT stands", _status),
    "routing": ("dht.routing", "whom the DHT knows, bucket by bucket", _routing),
}
