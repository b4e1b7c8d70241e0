"""``fabstir dht …``: the commands, each of which makes one call, and their output."""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Callable
from typing import Any

from fabstir_client.cli import arguments, fitting
from fabstir_client.cli.format import clean, counted, duration, pairs, second, table
from fabstir_client.cli.parts import Asked, Command, add_arguments, as_base64, given

ENCODINGS = ("text", "base64", "cid")
INCOMPLETE = "(incomplete: the timeout ended the search)"


def add_commands(below: Command) -> None:
    """Declare them."""
    for name, (method, text, show, *described) in COMMANDS.items():
        parser = below(name, text)
        add_arguments(parser, tuple(described))
        parser.set_defaults(call=_of(method), show=show, timed=name not in ("forget", "status", "routing"))
        if "KEY the key" in described:
            parser.add_argument("--encoding", choices=ENCODINGS, help="of the key; default: text")
        if name == "find-providers":
            parser.add_argument("--count", type=arguments.number, metavar="N", help="stop after N providers")
        if name == "put":
            parser.add_argument("value", metavar="VALUE", nargs="?", help="read from standard input if left out")


def _of(method: str) -> Callable[[argparse.Namespace], Asked]:
    def call(args: argparse.Namespace) -> Asked:
        params = given(args, peerid="peerId", key="key", encoding="encoding", count="count")
        if method == "dht.put_value":
            params["value"] = as_base64(args.value)
        return method, params

    return call


def _found_peer(result: dict[str, Any]) -> str:
    state = "connected" if result["connected"] else "not connected"
    rows = [("peer id", result["peerId"]), ("addresses", result["addresses"]), ("state", state)]
    return pairs([*rows, ("asked", _asked(result))])


def _found_providers(result: dict[str, Any]) -> str:
    rows = [
        (provider["peerId"], provider["addresses"][0] if provider["addresses"] else "-")
        for provider in result["providers"]
    ]
    shown = table(("PROVIDER", "ADDRESS"), rows) if rows else f"nobody provides {_key(result)}"
    return _ended(f"{shown}\n({_asked(result)} asked)", result)


def _provided(result: dict[str, Any]) -> str:
    words = f"{_key(result)} is provided: sent to {counted(result['sent'], 'peer')}, confirmed by {result['confirmed']}"
    return _ended(_with_failures(words, result), result)


def _found_value(result: dict[str, Any]) -> str:
    if not result["found"]:
        return _ended(f"no value under {_key(result)} ({_asked(result)} asked)", result)
    words = f"(from {counted(result['answers'], 'peer')}; {result['others']} returned another value)"
    return _ended(f"{_text(result['value'])}\n{words}", result)


def _stored_value(result: dict[str, Any]) -> str:
    words = f"{_key(result)} is stored: {result['stored']} of {counted(result['asked'], 'peer')} asked accepted it"
    return _ended(_with_failures(words, result), result)


def _forgotten(result: dict[str, Any]) -> str:
    ended = [words for field, words in (("provided", "provided"), ("value", "stored")) if result[field]]
    return f"{_key(result)} is no longer {' or '.join(ended)}"


def _status(result: dict[str, Any]) -> str:
    asked = f"{result['asked']} messages sent, {result['failed']} without an answer"
    held = f"{counted(result['values'], 'value')} and {counted(result['providedKeys'], 'provided key')} of others"
    rows: list[tuple[str, Any]] = [
        ("mode", result["mode"]),
        ("peers", result["peers"]),
        ("holds", held),
        ("lookups", f"{result['lookups']}; {asked}"),
        ("answered", ", ".join(f"{count} {kind}" for kind, count in result["answered"].items()) or "-"),
        ("refused", f"{result['refused']} that break the rules, {result['malformed']} malformed"),
    ]
    kept = [
        (_key(record), "provided" if record["provided"] else "value", _when(record, "announced"), _when(record, "next"))
        for record in result["kept"]
    ]
    return pairs(rows) + ("\n\n" + table(("KEY", "KIND", "ANNOUNCED", "NEXT"), kept) if kept else "")


def _routing(result: dict[str, Any]) -> str:
    rows = [
        (
            bucket["sharedBits"],
            peer["peerId"],
            "connected" if peer["connected"] else "-",
            f"{duration(max(0, time.time() * 1000 - peer['heard']))} ago",
            "suspect" if peer["suspect"] else "-",
        )
        for bucket in result["buckets"]
        for peer in bucket["peers"]
    ]
    return table(("SHARED BITS", "PEER", "STATE", "HEARD", "MARKS"), rows) if rows else "the routing table is empty"


def _when(record: dict[str, Any], field: str) -> str:
    return second(record[field]) if record.get(field) else "-"


def _key(result: dict[str, Any]) -> str:
    return _text(result["key"])


def _text(encoded: str) -> str:
    """The decoded text if it is printable, otherwise the base64."""
    try:
        text = base64.b64decode(encoded).decode()
    except ValueError:
        return clean(encoded)
    return text if text.isprintable() and text else clean(encoded)


def _asked(result: dict[str, Any]) -> str:
    return counted(result["asked"], "peer")


def _with_failures(words: str, result: dict[str, Any]) -> str:
    failures = [fitting.sentence(f"{clean(peer)}: {clean(error)}") for peer, error in result["failures"].items()]
    return "\n".join([words, *failures])


def _ended(words: str, result: dict[str, Any]) -> str:
    return words if result["complete"] else f"{words}\n{INCOMPLETE}"


Show = Callable[[dict[str, Any]], str]
# The method, the help, the function that renders the result, and the arguments.
COMMANDS: dict[str, tuple[str, str, Show, *tuple[str, ...]]] = {
    "find-peer": ("dht.find_peer", "find a peer's addresses", _found_peer, "PEERID the peer"),
    "find-providers": ("dht.find_providers", "find the providers of a key", _found_providers, "KEY the key"),
    "provide": ("dht.provide", "announce this node as a provider of a key, regularly", _provided, "KEY the key"),
    "get": ("dht.get_value", "get the value of a key", _found_value, "KEY the key"),
    "put": ("dht.put_value", "store a value under a key, and store it again regularly", _stored_value, "KEY the key"),
    "forget": ("dht.forget", "stop announcing a key, and a value under it", _forgotten, "KEY the key"),
    "status": ("dht.status", "show the state of the DHT", _status),
    "routing": ("dht.routing", "show the routing table, bucket by bucket", _routing),
}
