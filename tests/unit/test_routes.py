"""Default routes out of the kernel's tables, whatever stands in them."""

from __future__ import annotations

import ipaddress
import sys

from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.wire.routes import Route, default_routes, parse
from tests.field.test_foreign_bytes import changed


def number(address: str) -> str:
    """As the kernel prints it: the bytes as an integer of this machine."""
    return f"{int.from_bytes(ipaddress.IPv4Address(address).packed, sys.byteorder):08X}"


HEADING = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
IP4 = HEADING + "".join(
    f"{interface}\t{number(to)}\t{number(by)}\t{flags}\t0\t0\t{metric}\t{number(mask)}\t0\t0\t0\n"
    for interface, to, by, flags, metric, mask in [
        ("wlan0", "0.0.0.0", "192.168.2.1", "0003", 600, "0.0.0.0"),
        ("eth0", "0.0.0.0", "192.168.1.1", "0003", 100, "0.0.0.0"),
        ("tun0", "0.0.0.0", "0.0.0.0", "0001", 700, "0.0.0.0"),
        ("tun0", "0.0.0.0", "10.8.0.1", "0003", 0, "128.0.0.0"),  # half of everything is no default route
        ("dead0", "0.0.0.0", "192.168.3.1", "0203", 0, "0.0.0.0"),
        ("eth0", "192.168.1.0", "0.0.0.0", "0001", 100, "255.255.255.0"),
    ]
)
NOWHERE, ROUTER = "0" * 32, "fe80" + "0" * 27 + "1"
IP6 = (
    f"{NOWHERE} 00 {NOWHERE} 00 {ROUTER} 00000400 00000003 00000000 00000003     eth0\n"
    f"{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 00000001 00000000 00200200       lo\n"
)


def test_the_preferred_route_of_each_version_comes_first() -> None:
    assert parse(IP4, IP6) == [
        Route("eth0", ipaddress.ip_address("192.168.1.1"), 100, 4),
        Route("wlan0", ipaddress.ip_address("192.168.2.1"), 600, 4),
        Route("tun0", None, 700, 4),
        Route("eth0", ipaddress.ip_address("fe80::1"), 1024, 6),
    ]


@given(changed(IP4.encode()), changed(IP6.encode()))
def test_a_table_of_another_form_is_skipped(ip4: bytes, ip6: bytes) -> None:
    for route in parse(ip4.decode("ascii", "replace"), ip6.decode("ascii", "replace")):
        assert route.interface != "lo"


@given(st.text(max_size=200))
def test_any_text_is_taken(text: str) -> None:
    parse(text, text)


def test_this_machine_s_can_be_read() -> None:
    assert all(route.version in (4, 6) for route in default_routes())
