"""Whom a proxy's header names: each form, each way to be cut short or wrong, and forged entries of people."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest

from fabstird.p2p.transport.proxied import MAX_HEADER, SIGNATURE, forwarded, version_1, version_2
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.ips import to_ip

TRUSTED = [ipaddress.ip_network(text) for text in ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")]


def named(host: str) -> object:
    ip = to_ip(host)
    assert ip is not None
    return ip


@pytest.mark.parametrize(
    ("line", "behind"),
    [
        (b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n", ("203.0.113.9", 4711)),
        (b"PROXY TCP6 2001:db8::9 ::1 65535 443\r\n", ("2001:db8::9", 65535)),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 443\r\n", ("203.0.113.9", 1)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN a b c d\r\n", None),
    ],
)
def test_version_1(line: bytes, behind: tuple[str, int] | None) -> None:
    wanted = (named(behind[0]), behind[1]) if behind else None
    assert version_1(line + b"\x13/multistream") == (len(line), wanted)
    for size in range(1, len(line)):
        assert version_1(line[:size]) is None


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 65536 443\r\n",
        b"PROXY TCP4 203.0.113.9 127.0.0.1 -1 443\r\n",
        b"PROXY TCP4 example.org 127.0.0.1 1 443\r\n",
        b"PROXY TCP4 203.0.113.9 127.0.0.1 1\r\n",
        b"PROXY UDP4 203.0.113.9 127.0.0.1 1 443\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PROXY " + b"x" * 200,
        b"PROXZ",
    ],
)
def test_what_is_no_version_1(line: bytes) -> None:
    with pytest.raises(PeerError):
        version_1(line)


def header(family: int, rest: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


ENDS_4 = bytes((203, 0, 113, 9, 127, 0, 0, 1)) + struct.pack("!HH", 4711, 443)
ENDS_6 = ipaddress.ip_address("2001:db8::9").packed + bytes(16) + struct.pack("!HH", 1, 443)


@pytest.mark.parametrize(
    ("data", "behind"),
    [
        (header(0x11, ENDS_4), ("203.0.113.9", 4711)),
        (header(0x11, ENDS_4 + b"\xe0\x00\x03abc"), ("203.0.113.9", 4711)),
        (header(0x21, ENDS_6), ("2001:db8::9", 1)),
        (header(0x00, b""), None),
        (header(0x31, bytes(216)), None),
        (header(0x11, ENDS_4, 0x20), None),
    ],
    ids=["IPv4", "with an entry", "IPv6", "unknown", "unix", "local"],
)
def test_version_2(data: bytes, behind: tuple[str, int] | None) -> None:
    wanted = (named(behind[0]), behind[1]) if behind else None
    assert version_2(data + b"more") == (len(data), wanted)
    for size in range(1, len(data)):
        assert version_2(data[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        header(0x11, ENDS_4[:-1]),
        header(0x11, ENDS_4, 0x31),
        header(0x11, bytes(MAX_HEADER + 1)),
        header(0x11, ENDS_4, 0x2F),
        b"\r\n\r\n\0\r\nquit\n",
    ],
    ids=["cut", "version 3", "too long", "no command", "no signature"],
)
def test_what_is_no_version_2(data: bytes) -> None:
    with pytest.raises(PeerError):
        version_2(data)


@pytest.mark.parametrize(
    ("lines", "behind"),
    [
        (["X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for:203.0.113.9:4711 "], "203.0.113.9"),
        (["X-Forwarded-For: [2001:db8::9]:4711"], "2001:db8::9"),
        (["X-Forwarded-For: 2001:db8::9"], "2001:db8::9"),
        (["X-Forwarded-For: 192.0.2.1, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["X-Forwarded-For: 192.0.2.1", "Host: x", "X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        (["X-Forwarded-For: 203.0.113.9, unknown"], None),
        (["X-Forwarded-For: 10.0.0.1, 127.0.0.1"], None),
        (["X-Forwarded-For:"], None),
        (["Forwarded: for=203.0.113.9"], None),
        (["X-Forwarded-For: 203.0.113.9" + ", 10.0.0.1" * 40], None),
        ([], None),
    ],
)
def test_the_last_who_is_no_trusted_proxy_counts(lines: list[str], behind: str | None) -> None:
    head = "\r\n".join(["GET / HTTP/1.1", *lines]).encode()
    assert forwarded(head, TRUSTED) == ((named(behind), 0) if behind else None)


def test_random_bytes_are_an_error_or_nothing() -> None:
    chance = random.Random(1533)
    for _ in range(2000):
        data = chance.randbytes(chance.randrange(1, 60))
        for read, begin in ((version_1, b"PROXY TCP4 "), (version_2, SIGNATURE)):
            for sent in (data, begin + data):
                try:
                    read(sent)
                except PeerError:
                    pass
        forwarded(b"GET\r\nX-Forwarded-For: " + data, TRUSTED)
