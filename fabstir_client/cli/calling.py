"""Commands that are one call: their arguments, and the method and parameters that they stand for.

A command says with ``call`` what it asks for, and with ``timed`` that its method takes a timeout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fabstir_client.cli import arguments, dht
from fabstir_client.cli.format import clean
from fabstir_client.cli.parts import BANNABLE, Asked, Command, Nested, add_arguments, given, said

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

# Commands about one peer: the method, what they are for, and their arguments, which have the parameters' names.
PEER = {
    "explain": ("peer.explain", "why a peer is connected, or is not", "TARGET a peer id or an address"),
    "keep": ("peer.keep", "stay connected to an address, across restarts", "ADDRESS a multiaddr with /p2p/"),
    "forget": ("peer.forget", "no longer keep an address or a peer", "TARGET a kept address or a peer id"),
    "ban": ("peer.ban", "keep out a peer, an IP address or a network", BANNABLE),
    "unban": ("peer.unban", "lift a ban", BANNABLE),
    "bans": ("peer.bans", "the bans in force"),
    "tag": ("peer.tag", "give a peer a tag: trimming spares high values", "PEERID the peer", "TAG the tag's name"),
    "untag": ("peer.untag", "take a tag from a peer", "PEERID the peer", "TAG the tag's name"),
    "protect": ("peer.protect", "never trim a peer", "PEERID the peer"),
    "unprotect": ("peer.unprotect", "a peer may be trimmed again", "PEERID the peer"),
}


def add_commands(command: Command, nested: Nested) -> None:
    """Declare them."""
    for name, text in PLAIN.items():
        command(name, text).set_defaults(call=_plain(name))
    command("id", "the node's peer id").set_defaults(
        call=lambda _: ("status", {}), show=lambda status: clean(status["peerId"])
    )
    connecting = command("connect", "connect to a peer")
    connecting.add_argument(
        "address", metavar="ADDRESS", type=arguments.address, help="a multiaddr with /p2p/, or a known peer id"
    )
    connecting.set_defaults(call=lambda args: ("connect", {"address": args.address}), timed=True)
    disconnecting = command("disconnect", "close all connections to a peer")
    disconnecting.add_argument("peer", metavar="PEER", type=arguments.peer, help="its peer id")
    disconnecting.set_defaults(call=lambda args: ("disconnect", {"peerId": args.peer}))
    pinging = command("ping", "measure the round trip to a connected peer")
    pinging.add_argument("peer", metavar="PEER", type=arguments.peer, help="its peer id")
    pinging.set_defaults(call=lambda args: ("ping", {"peerId": args.peer}), timed=True)
    _add_peer_commands(command)
    _add_request(command)
    _add_announce(command)
    _add_discover(command)
    dht.add_commands(nested(command("dht", "look things up in the DHT, and put them there")))
    calling = command("call", "call any method")
    calling.add_argument("method", metavar="METHOD")
    calling.add_argument(
        "params", metavar="JSON", nargs="?", type=arguments.params, help="its parameters: an object or an array"
    )
    calling.set_defaults(call=lambda args: (args.method, args.params))


def _plain(name: str) -> Callable[[argparse.Namespace], Asked]:
    return lambda _: (name, {})


def _add_peer_commands(command: Command) -> None:
    made = {}
    for name, (method, text, *described) in PEER.items():
        made[name] = command(name, text)
        add_arguments(made[name], tuple(described))
        made[name].set_defaults(call=_of_peer(method))
    made["tag"].add_argument("value", metavar="VALUE", type=arguments.integer, help="its weight, an integer")
    made["ban"].add_argument(
        "--duration", type=arguments.duration, metavar="TIME", help="such as 90s, 12h or 30d; for good where left out"
    )
    made["ban"].add_argument("--reason", metavar="TEXT", help="shown by bans and explain")


def _of_peer(method: str) -> Callable[[argparse.Namespace], Asked]:
    names = {name: name for name in ("target", "address", "tag", "value", "duration", "reason")}
    return lambda args: (method, given(args, **names, peerid="peerId"))


def _add_request(command: Command) -> None:
    requesting = command("request", "send a message to a peer and print its answer")
    requesting.add_argument("peer", metavar="PEER", type=arguments.peer, help="its peer id")
    requesting.add_argument("protocol", metavar="PROTOCOL", help="such as /fabstir/job/1.0.0")
    requesting.add_argument("text", metavar="TEXT", nargs="?", help="the message; standard input where it is left out")
    requesting.add_argument("--framing", choices=("u32be", "uvarint", "none"), help="default: uvarint")
    requesting.set_defaults(call=_request, timed=True)


def _request(args: argparse.Namespace) -> Asked:
    message = said(args.text)
    return "request", {
        "peerId": args.peer,
        "protocol": args.protocol,
        "data": message,
        **given(args, framing="framing"),
    }


def _add_announce(command: Command) -> None:
    announcing = command("announce", "tell others in the DHT what this node serves, again and again")
    announcing.add_argument("capabilities", metavar="NAME", nargs="+", help="what it serves, such as a model's name")
    announcing.add_argument(
        "--metadata", type=arguments.params, metavar="JSON", help="what others see of this node: an object"
    )
    announcing.set_defaults(
        call=lambda args: ("fabstir.announce", given(args, capabilities="capabilities", metadata="metadata")),
        timed=True,
    )
    withdrawing = command("withdraw", "stop announcing what this node serves")
    withdrawing.add_argument("capabilities", metavar="NAME", nargs="+", help="what was announced")
    withdrawing.set_defaults(call=lambda args: ("fabstir.withdraw", {"capabilities": args.capabilities}))


def _add_discover(command: Command) -> None:
    discovering = command("discover", "nodes that serve a model, the best first")
    discovering.add_argument("model", metavar="MODEL", help="its name")
    discovering.add_argument("--max-price", metavar="N", help="an integer per token, as the nodes count it")
    discovering.add_argument(
        "--max-latency", type=arguments.duration, metavar="TIME", help="such as 50ms, as seen here"
    )
    discovering.add_argument("--min-reputation", type=arguments.real, metavar="N", help="0 to 100, as the node says")
    discovering.add_argument("--refresh", action="store_true", help="search even where an answer is remembered")
    discovering.set_defaults(call=_discover, timed=True)


def _discover(args: argparse.Namespace) -> Asked:
    filters = given(args, max_price="maxPrice", max_latency="maxLatency", min_reputation="minReputation")
    params = {"model": args.model, **({"filters": filters} if filters else {})}
    return "fabstir.discover", params | ({"forceRefresh": True} if args.refresh else {})
