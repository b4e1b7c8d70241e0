"""Parsers of ``fabstir``'s arguments: durations, sizes, conditions, JSON … Each raises `ArgumentTypeError`."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
LONGEST = 2**53 - 1  # ms
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
LARGEST = 2**53 - 1  # bytes
EXAMPLES = "500ms, 5s, 2m, 1h or 30d"
EXAMPLE_ID = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
_HOST_AND_PORT = re.compile(r"(?:([a-z]+)://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})(?:/\S*)?")
CONDITIONS = "ready, started, stopped, peers=N (at least N; peers=0: none) or peer=ID"


@dataclass(frozen=True, slots=True)
class Timeout:
    """``milliseconds`` is None for a bare number, which only `wait` accepts, as ``seconds``."""

    text: str
    milliseconds: int | None
    seconds: float


def duration(text: str) -> int:
    """Milliseconds, at least 1, from a number with a unit."""
    found = _milliseconds(text)
    if found is None or found < 1:
        raise argparse.ArgumentTypeError(refusal(text))
    return found


def timeout(text: str) -> Timeout:
    """A duration, or a bare number; the command decides whether it accepts that."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9}", text):
        return Timeout(text, None, float(text))
    found = _milliseconds(text)
    if found is None:
        raise argparse.ArgumentTypeError(refusal(text))
    return Timeout(text, found, found / 1000)


def refusal(text: str) -> str:
    """What is wrong with a duration, and what would be right."""
    bare = re.fullmatch(r"[0-9]{1,16}(\.[0-9]+)?", text)
    hint = f"; add a unit, such as {text}s" if bare else ""
    return f"{text!r} is not a duration such as {EXAMPLES}{hint}"


def _milliseconds(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)(ms|[smhdw])", text)
    if match is None:
        return None
    found = round(float(match[1]) * UNITS[match[2]])
    return found if found <= LONGEST else None


def size(text: str) -> int:
    """Bytes, from a number with or without a unit."""
    match = re.fullmatch(r"([0-9]{1,12})(B|[KMG]i?B)?", text)
    found = LARGEST + 1 if match is None else int(match[1]) * BYTES[match[2] or "B"]
    if found > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512KiB, 100MiB or 1GB")
    return found


def number(text: str) -> int:
    """An integer, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 0 or more")
    return int(text)


def integer(text: str) -> int:
    """An integer that the daemon accepts."""
    if not re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at most 15 digits")
    return int(text)


def real(text: str) -> float:
    """A number, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return float(text)


def address(text: str) -> str:
    """A multiaddr or a peer id, which the daemon checks. Other common notations are refused with the correct one."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        return text
    scheme, host, port = match[1], match[2].strip("[]"), match[3]
    kind = "ip6" if ":" in host else "ip4" if re.fullmatch(r"[0-9.]+", host) else "dns"
    over = {"ws": "/ws", "http": "/ws", "wss": "/tls/ws", "https": "/tls/ws"}.get(scheme or "", "")
    like = f"/{kind}/{host}/tcp/{port}{over}/p2p/PEERID"
    raise argparse.ArgumentTypeError(
        f"{_cut(text)} is not a multiaddr; it would look like {like}, with the id that `fabstir id` prints on that host"
    )


def peer(text: str) -> str:
    """A peer id, which the daemon checks. A host and port is refused with an example."""
    if _HOST_AND_PORT.fullmatch(text) is None:
        return text
    raise argparse.ArgumentTypeError(
        f"{_cut(text)} is not a peer id such as {EXAMPLE_ID}; `fabstir peers --ids` prints those of connected peers"
    )


def names(text: str) -> list[str]:
    """A comma-separated list."""
    return [name for name in text.split(",") if name]


def condition(text: str) -> str:
    """A condition for `wait`; a peer id in it is normalised, as in events."""
    name, _, value = text.partition("=")
    if name == "peer" and value:
        from fabstir_client.cli.addresses import normal_peer_id

        if (peer_id := normal_peer_id(re.sub("^/(p2p|ipfs)/", "", value))) is None:
            raise argparse.ArgumentTypeError(f"{_cut(value)} is not a peer id such as {EXAMPLE_ID}")
        return f"peer={peer_id}"
    valid = name == "peers" and re.fullmatch(r"[0-9]{1,9}", value)
    if text not in ("ready", "started", "stopped") and not valid:
        raise argparse.ArgumentTypeError(f"no such condition: {text!r}; it must be {CONDITIONS}")
    return text


def params(text: str) -> Any:
    """Parameters of a call: a JSON object or array."""
    import msgspec

    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{_cut(text)} is not JSON: {error}") from error
    if not isinstance(value, dict | list):
        raise argparse.ArgumentTypeError(f"parameters must be a JSON object or array, not {_cut(text)}")
    return value


def _cut(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:100]!r}…"
