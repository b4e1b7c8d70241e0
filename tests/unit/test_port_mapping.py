"""Port mapping without a router: its messages, what is believed of them, and when a router is asked again."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given

from fabstird.p2p.nat.portmap import natpmp, pcp
from fabstird.p2p.nat.portmap.mappings import (
    FIRST_PAUSE,
    LAST_PAUSE,
    LEASE,
    LONGEST_LEASE,
    MAX_MAPPINGS,
    Grant,
    MappingError,
    Mappings,
    checked,
    wanted,
)
from fabstird.p2p.nat.portmap.methods import Pcp
from fabstird.p2p.nat.portmap.router import Router
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.ips import IP
from tests.field.test_foreign_bytes import changed

LOCAL, OUTSIDE = ipaddress.ip_address("192.168.1.2"), ipaddress.ip_address("45.32.1.1")
NONCE = bytes(range(12))
LISTENER = parse("/ip4/192.168.1.2/tcp/4001")
GRANT = Grant(4001, OUTSIDE, 4001, LEASE, "pcp")


# --------------------------------------------------------------------------------------------------------------------
# NAT-PMP (RFC 6886)


def test_nat_pmp_as_it_stands_on_the_wire() -> None:
    assert natpmp.ADDRESS_REQUEST.hex() == "0000"
    assert natpmp.map_request(4001, 4002, 1200) == bytes.fromhex("0002 0000 0fa1 0fa2 000004b0")
    assert natpmp.map_request(4001, 0, 0) == bytes.fromhex("0002 0000 0fa1 0000 00000000")
    assert natpmp.read_address(bytes.fromhex("0080 0000 00000010 2d200101")) == OUTSIDE
    told = natpmp.read_mapped(bytes.fromhex("0082 0000 00000010 0fa1 0fa2 000004b0"), 4001)
    assert told == natpmp.Mapped(4002, 1200)


def test_nat_pmp_answers_to_something_else_are_none() -> None:
    assert natpmp.read_mapped(bytes.fromhex("0082 0000 00000010 0fa2 0fa2 000004b0"), 4001) is None
    assert natpmp.read_mapped(bytes.fromhex("0080 0000 00000010 2d200101"), 4001) is None
    assert natpmp.read_address(bytes.fromhex("0000")) is None
    assert natpmp.read_address(bytes.fromhex("0080 0000 00000010 2d2001")) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("0082 0002 00000010", "not allowed"),
        ("0082 0003 00000010 0fa1 0000 00000000", "no public address"),
        ("0082 0004", "no room"),
        ("0082 0063", "code 99"),
        ("0280 0001 00000000", "another version"),
    ],
)
def test_nat_pmp_refusals_in_words(answer: str, words: str) -> None:
    with pytest.raises(MappingError, match=words):
        natpmp.read_mapped(bytes.fromhex(answer), 4001)


# --------------------------------------------------------------------------------------------------------------------
# PCP (RFC 6887)


def answer(
    *, result: int = 0, lease: int = 1200, nonce: bytes = NONCE, port: int = 4001, external: IP = OUTSIDE
) -> bytes:
    packed = external.packed if external.version == 6 else bytes(10) + b"\xff\xff" + external.packed
    head = struct.pack(">BBBBII12x", 2, 0x81, 0, result, lease, 7)
    return head + struct.pack(">12sB3xHH16s", nonce, 6, port, 4002, packed)


def test_pcp_as_it_stands_on_the_wire() -> None:
    request = pcp.map_request(LOCAL, 4001, 4002, 1200, NONCE)
    assert request == bytes.fromhex(
        "02 01 0000 000004b0 00000000000000000000ffffc0a80102"
        "000102030405060708090a0b 06 000000 0fa1 0fa2 00000000000000000000ffff00000000"
    )
    assert pcp.read_mapped(answer(), 4001, NONCE) == pcp.Mapped(OUTSIDE, 4002, 1200)
    six = ipaddress.ip_address("2600::1")
    assert pcp.map_request(six, 1, 0, 0, NONCE)[8:24] == six.packed


@pytest.mark.parametrize(
    "stray",
    [
        answer(nonce=bytes(12)),
        answer(nonce=bytes(12), result=2),
        answer(port=4002),
        answer()[:-4],
        answer()[:4],
        answer()[:-1],
        answer() + bytes(2000),
        pcp.map_request(LOCAL, 4001, 4001, 1200, NONCE),
        b"",
    ],
)
def test_pcp_answers_to_something_else_are_none(stray: bytes) -> None:
    assert pcp.read_mapped(stray, 4001, NONCE) is None


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (answer(result=2), "not allowed"),
        (answer(result=12)[:24], "another router lies between"),
        (answer(result=200), "code 200"),
        (bytes.fromhex("0081 0001 00000007"), "another version"),
    ],
)
def test_pcp_refusals_in_words(refusal: bytes, words: str) -> None:
    with pytest.raises(MappingError, match=words):
        pcp.read_mapped(refusal, 4001, NONCE)


REAL = bytes.fromhex("0082 0000 00000010 0fa1 0fa2 000004b0")


@given(changed(REAL) | changed(answer()))
def test_whatever_a_router_answers_it_is_taken_or_one_error(data: bytes) -> None:
    for read in (
        lambda: natpmp.read_address(data),
        lambda: natpmp.read_mapped(data, 4001),
        lambda: pcp.read_mapped(data, 4001, NONCE),
    ):
        with suppress(MappingError):
            read()


def test_a_nonce_is_the_node_s_own_and_stays_when_it_is_started_again() -> None:
    """A node that was killed can renew what it had; a router refuses who has another nonce."""
    router = Router(ipaddress.ip_address("192.168.1.1"), LOCAL)
    first, again, other = Pcp(router, b"a" * 32), Pcp(router, b"a" * 32), Pcp(router, b"b" * 32)
    assert first._nonce(4001) == again._nonce(4001)
    assert len({first._nonce(4001), first._nonce(4002), other._nonce(4001)}) == 3


# --------------------------------------------------------------------------------------------------------------------
# What is believed


@pytest.mark.parametrize(
    ("external", "words"),
    [
        ("0.0.0.0", "no external address"),
        ("::", "no external address"),
        ("127.0.0.1", "leads nowhere"),
        ("::ffff:127.0.0.1", "leads nowhere"),
        ("224.0.0.1", "leads nowhere"),
        ("255.255.255.255", "leads nowhere"),
        ("169.254.169.254", "leads nowhere"),
        ("ff02::1", "leads nowhere"),
        ("fe80::1", "leads nowhere"),
    ],
)
def test_an_external_address_that_is_none_is_refused(external: str, words: str) -> None:
    with pytest.raises(MappingError, match=words):
        checked(replace(GRANT, external=ipaddress.ip_address(external)))


def test_a_port_0_and_a_lease_of_a_moment_are_refused_and_one_of_years_is_cut() -> None:
    with pytest.raises(MappingError, match="no external port"):
        checked(replace(GRANT, external_port=0))
    for lease in (0, 59):
        with pytest.raises(MappingError, match=f"grants {lease} s"):
            checked(replace(GRANT, lease=lease))
    assert checked(replace(GRANT, lease=2**32 - 1)).lease == LONGEST_LEASE
    assert checked(replace(GRANT, lease=None)).lease is None
    assert checked(GRANT) == GRANT
    private = replace(GRANT, external=ipaddress.ip_address("100.64.1.2"))
    assert checked(private) == private


def test_only_listeners_in_the_router_s_network_are_mapped() -> None:
    listening = ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"]
    assert wanted(listening, LOCAL) == []
    listening += ["/ip4/192.168.1.2/tcp/2", "/ip4/10.0.0.1/tcp/3", "/ip4/192.168.1.2/tcp/4/ws", "/ip6/fd00::1/tcp/5"]
    assert [str(one) for one in wanted(listening, LOCAL)] == ["/ip4/192.168.1.2/tcp/2", "/ip4/192.168.1.2/tcp/4/ws"]
    many = [f"/ip4/192.168.1.2/tcp/{port}" for port in range(1, 100)]
    assert len(wanted(many, LOCAL)) == MAX_MAPPINGS
    both = ["/ip4/192.168.1.2/tcp/2", "/ip4/192.168.1.2/udp/2/quic-v1"]
    assert [str(one) for one in wanted([*both, *both], LOCAL)] == both


def test_udp_is_asked_for_and_its_answer_is_not_that_of_tcp() -> None:
    assert natpmp.map_request(4001, 4002, 1200, "udp") == bytes.fromhex("0001 0000 0fa1 0fa2 000004b0")
    told = bytes.fromhex("0081 0000 00000010 0fa1 0fa2 000004b0")
    assert natpmp.read_mapped(told, 4001, "udp") == natpmp.Mapped(4002, 1200)
    assert natpmp.read_mapped(told, 4001) is natpmp.read_mapped(REAL, 4001, "udp") is None
    request = pcp.map_request(LOCAL, 4001, 4002, 1200, NONCE, "udp")
    assert request[36] == 17
    assert pcp.map_request(LOCAL, 4001, 4002, 1200, NONCE) == request[:36] + b"\x06" + request[37:]
    udp = answer()[:36] + b"\x11" + answer()[37:]
    assert pcp.read_mapped(udp, 4001, NONCE, "udp") == pcp.Mapped(OUTSIDE, 4002, 1200)
    assert pcp.read_mapped(udp, 4001, NONCE) is pcp.read_mapped(answer(), 4001, NONCE, "udp") is None


# --------------------------------------------------------------------------------------------------------------------
# When, and what is told


def test_a_mapping_is_told_once_renewed_in_silence_and_told_again_when_it_moves() -> None:
    mappings = Mappings()
    gone, new = mappings.take(LISTENER, GRANT, 0.0)
    assert (gone, [str(one.address) for one in new]) == ([], ["/ip4/45.32.1.1/tcp/4001"])
    mappings.asked([], 0.0)
    assert mappings.next_round() == LEASE / 2
    assert mappings.take(LISTENER, GRANT, 600.0) == ([], [])
    assert mappings.held[GRANT.here].until == 600.0 + LEASE
    moved = replace(GRANT, external=ipaddress.ip_address("45.32.1.9"), external_port=5000)
    gone, new = mappings.take(LISTENER, moved, 700.0)
    assert [str(one.address) for one in (*gone, *new)] == ["/ip4/45.32.1.1/tcp/4001", "/ip4/45.32.1.9/tcp/5000"]


def test_a_websocket_listener_is_one_outside_too() -> None:
    _, [mapping] = Mappings().take(parse("/ip4/192.168.1.2/tcp/4001/ws"), GRANT, 0.0)
    assert str(mapping.address) == "/ip4/45.32.1.1/tcp/4001/ws"


def test_a_lease_that_is_not_renewed_ends_and_one_without_an_end_is_looked_after_too() -> None:
    mappings = Mappings()
    mappings.take(LISTENER, replace(GRANT, lease=100), 0.0)
    mappings.take(parse("/ip4/192.168.1.2/tcp/4002"), replace(GRANT, port=4002, lease=None), 0.0)
    mappings.asked([], 0.0)
    assert mappings.next_round() == 50.0
    assert mappings.next_end() == 100.0
    assert mappings.expire(99.0) == []
    assert [one.grant.port for one in mappings.expire(100.0)] == [4001]
    mappings.asked([], 100.0)
    assert (mappings.next_round(), mappings.next_end()) == (100.0 + LEASE / 2, None)
    assert [one.grant.port for one in mappings.keep(())] == [4002]


def test_after_failures_the_pause_doubles_and_a_new_network_begins_anew() -> None:
    mappings, pauses = Mappings(), []
    for _ in range(9):
        mappings.asked([LISTENER], 0.0)
        pauses.append(mappings.next_round())
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LAST_PAUSE
    mappings.at_once()
    mappings.asked([LISTENER], 10.0)
    assert mappings.next_round() == 10.0 + FIRST_PAUSE
    mappings.asked([], 20.0)
    assert mappings.next_round() is None


def test_a_renewal_that_fails_is_tried_often_before_the_lease_ends() -> None:
    mappings = Mappings()
    mappings.take(LISTENER, GRANT, 0.0)
    mappings.asked([], 0.0)
    now, tries = LEASE / 2, 0
    while now < LEASE:
        mappings.asked([LISTENER], now)
        due = mappings.next_round()
        assert due is not None
        assert due > now
        now, tries = due, tries + 1
    assert tries >= 4
