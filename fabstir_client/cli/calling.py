"""Commands that make one call: their arguments, and the method and parameters.

The default ``call`` of a command makes the call from the arguments; ``timed`` means that its method takes a timeout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fabstir_client.cli import arguments, dht
from fabstir_client.cli.format import clean
from fabstir_client.cli.parts import BANNABLE, Asked, Command, Nested, add_arguments, as_base64, given

# Commands that make one call without parameters, and their help.
PLAIN = {
    "status": "show the state of the node",
    "peers": "list the connected peers",
    "addresses": "show where the node listens and what it announces",
    "metrics": "show counters since the daemon started",
    "start": "start the node, with the daemon's configuration",
    "stop": "stop the node; the daemon keeps running",
    "version": "show versions and protocols of the daemon",
    "config": "show the daemon's effective configuration",
    "shutdown": "stop the daemon",
}

# Commands about one peer: the method, the help, and the arguments, which are named after the parameters.
PEER = {
    "explain": ("peer.explain", "show why a peer is or is not connected", "TARGET a peer id or an address"),
    "keep": ("peer.keep", "stay connected to an address, across restarts", "ADDRESS a multiaddr with /p2p/"),
    "forget": ("peer.forget", "stop keeping an address or a peer", "TARGET a kept address or a peer id"),
    "ban": ("peer.ban", "ban a peer, an IP address or a network", BANNABLE),
    "unban": ("peer.unban", "lift a ban", BANNABLE),
    "bans": ("peer.bans", "list the bans in force"),
    "tag": ("peer.tag", "tag a peer; trimming spares high values", "PEERID the peer", "TAG the tag's name"),
    "untag": ("peer.untag", "remove a tag from a peer", "PEERID the peer", "TAG the tag's name"),
    "protect": ("peer.protect", "never trim a peer", "PEERID the peer"),
    "unprotect": ("peer.unprotect", "let a peer be trimmed again", "PEERID the peer"),
}


def add_commands(command: Command, nested: Nested) -> None:
    """Declare them."""
    for name, text in PLAIN.items():
        command(name, text).set_defaults(call=_plain(name))
    command("id", "print the node's peer id").set_defaults(
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
    pinging = command("ping", "measure the round-trip time to a connected peer")
    pinging.add_argument("peer", metavar="PEER", type=arguments.peer, help="its peer id")
    pinging.set_defaults(call=lambda args: ("ping", {"peerId": args.peer}), timed=True)
    _add_peer_commands(command)
    _add_request(command)
    _add_announce(command)
    _add_discover(command)
    dht.add_commands(nested(command("dht", "search the DHT, and store in it")))
    calling = command("call", "call any method")
    calling.add_argument("method", metavar="METHOD")
    calling.add_argument(
        "params", metavar="JSON", nargs="?", type=arguments.params, help="its parameters: an object or an array"
    )
    calling.set_defaults(call=lambda args: (args.method, args.params))


def _plain(name: str) -> Callable[[argparse.Namespace], Asked]:
    return lambda _: (name, {})


def _add_peer_commands(command: Command) -> None:
    parsers = {}
    for name, (method, text, *described) in PEER.items():
        parsers[name] = command(name, text)
        add_arguments(parsers[name], tuple(described))
        parsers[name].set_defaults(call=_of_peer(method))
    parsers["tag"].add_argument("value", metavar="VALUE", type=arguments.integer, help="its weight, an integer")
    parsers["ban"].add_argument(
        "--duration", type=arguments.duration, metavar="TIME", help="such as 90s, 12h or 30d; permanent if left out"
    )
    parsers["ban"].add_argument("--reason", metavar="TEXT", help="shown by bans and explain")


def _of_peer(method: str) -> Callable[[argparse.Namespace], Asked]:
    names = {name: name for name in ("target", "address", "tag", "value", "duration", "reason")}
    return lambda args: (method, given(args, **names, peerid="peerId"))


def _add_request(command: Command) -> None:
    requesting = command("request", "send a message to a peer and print its answer")
    requesting.add_argument("peer", metavar="PEER", type=arguments.peer, help="its peer id")
    requesting.add_argument("protocol", metavar="PROTOCOL", help="such as /fabstir/job/1.0.0")
    requesting.add_argument("text", metavar="TEXT", nargs="?", help="the message; read from standard input if left out")
    requesting.add_argument("--framing", choices=("u32be", "uvarint", "none"), help="default: uvarint")
    requesting.set_defaults(call=_request, timed=True)


def _request(args: argparse.Namespace) -> Asked:
    return "request", {
        "peerId": args.peer,
        "protocol": args.protocol,
        "data": as_base64(args.text),
        **given(args, framing="framing"),
    }


def _add_announce(command: Command) -> None:
    announcing = command("announce", "announce in the DHT what this node serves, now and regularly")
    announcing.add_argument("capabilities", metavar="NAME", nargs="+", help="what it serves, such as a model's name")
    announcing.add_argument(
        "--metadata", type=arguments.params, metavar="JSON", help="an object that other nodes can read"
    )
    announcing.set_defaults(
        call=lambda args: ("fabstir.announce", given(args, capabilities="capabilities", metadata="metadata")),
        timed=True,
    )
    withdrawing = command("withdraw", "stop announcing what this node serves")
    withdrawing.add_argument("capabilities", metavar="NAME", nargs="+", help="an announced name")
    withdrawing.set_defaults(call=lambda args: ("fabstir.withdraw", {"capabilities": args.capabilities}))


def _add_discover(command: Command) -> None:
    discovering = command("discover", "find nodes that serve a model, best first")
    discovering.add_argument("model", metavar="MODEL", help="its name")
    discovering.add_argument("--max-price", metavar="N", help="an integer per token, in the nodes' unit")
    discovering.add_argument(
        "--max-latency", type=arguments.duration, metavar="TIME", help="such as 50ms, measured from this node"
    )
    discovering.add_argument("--min-reputation", type=arguments.real, metavar="N", help="0 to 100, as nodes state it")
    discovering.add_argument("--refresh", action="store_true", help="search even if a result is cached")
    discovering.set_defaults(call=_discover, timed=True)


def _discover(args: argparse.Namespace) -> Asked:
    filters = given(args, max_price="maxPrice", max_latency="maxLatency", min_reputation="minReputation")
    params = {"model": args.model, **({"filters": filters} if filters else {})}
    return "fabstir.discover", params | ({"forceRefresh": True} if args.refresh else {})
