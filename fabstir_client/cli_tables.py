"""What ``fabstir`` prints for people. The input is results as they came, so that a newer daemon's are printed too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
TIMELINE = 20  # newest entries that `explain` prints


def show(command: str, result: Any) -> str:
    """The result of ``command`` as text."""
    return _SHOWN.get(command, _as_json)(result)


def clean(value: Any) -> str:
    """``value`` in one line, without what would steer a terminal: much of it was sent by strangers."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(milliseconds: float) -> str:
    """``3d 4h``, ``4h 5m``, ``5m 6s`` or ``6s``."""
    seconds = int(milliseconds) // 1000
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller}{smaller_unit}"
    return f"{seconds}s"


def counted(number: int, thing: str) -> str:
    """``1 peer``, ``2 peers``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def instant(milliseconds: int) -> str:
    """Local time, to the millisecond."""
    import time

    whole, rest = divmod(milliseconds, 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(whole))}.{rest:03d}"


def event_line(event: Mapping[str, Any], *, colour: bool = False) -> str:
    """One event in one line, in ``colour`` for a terminal."""
    told, kind = inline(event["data"]), f"{clean(event['type']):<20}"
    when, number = instant(event["time"]), f"{event['seq']:>5}"
    if colour:
        when, number, kind = f"{DIM}{when}{PLAIN}", f"{DIM}{number}{PLAIN}", f"{_colour(event['type'])}{kind}{PLAIN}"
    return f"{when}  {number}  {kind}  {told}".rstrip()


def _colour(kind: str) -> str:
    """Green for what came, yellow for what went or waits, red for what failed, blue for the node."""
    if kind in ("error", "connection:failed"):
        return "\x1b[31;1m"
    if kind.startswith("p2p:"):
        return "\x1b[34;1m"
    return "\x1b[32m" if kind in ("peer:connect", "peer:identify") else "\x1b[33m"


def lagged_line(missed: int | None) -> str:
    """What stands where events are missing."""
    if missed is None:
        return "-- the daemon was restarted; what it did last before that may be missing --"
    return f"-- {missed} events are missing: the daemon holds them no longer --"


def inline(value: Any) -> str:
    """Any JSON value in one line, without quotes where they are not needed."""
    if isinstance(value, list):
        return f"[{', '.join(inline(item) for item in value)}]"
    if isinstance(value, dict):
        return " ".join(f"{key}={inline(item)}" for key, item in value.items())
    text = clean(value)
    return f'"{text}"' if " " in text else text


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns under their heads, cells made `clean`."""
    lines = [tuple(head), *(tuple(clean(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values; a list or an object takes one line an element."""
    lines: list[tuple[str, str]] = []
    for name, value in rows:
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if isinstance(value, dict):
            value = [f"{key}: {inline(item)}" for key, item in value.items()]
        values = value if isinstance(value, list) else [value]
        lines += [(name if index == 0 else "", clean(item)) for index, item in enumerate(values or ["-"])]
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in lines)


def _status(status: dict[str, Any]) -> str:
    rows: list[tuple[str, Any]] = [("state", status["state"])]
    if status.get("error"):
        rows.append(("error", status["error"]))
    if status.get("uptime") is not None:
        rows.append(("up", duration(status["uptime"])))
    rows += [
        ("peer id", status["peerId"]),
        ("peers", f"{status['peers']} ({counted(status['connections'], 'connection')})"),
        ("listening", status["listenAddresses"]),
        ("bootstrap", status["bootstrapNodes"]),
        ("daemon", f"version {status['version']}, run {status['epoch']}, {status['head']} events"),
    ]
    return pairs(rows)


def ordered(peers: list[dict[str, Any]], by: str, *, reverse: bool) -> list[dict[str, Any]]:
    """Peers by one of the keys of ``peers --sort``; those that lack it come last."""

    def value(peer: dict[str, Any]) -> Any:
        if by == "streams":
            return -sum(one.get("streams", 0) for one in peer.get("connections") or ())
        return peer.get({"since": "connectedAt", "peer": "peerId", "agent": "agentVersion"}.get(by, by))

    known = sorted((peer for peer in peers if value(peer) is not None), key=value, reverse=reverse)
    return [*known, *(peer for peer in peers if value(peer) is None)]


def _peers(peers: list[dict[str, Any]]) -> str:
    if not peers:
        return "no peers"
    rows = []
    for peer in peers:
        connections = peer.get("connections") or [{}]
        latency = peer.get("latency")
        marks = [name for name in ("bootstrap", "protected") if peer.get(name)]
        rows.append(
            (
                peer["peerId"],
                peer["direction"],
                instant(peer["connectedAt"])[:19],
                "-" if latency is None else f"{latency:.1f} ms",
                peer.get("agentVersion") or "-",
                connections[0].get("address", "-") + (f" (+{len(connections) - 1})" if len(connections) > 1 else ""),
                ",".join(marks) or "-",
            )
        )
    return table(("PEER", "DIRECTION", "SINCE", "LATENCY", "AGENT", "ADDRESS", "MARKS"), rows)


def _addresses(addresses: dict[str, Any]) -> str:
    names = (("peerId", "peer id"), ("listen", "listening"), ("announced", "announced"), ("observed", "observed"))
    known = [f"{one['address']}  {one['state']}" for one in addresses.get("reachability", [])]
    return pairs([*((name, addresses[key]) for key, name in names), ("reachable?", known)])


def _metrics(metrics: dict[str, Any]) -> str:
    def value(key: str, given: Any) -> Any:
        if key == "uptime":
            return duration(given)
        return instant(given) if key == "startTime" else given

    return pairs((key, value(key, given)) for key, given in metrics.items())


def _connected(result: dict[str, Any]) -> str:
    verb = "already connected to" if result["alreadyConnected"] else "connected to"
    return f"{verb} {clean(result['peerId'])} at {clean(result['address'])} ({clean(result['direction'])})"


def _disconnected(result: dict[str, Any]) -> str:
    return f"disconnected from {clean(result['peerId'])}: {result['closed']} connections closed"


def _ping(result: dict[str, Any]) -> str:
    return f"{clean(result['peerId'])} answered in {result['rtt']:.2f} ms"


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
    head = ("NODE", "REPUTATION", "LATENCY", "PRICE", "TOLD BY", "ADDRESS")
    words = {"filtered": "left out by filters", "malformed": "skipped for malformed metadata"}
    notes = [f"{result[key]} {text}" for key, text in words.items() if result[key]]
    if result["cached"]:
        notes.append(f"remembered from {duration(result['age'])} ago")
    if not result["complete"]:
        notes.append("the search did not come to its end")
    shown = table(head, rows) if rows else f"no node serves {clean(result['model'])}"
    return shown + (f"\n({'; '.join(notes)})" if notes else "")


def _answer(result: dict[str, Any]) -> str:
    """The answer as text, line by line; what is no text stays base64."""
    import base64

    try:
        text = base64.b64decode(result["data"]).decode()
    except UnicodeDecodeError:
        return clean(result["data"])
    return "\n".join(clean(line) for line in text.removesuffix("\n").split("\n"))


def _explain(told: dict[str, Any]) -> str:
    """The answer first, then what it rests on."""
    lines = [clean(told["summary"]), ""]
    ban = told.get("ban")
    marks = [name for name in ("bootstrap", "kept", "protected") if told.get(name)]
    marks += [f"{name}={value}" for name, value in told["tags"].items()]
    rows: list[tuple[str, Any]] = [("peer id", told.get("peerId", "-")), ("marks", ", ".join(marks) or "-")]
    if ban:
        rows.append(("banned", _until(ban)))
    lines.append(pairs(rows))
    if told["connections"]:
        up = [(one["direction"], instant(one["openedAt"])[:19], one["address"]) for one in told["connections"]]
        lines += ["", table(("CONNECTION", "SINCE", "ADDRESS"), up)]
    if told["addresses"]:
        known = [
            (
                one["address"],
                one["source"],
                one.get("state", "-"),
                instant(one["nextDial"])[:19] if one.get("nextDial") else "-",
                one.get("lastError", "-"),
            )
            for one in told["addresses"]
        ]
        lines += ["", table(("ADDRESS", "FROM", "STATE", "NEXT DIAL", "LAST ERROR"), known)]
    if told["timeline"]:
        story = [
            (instant(one["time"]), one["what"].replace("_", " "), one.get("detail", ""), one.get("address", ""))
            for one in told["timeline"][-TIMELINE:]
        ]
        lines += ["", table(("TIME", "WHAT", "DETAIL", "ADDRESS"), story)]
    return "\n".join(lines)


def _until(ban: dict[str, Any]) -> str:
    until = f"until {instant(ban['until'])[:19]}" if ban.get("until") else "for good"
    return until + (f": {clean(ban['reason'])}" if ban.get("reason") else "")


def _bans(bans: list[dict[str, Any]]) -> str:
    return table(("TARGET", "BANNED"), [(ban["target"], _until(ban)) for ban in bans]) if bans else "no bans"


def _banned(result: dict[str, Any]) -> str:
    return f"{clean(result['ban']['target'])} banned {_until(result['ban'])}; {result['closed']} connections closed"


def _unbanned(result: dict[str, Any]) -> str:
    return f"{clean(result['target'])} {'is banned no more' if result['unbanned'] else 'was not banned'}"


def _kept(result: dict[str, Any]) -> str:
    return f"keeping {clean(result['address'])}"


def _forgotten(result: dict[str, Any]) -> str:
    return "\n".join(f"no longer keeping {clean(address)}" for address in result["addresses"]) or "nothing was kept"


def _tagged(result: dict[str, Any]) -> str:
    return pairs([("peer id", result["peerId"]), ("tags", result["tags"]), ("protected", result["protected"])])


def _version(result: dict[str, Any]) -> str:
    return pairs(result.items())


def _shutdown(_: Any) -> str:
    return "the daemon is stopping"


def _as_json(result: Any) -> str:
    import msgspec

    # Escaped as the wire's encoder does not: what a peer sent must not steer a terminal.
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    return "\n".join(clean(line) for line in text.split("\n"))


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
