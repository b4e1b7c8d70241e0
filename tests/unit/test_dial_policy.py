"""Whom this node may dial because of whose word, one form of an address, and memory that has its bounds."""

from __future__ import annotations

import pytest

from fabstird.p2p.budget import Memory
from fabstird.p2p.peers.bans import Bans
from fabstird.p2p.peers.dial_policy import (
    BURST,
    KNOWN,
    MAX_PLACES,
    NEARBY,
    SUGGESTED,
    USER,
    Attempts,
    peer_at,
    refusal,
    usable,
)
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.ips import group, reach, to_ip, to_network

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("8.8.8.8", "global"),
        ("2001:4860::8888", "global"),
        ("64:ff9b::808:808", "global"),
        ("127.9.8.7", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "private"),
        ("::ffff:192.168.1.1", "private"),
        ("fd00::1", "private"),
        ("0.0.0.0", "nowhere"),
        ("::", "nowhere"),
        ("169.254.169.254", "nowhere"),
        ("fe80::1%eth0", "nowhere"),
        ("224.0.0.251", "nowhere"),
        ("ff02::fb", "nowhere"),
        ("255.255.255.255", "nowhere"),
        ("::127.0.0.1", "nowhere"),
        ("64:ff9b::7f00:1", "nowhere"),
        ("2002:a9fe:a9fe::1", "nowhere"),
    ],
)
def test_where_an_address_leads(host: str, where: str) -> None:
    ip = to_ip(host)
    assert ip is not None
    assert reach(ip) == where


@pytest.mark.parametrize(
    ("address", "met", "allowed"),
    [
        ("/ip4/8.8.8.8/tcp/1", "8.8.4.4", True),
        ("/ip4/8.8.8.8/tcp/1", None, True),
        ("/ip4/127.0.0.1/tcp/1", "8.8.4.4", False),
        ("/ip4/127.0.0.1/tcp/1", "10.0.0.1", False),
        ("/ip4/127.0.0.1/tcp/1", None, False),
        ("/ip4/127.0.0.1/tcp/1", "127.0.0.9", True),
        ("/ip6/::ffff:127.0.0.1/tcp/1", "8.8.4.4", False),
        ("/ip4/10.0.0.5/tcp/1", "8.8.4.4", False),
        ("/ip4/10.0.0.5/tcp/1", "10.200.0.1", True),
        ("/ip4/10.0.0.5/tcp/1", "192.168.0.1", False),
        ("/ip4/10.0.0.5/tcp/1", "127.0.0.1", False),
        ("/ip6/fd00:1::5/tcp/1", "fd00:1::9", True),
        ("/ip6/fd00:1::5/tcp/1", "fd77::9", False),
        ("/ip4/0.0.0.0/tcp/1", "127.0.0.1", False),
        ("/ip4/169.254.169.254/tcp/80", "169.254.169.253", False),
        ("/ip4/224.0.0.1/tcp/1", "127.0.0.1", False),
        ("/dns4/localhost/tcp/1", "127.0.0.1", False),
        ("/dns4/LOCALHOST/tcp/1", "8.8.4.4", False),
        ("/dnsaddr/example.com", "8.8.4.4", False),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit", "8.8.4.4", False),
        (f"/dns4/relay.test/tcp/1/p2p/{PEER}/p2p-circuit", "8.8.4.4", False),
    ],
)
def test_the_word_of_a_peer(address: str, met: str | None, allowed: bool) -> None:
    text = f"{address}/p2p/{PEER}"
    assert bool(usable([text], peer_at(met))) is allowed
    assert refusal(parse(text), USER) is None, "what the user says is dialled"


def test_the_word_of_a_peer_behind_a_relay_is_that_of_somebody_anywhere() -> None:
    assert not usable([f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"], peer_at("127.0.0.1", relayed=True))


@pytest.mark.parametrize("source", [SUGGESTED, KNOWN, NEARBY])
def test_what_leads_nowhere_is_never_dialled(source: object) -> None:
    for address in ("/ip4/0.0.0.0/tcp/1", "/ip4/169.254.169.254/tcp/1", "/dns/localhost/tcp/1"):
        assert refusal(parse(address), source) is not None  # type: ignore[arg-type]
    assert refusal(parse("/ip4/10.0.0.1/tcp/1"), source) is None  # type: ignore[arg-type]


def test_suggestions_that_fail_wait_longer_each_time() -> None:
    attempts, ip = Attempts(), to_ip("8.8.8.8")
    assert ip is not None
    now, pauses = 0.0, []
    for _ in range(9):
        assert attempts.begin(ip, 1, now) is None
        attempts.failed(ip, 1, now)
        failed = now
        while attempts.begin(ip, 1, now) is not None:
            now += 1
        pauses.append(now - failed)
        now += 60
    assert pauses == sorted(pauses)
    assert pauses[0] == 15
    assert pauses[-1] == 1800
    attempts.succeeded(ip, 1)
    assert attempts.begin(ip, 1, now) is None


def test_one_address_is_dialled_so_often_whatever_its_port() -> None:
    attempts = Attempts()
    for host in ("8.8.8.8", "2001:4860::1"):
        ip = to_ip(host)
        assert ip is not None
        begun = sum(attempts.begin(ip, port, 1.0) is None for port in range(1, 1000))
        assert begun == BURST
    neighbour = to_ip("2001:4860::2")
    assert neighbour is not None
    assert attempts.begin(neighbour, 1, 1.0) is not None, "its /64 counts as one"
    assert len(attempts) <= MAX_PLACES


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/ip6/::ffff:1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1"),
        ("/ip6/0:0:0:0:0:0:0:1/tcp/1", "/ip6/::1/tcp/1"),
        ("/ip6/FE80::1%eth0/tcp/1", "/ip6/fe80::1/tcp/1"),
        ("/dns4/Example.COM/tcp/1", "/dns4/example.com/tcp/1"),
        (f"/ip4/1.2.3.4/tcp/1/ipfs/{PEER}", f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}"),
    ],
)
def test_one_form_of_an_address(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


def test_a_ban_holds_in_every_spelling() -> None:
    bans = Bans()
    for target in ("127.9.0.0/16", "2001:db8::/32"):
        bans.add(str(to_network(target)), None, None)
    for host in ("127.9.1.2", "::ffff:127.9.1.2", "2001:DB8::1", "2001:db8::1%eth0"):
        assert bans.of_ip(host), host
    assert bans.of_ip("127.8.1.2") is None
    assert str(to_network("::ffff:127.9.0.0/112")) == "127.9.0.0/16"
    assert str(to_network("::ffff:127.9.1.1")) == "127.9.1.1/32"


def test_memory_is_taken_of_all_scopes_or_of_none() -> None:
    memory = Memory(process=100, ip=60, connection=40)
    with memory.connection("10.0.0.1") as one, memory.connection("10.0.0.1") as two, memory.connection("::1") as other:
        assert one.take(40)
        assert not one.take(1), "a connection has its bound"
        assert two.take(20)
        assert not two.take(1), "an address has its bound"
        assert other.take(40)
        assert memory.process.used == 100
        with memory.connection("10.0.0.9") as late:
            assert not late.take(1), "the process has its bound"
        one.give(40)
        assert two.take(20)
        assert memory.bounds() == {"unreadBytes": (80, 100), "unreadBytesOfOneIp": (40, 60)}
    assert memory.bounds() == {"unreadBytes": (0, 100), "unreadBytesOfOneIp": (0, 60)}
    two.give(40)
    assert memory.process.used == 0, "what is given back too late concerns nobody"


def test_ipv6_addresses_of_one_site_are_one_place() -> None:
    one, other, far = (to_ip(host) for host in ("2001:4860::1", "2001:4860::ffff:1", "2001:4860:0:1::1"))
    assert one is not None
    assert other is not None
    assert far is not None
    assert group(one) == group(other) != group(far)
