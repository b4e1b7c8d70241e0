"""The check of each key: value -> value as stored, or ValueError with one message for each mistake."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import Any

from fabstird.config.tunnels import rule

LARGEST = 2**53 - 1  # every JSON parser, and float arithmetic, hold integers up to here exactly
MAX_RELAYS = 8  # reservations that a node may have
SHOWN = 200  # characters of a wrong value that are quoted
MULTIADDR_PREFIXES = ("/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/dnsaddr/")
Check = Callable[[Any], Any]


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def integer(low: int, what: str) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"must be {what}, not {_shown(value)}")
        if value > LARGEST:
            raise ValueError(f"must be {what}, and {LARGEST} at most")
        return value

    return check


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be an array of strings, not {_shown(value)}")
    return tuple(value)


def _each(value: Any, normal: Callable[[str], str]) -> tuple[str, ...]:
    """An array of strings, each normalised by ``normal``, without duplicates."""
    found: dict[str, None] = {}
    mistakes = []
    for item in _strings(value):
        try:
            found[normal(item)] = None
        except ValueError as error:
            mistakes.append(f"{_shown(item)}: {error}")
    if mistakes:
        raise ValueError(*mistakes)
    return tuple(found)


def hosts(value: Any) -> tuple[str, ...]:
    """Host names and IP addresses without a port, in the form of `host_name`."""
    return _each(value, host_name)


def origins(value: Any) -> tuple[str, ...]:
    """Origins as browsers send them."""
    return _each(value, origin)


def host_name(text: str) -> str:
    """The host of a ``Host`` header or of an allow-list entry, in the one form in which they are compared: lower case,
    an IP address in its shortest form without brackets, no port, no trailing dot. Raises ValueError."""
    if "*" in text:
        raise ValueError("there are no wildcards: name each host")
    if "://" in text:
        raise ValueError("a host has no scheme: leave out what is before it")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass  # a name, or something with a port
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/?#@\s]+))(?::[0-9]{0,5})?/?", text.strip())
    if match is None:
        raise ValueError("is no host: a name or an IP address")
    if match[1]:
        try:
            return str(ipaddress.IPv6Address(match[1]))
        except ValueError:
            raise ValueError("is no IPv6 address") from None
    name = match[2].rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        # Browsers send internationalised names in their ASCII form
        return name if name.isascii() and name else name.encode("idna").decode()
    except UnicodeError:
        raise ValueError("is no host: a name or an IP address") from None


_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://((?:\[[^\[\]]+\]|[^\[\]:/?#@\s]+))(?::([0-9]{1,5}))?/?")
_STANDARD_PORTS = {"http": "80", "https": "443"}


def origin(text: str) -> str:
    """An ``Origin`` header or an allow-list entry, as browsers write it. Raises ValueError."""
    if "*" in text:
        raise ValueError("there are no wildcards: name each origin")
    if text.strip().lower() == "null":
        raise ValueError("is what any sandboxed page and any file sends: it names nobody")
    match = _ORIGIN.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be scheme://host or scheme://host:port, such as http://localhost:3000")
    scheme, host, port = match[1].lower(), host_name(match[2]), match[3]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port and port != _STANDARD_PORTS.get(scheme) else "")


def tunnel_rules(value: Any) -> tuple[str, ...]:
    """The rules for tunnels' targets, as `tunnels.rule` parses them."""
    texts = _strings(value)
    wrong = []
    for text in texts:
        try:
            rule(text)
        except ValueError as error:
            wrong.append(f'"{text}": {error}')
    if wrong:
        raise ValueError(*wrong)
    return texts


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {_shown(value)}")
        return str(value)

    return check


def some_of(*choices: str) -> Check:
    """An array of at least one of these words, without duplicates. Their order matters."""

    def check(value: Any) -> tuple[str, ...]:
        texts = tuple(dict.fromkeys(_strings(value)))
        if not texts or not set(texts) <= set(choices):
            raise ValueError(f"must be an array with one or more of {', '.join(choices)}, not {_shown(value)}")
        return texts

    return check


def multiaddrs(what: str, *, with_peer: bool = False) -> Check:
    """An array of multiaddrs, without duplicates. An address that is well-formed but cannot be dialled is no mistake
    here; it is reported as an event."""

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be an array of multiaddrs, not {_shown(value)}")
        wrong = [problem for item in value if (problem := _multiaddr_problem(what, item, with_peer))]
        if wrong:
            raise ValueError(*wrong)
        return tuple(dict.fromkeys(value))

    return check


def relays(value: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = multiaddrs("relay", with_peer=True)(value)
    nameless = [text for text in found if "/p2p/" not in text]
    if nameless:
        raise ValueError(*(f'invalid relay "{text}": must name the peer: …/p2p/<peer id>' for text in nameless))
    if len(found) > MAX_RELAYS:
        raise ValueError(f"must be {MAX_RELAYS} relays at most, not {len(found)}")
    return found


def _multiaddr_problem(what: str, value: Any, with_peer: bool) -> str | None:
    if not isinstance(value, str) or not value.startswith(MULTIADDR_PREFIXES) or not _printable(value):
        prefixes = " ".join(MULTIADDR_PREFIXES)
        return f"invalid {what} {_quoted(value)}: must be a multiaddr that begins with one of {prefixes}"
    if with_peer and "/p2p/" not in value and not value.startswith("/dnsaddr/"):
        return f'invalid {what} "{value}": must name the peer: {value.rstrip("/")}/p2p/<peer id>'
    return None


def _quoted(value: Any) -> str:
    return _shown(value if isinstance(value, str) else str(_shown(value)))


def _printable(text: str) -> bool:
    """Whether a text has no NUL, which neither paths nor addresses may have, no character that would break a line of
    output, and no lone surrogate."""
    return text.isprintable()


def _is_path(value: str) -> bool:
    """Whether a path is absolute and can be passed to the kernel: in a C locale not every text can."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return value.startswith("/") and _printable(value)


def ipc(value: Any) -> str:
    if not isinstance(value, str) or not (value in ("", "auto") or _is_path(value)):
        raise ValueError(f'must be an absolute path, "auto", or "" for none, not {_shown(value)}')
    return value


def path(value: Any) -> str:
    if not isinstance(value, str) or not (value == "" or _is_path(value)):
        raise ValueError(f'must be an absolute path, or "" for none, not {_shown(value)}')
    return value


def networks(value: Any) -> tuple[str, ...]:
    """IP addresses and networks in CIDR notation."""
    return _each(value, _network)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("is no IP address and no network such as 10.0.0.0/8") from None


def file_mode(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'must be an octal file mode such as "0660", not {_shown(value)}')
    return value


def http(value: Any) -> str:
    if value == "":
        return ""
    if isinstance(value, str) and value.startswith("unix:/") and _is_path(value.removeprefix("unix:")):
        return value
    if not isinstance(value, str) or split_host_port(value) is None:
        raise ValueError(f'must be "host:port", "[ipv6]:port", "unix:/path", or "" for none, not {_shown(value)}')
    return value


def split_host_port(text: str) -> tuple[str, int] | None:
    """``127.0.0.1:4780`` or ``[::1]:4780`` as ``(host, port)``; None where it is neither, or no resolver accepts it."""
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]\s]+)\]|(?P<host>[^\[\]:/?#@\s]+)):(?P<port>[0-9]{1,5})", text)
    if match is None or int(match["port"]) > 65535:
        return None
    try:
        (match["host"] or "").encode("idna")
    except UnicodeError:  # a label that is empty or longer than 63 bytes
        return None
    if match["six"] is not None:
        try:
            ipaddress.IPv6Address(match["six"])
        except ValueError:
            return None
    return match["six"] or match["host"], int(match["port"])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = f'"{value}"' if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # an integer of 5,000 digits, a thousand nested arrays
        return f"such a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


duration = integer(1, "a positive integer of milliseconds")
delay = integer(0, "an integer of milliseconds, 0 or more")
count = integer(0, "an integer, 0 or more")
size = integer(1, "a positive integer")
