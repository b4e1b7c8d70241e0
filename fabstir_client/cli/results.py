"""How ``fabstir`` prints the result of each method. The results are plain JSON values, so those of a newer daemon can
be printed too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabstir_client.cli import fitting
from fabstir_client.cli.format import as_text, clean, counted, duration, instant, pairs, readable, second, table

TIMELINE = 20  # newest entries that `explain` prints


def show(command: str, result: Any) -> str:
    """The result of ``command`` as text."""
    return readable(_SHOWN.get(command, as_text), result)


def failed(method: str, result: Any) -> str | None:
    """Why a command had no effect although the call succeeded, in words; None if it had an effect."""
    fields, words = _NOTHING_DONE.get(method, ((), ""))
    if not fields or not isinstance(result, dict) or any(result.get(name, True) not in (False, []) for name in fields):
        return None
    return words.format(clean(result.get("target") or result.get("name") or ""))


# Methods whose result may say that there was nothing to do: the fields that say so together, and the words
_NOTHING_DONE: dict[str, tuple[tuple[str, ...], str]] = {
    "token.revoke": (("revoked",), "there is no token {}"),
    "peer.unban": (("unbanned",), "{} was not banned"),
    "peer.forget": (("addresses",), "nothing was kept"),
    "dht.forget": (("provided", "value"), "nothing was announced under the key"),
    "fabstir.withdraw": (("capabilities",), "none of it was announced"),
}


def state_of(status: dict[str, Any]) -> list[tuple[str, Any]]:
    """The first rows of a node's status: its state, what is wrong, and its peer id."""
    state = status["state"]
    if status.get("uptime") is not None:
        state += f", for {duration(status['uptime'])}"
    rows: list[tuple[str, Any]] = [("state", state)]
    if status.get("error"):
        rows.append(("error", status["error"]))
    return [*rows, ("peer id", status["peerId"])]


def _status(status: dict[str, Any]) -> str:
    rows = state_of(status)
    rows += [
        ("peers", f"{status['peers']} ({counted(status['connections'], 'connection')})"),
        ("bootstrap", status["bootstrapNodes"]),
        ("listening", status["listenAddresses"]),
        ("daemon", f"version {status['version']}, run {status['epoch']}, {counted(status['head'], 'event')}"),
    ]
    return pairs(rows)


def ordered(peers: list[dict[str, Any]], by: str, *, reverse: bool) -> list[dict[str, Any]]:
    """Peers sorted by one of the keys of ``peers --sort``; those without a value come last."""

    def value(peer: dict[str, Any]) -> Any:
        if by == "streams":
            return -sum(connection.get("streams", 0) for connection in peer.get("connections") or ())
        return peer.get({"since": "connectedAt", "peer": "peerId", "agent": "agentVersion"}.get(by, by))

    known = sorted((peer for peer in peers if value(peer) is not None), key=value, reverse=reverse)
    return [*known, *(peer for peer in peers if value(peer) is None)]


def _peers(peers: list[dict[str, Any]]) -> str:
    if not peers:
        return "no peers"
    rows = []
    narrow = fitting.columns() is not None
    for peer in peers:
        connections = peer.get("connections") or [{}]
        latency = peer.get("latency")
        marks = [name for name in ("bootstrap", "protected") if peer.get(name)]
        rows.append(
            (
                peer["peerId"],
                {"inbound": "in", "outbound": "out"}.get(peer["direction"], "-") if narrow else peer["direction"],
                _since(peer["connectedAt"]) if narrow else second(peer["connectedAt"]),
                "-" if latency is None else f"{latency:.1f} ms",
                peer.get("agentVersion") or "-",
                connections[0].get("address", "-") + (f" (+{len(connections) - 1})" if len(connections) > 1 else ""),
                ",".join(marks) or "-",
            )
        )
    when = ("DIR", "UP") if narrow else ("DIRECTION", "SINCE")
    return table(("PEER", *when, "LATENCY", "AGENT", "ADDRESS", "MARKS"), rows)


def _since(milliseconds: int) -> str:
    import time

    return duration(max(0, time.time() * 1000 - milliseconds))


def _addresses(addresses: dict[str, Any]) -> str:
    names = (("peerId", "peer id"), ("listen", "listening"), ("announced", "announced"), ("observed", "observed"))
    known = [_reachability(entry) for entry in addresses.get("reachability", [])]
    mapping = [("mapping", _port_mapping(addresses["portMapping"]))] if "portMapping" in addresses else []
    shown = pairs([*((name, addresses[key]) for key, name in names), ("reachable?", known), *mapping])
    complete = all(address in shown for key in ("listen", "announced", "observed") for address in addresses[key])
    return shown if complete else f"{shown}\n\n(each ends with /p2p/ and the peer id; --wide shows complete addresses)"


def _reachability(entry: dict[str, Any]) -> str:
    """The state of an address, the number of servers that confirmed it, and how it is known, which an older daemon does
    not say."""
    count = entry.get("confirmedBy", 0)
    state = f"{entry.get('reachable', entry['state'])}" + (f" by {count}" if count else "")
    known = f" ({', '.join(entry['from'])})" if entry.get("from") else ""
    return f"{state}  {entry['address']}{known}"


def _port_mapping(mapping: dict[str, Any]) -> str:
    words = str(mapping["state"]) + (f", by {mapping['method']}" if "method" in mapping else "")
    words += f", at the router {mapping['gateway']}" if "gateway" in mapping else ""
    return words + (f": {mapping['reason']}" if "reason" in mapping else "")


def _metrics(metrics: dict[str, Any]) -> str:
    def value(key: str, given: Any) -> Any:
        if key == "uptime":
            return duration(given)
        return instant(given) if key == "startTime" else given

    return pairs((key, value(key, given)) for key, given in metrics.items())


def _connected(result: dict[str, Any]) -> str:
    verb = "already connected to" if result["alreadyConnected"] else "connected to"
    return fitting.sentence(
        f"{verb} {clean(result['peerId'])} at {clean(result['address'])} ({clean(result['direction'])})"
    )


def _disconnected(result: dict[str, Any]) -> str:
    return f"disconnected from {clean(result['peerId'])}: {counted(result['closed'], 'connection')} closed"


def _ping(result: dict[str, Any]) -> str:
    return f"{clean(result['peerId'])} answered in {result['rtt']:.2f} ms"


def _announced(result: dict[str, Any]) -> str:
    lines = []
    for key in result["keys"]:
        name = f"{clean(key['capability'])} ({clean(key['scheme'])})"
        lines.append(f"{name}: sent to {counted(key['sent'], 'peer')}, confirmed by {key['confirmed']}")
    if result.get("stored") is not None:
        lines.append(f"metadata: stored at {counted(result['stored'], 'peer')}")
    return "\n".join(lines)


def _withdrawn(result: dict[str, Any]) -> str:
    names = ", ".join(clean(name) for name in result["capabilities"])
    return f"no longer announced: {names}{', and the metadata' if result['metadata'] else ''}"


def _discovered(result: dict[str, Any]) -> str:
    rows = [
        (
            node["peerId"],
            "-" if node.get("reputation") is None else f"{node['reputation']:g}",
            "-" if node.get("latency") is None else f"{node['latency']:.1f} ms",
            node.get("pricePerToken") or "-",
            "node" if node["byOwner"] else "others" if node.get("metadata") else "-",
            node["addresses"][0] if node["addresses"] else "-",
        )
        for node in result["nodes"]
    ]
    head = ("NODE", "REPUTATION", "LATENCY", "PRICE", "METADATA", "ADDRESS")
    words = {"filtered": "left out by filters", "malformed": "skipped because of malformed metadata"}
    notes = [f"{result[key]} {text}" for key, text in words.items() if result[key]]
    if result["cached"]:
        notes.append(f"cached {duration(result['age'])} ago")
    if not result["complete"]:
        notes.append("incomplete: the timeout ended the search")
    shown = table(head, rows) if rows else f"no node serves {clean(result['model'])}"
    return shown + (f"\n({'; '.join(notes)})" if notes else "")


def _answer(result: dict[str, Any]) -> str:
    """The answer as text, line by line; base64 if it is not text."""
    import base64

    try:
        text = base64.b64decode(result["data"]).decode()
    except UnicodeDecodeError:
        return clean(result["data"])
    return "\n".join(clean(line) for line in text.removesuffix("\n").split("\n"))


def _explain(explanation: dict[str, Any]) -> str:
    """The summary first, then the facts behind it."""
    lines = [fitting.sentence(clean(explanation["summary"])), ""]
    ban = explanation.get("ban")
    marks = [name for name in ("bootstrap", "kept", "protected") if explanation.get(name)]
    marks += [f"{name}={value}" for name, value in explanation["tags"].items()]
    rows: list[tuple[str, Any]] = [("peer id", explanation.get("peerId", "-")), ("marks", ", ".join(marks) or "-")]
    if ban:
        rows.append(("banned", _until(ban)))
    if explanation.get("tunnels"):
        rows.append(("wanted by tunnels", ", ".join(explanation["tunnels"])))
    lines.append(pairs(rows))
    if explanation["connections"]:
        connections = [
            (connection["direction"], second(connection["openedAt"]), connection["address"])
            for connection in explanation["connections"]
        ]
        lines += ["", table(("CONNECTION", "SINCE", "ADDRESS"), connections)]
    if explanation["addresses"]:
        addresses = [
            (
                known["address"],
                known["source"],
                known.get("state", "-"),
                second(known["nextDial"]) if known.get("nextDial") else "-",
                known.get("lastError", "-"),
            )
            for known in explanation["addresses"]
        ]
        lines += ["", table(("ADDRESS", "FROM", "STATE", "NEXT DIAL", "LAST ERROR"), addresses)]
    if explanation["timeline"]:
        timeline = [
            (instant(entry["time"]), entry["what"].replace("_", " "), entry.get("detail", ""), entry.get("address", ""))
            for entry in explanation["timeline"][-TIMELINE:]
        ]
        lines += ["", table(("TIME", "WHAT", "DETAIL", "ADDRESS"), timeline)]
    return "\n".join(lines)


def _until(ban: dict[str, Any]) -> str:
    until = f"until {second(ban['until'])}" if ban.get("until") else "for good"
    return until + (f": {clean(ban['reason'])}" if ban.get("reason") else "")


def _bans(bans: list[dict[str, Any]]) -> str:
    return table(("TARGET", "BANNED"), [(ban["target"], _until(ban)) for ban in bans]) if bans else "no bans"


def _banned(result: dict[str, Any]) -> str:
    closed = counted(result["closed"], "connection")
    return fitting.sentence(f"{clean(result['ban']['target'])} banned {_until(result['ban'])}; {closed} closed")


def _unbanned(result: dict[str, Any]) -> str:
    return f"{clean(result['target'])} is no longer banned"


def _kept(result: dict[str, Any]) -> str:
    return fitting.sentence(f"keeping {clean(result['address'])}")


def _forgotten(result: dict[str, Any]) -> str:
    return "\n".join(fitting.sentence(f"no longer keeping {clean(address)}") for address in result["addresses"])


def _tagged(result: dict[str, Any]) -> str:
    return pairs([("peer id", result["peerId"]), ("tags", result["tags"]), ("protected", result["protected"])])


def _version(result: dict[str, Any]) -> str:
    return pairs(result.items())


def _shutdown(_: Any) -> str:
    return "the daemon is stopping"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "status": _status,
    "start": _status,
    "stop": _status,
    "peers": _peers,
    "addresses": _addresses,
    "metrics": _metrics,
    "connect": _connected,
    "disconnect": _disconnected,
    "ping": _ping,
    "request": _answer,
    "announce": _announced,
    "withdraw": _withdrawn,
    "discover": _discovered,
    "explain": _explain,
    "keep": _kept,
    "forget": _forgotten,
    "ban": _banned,
    "unban": _unbanned,
    "bans": _bans,
    **dict.fromkeys(("tag", "untag", "protect", "unprotect"), _tagged),
    "version": _version,
    "shutdown": _shutdown,
}
