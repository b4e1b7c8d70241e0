"""Peers heard in the local network: who is dialled, when, and how often at most."""

from __future__ import annotations

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.peers.nearby import (
    FIRST_PAUSE,
    LAST_PAUSE,
    MAX_ADDRESSES,
    MAX_AGE,
    MAX_PEERS,
    POLITENESS,
    Nearby,
    belonging,
)
from fabstird.p2p.wire.addresses import parse

PEER = "12D3KooWKVCMqTPAwNzjWJNkWywkAv99v9YFW5CpckeZWfjjUApK"
REST = 300.0


def nearby(own_id: str = "A") -> Nearby:
    return Nearby(own_id, REST)


def where(table: Nearby, peer_id: str) -> list[str]:
    heard = table.find(peer_id)
    return heard.addresses if heard else []


def test_a_peer_is_dialled_when_it_is_heard() -> None:
    table = nearby()
    assert table.heard("n", "B", ["/1"], 120, 100)
    assert table.due(100, (), 8) == ["B"]
    assert table.begin("B", 100) == ["/1"]
    assert table.due(200, (), 8) == [], "it is being dialled"
    table.end("B", 101, connected=True)
    assert table.due(101, ("B",), 8) == []


def test_of_two_peers_one_dials_first() -> None:
    low, high = nearby("A"), nearby("B")
    low.heard("n", "B", ["/1"], 120, 100)
    high.heard("n", "A", ["/2"], 120, 100)
    assert low.due(100, (), 8) == ["B"]
    assert high.due(100, (), 8) == []
    assert high.next_due() == 100 + POLITENESS
    assert high.due(100 + POLITENESS, (), 8) == ["A"], "the other one may not want to, or not be able to"
    assert nearby("B").heard("n", "B", ["/1"], 120, 0) is False, "that is this node itself"


def test_a_connected_peer_is_left_alone_until_long_after_it_has_gone() -> None:
    table = nearby()
    table.heard("n", "B", ["/1"], MAX_AGE, 0)
    assert table.due(0, ("B",), 8) == []
    assert table.due(REST - 1, (), 8) == []
    assert table.due(REST, (), 8) == ["B"]
    never = Nearby("A", math.inf)
    never.heard("n", "B", ["/1"], MAX_AGE, 0)
    never.due(0, ("B",), 8)
    assert never.due(MAX_AGE, (), 8) == []
    assert never.heard("m", "B", ["/2"], MAX_AGE, 10), "it was restarted"
    assert never.due(10, (), 8) == ["B"]


def test_a_peer_that_came_by_itself_and_was_sent_away_is_not_dialled_at_once() -> None:
    """The one that waits politely for the other's dial would, when its patience is over."""
    table = nearby("B")
    table.heard("n", "A", ["/1"], MAX_AGE, 0)
    table.met("A", POLITENESS / 4)
    table.met("A", POLITENESS / 2)
    assert table.due(POLITENESS, (), 8) == []
    assert table.due(POLITENESS / 2 + REST, (), 8) == ["A"]
    table.met("C", 0)
    assert table.find("C") is None, "who was not heard is not made up"


def test_a_peer_that_cannot_be_dialled_is_tried_ever_more_rarely() -> None:
    table, now, pauses = nearby(), 0.0, []
    table.heard("n", "B", ["/1"], 10**9, now)
    for _ in range(10):
        table.heard("n", "B", ["/1"], 10**9, now)  # it goes on saying that it is there
        assert table.due(now, (), 8) == ["B"]
        table.begin("B", now)
        table.end("B", now, connected=False)
        pauses.append(table.next_due() - now)
        now = table.next_due()
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LAST_PAUSE


def test_new_addresses_do_not_make_dials_more_frequent_than_that() -> None:
    table = nearby()
    dials = 0
    for tenth in range(600):
        now = tenth / 10
        table.heard("n", "B", [f"/{tenth}"], 120, now)
        if table.due(now, (), 8):
            dials += 1
            table.begin("B", now)
            table.end("B", now, connected=False)
    assert dials <= 60 / FIRST_PAUSE + 1


def test_the_newest_addresses_come_first_and_fade() -> None:
    table = nearby()
    table.heard("n", "B", ["/1", "/2"], 10, 0)
    assert table.heard("n", "B", ["/1"], 100, 5) is False
    assert table.heard("n", "B", ["/3"], 100, 6) is True
    assert where(table, "B") == ["/3", "/1", "/2"]
    table.expire(10)
    assert where(table, "B") == ["/3", "/1"]
    table.expire(106)
    assert where(table, "B") == []
    assert len(table) == 0
    table.heard("n", "B", ["/1"], 10**9, 200)
    table.expire(200 + MAX_AGE)
    assert len(table) == 0, "nobody is remembered for ever"


def test_a_goodbye_is_believed() -> None:
    table = nearby()
    table.heard("n", "B", ["/1"], 120, 0)
    table.left("m")
    assert len(table) == 1
    table.left("n")
    assert len(table) == 0
    table.end("B", 1, connected=False)  # its dial was under way


def test_there_is_no_more_than_there_is_room() -> None:
    table = nearby()
    for number in range(5):
        table.heard(f"n{number}", f"B{number}", ["/1"], 120, 0)
    assert len(table.due(0, (), 3)) == 3
    assert table.due(0, (), 0) == []
    assert table.due(0, (), -5) == []


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 60), st.integers(0, 4000)), max_size=200))
def test_everything_is_bounded(heard: list[tuple[int, int, int]]) -> None:
    table = nearby()
    for number in range(MAX_PEERS):
        table.heard("n", f"C{number}", ["/1"], 120, 0)
    for peer, address, ttl in heard:
        table.heard(f"n{peer}", f"B{peer}", [f"/{address}/{n}" for n in range(5)], ttl, 1)
        assert len(where(table, f"B{peer}")) <= MAX_ADDRESSES
    assert len(table) <= MAX_PEERS


@pytest.mark.parametrize(
    ("host", "belongs"),
    [
        ("192.0.2.7", True),
        ("10.1.2.3", True),  # private: another subnet on the same wire
        ("2001:db8:1::5", True),
        ("fd00::1", True),
        ("8.8.8.8", False),  # a stranger must not choose whom in the Internet we dial
        ("2606:4700::1", False),
        ("127.0.0.1", False),  # that is us
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("169.254.1.1", False),
        ("fe80::1", False),
        ("0.0.0.0", False),
        ("224.0.0.251", False),
    ],
)
def test_only_addresses_of_the_network_are_dialled(host: str, belongs: bool) -> None:
    networks = [ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8:1::/64")]
    address = parse(f"/ip{6 if ':' in host else 4}/{host}/tcp/1/p2p/{PEER}")
    assert bool(belonging([address], networks)) == belongs


def test_those_of_the_interface_s_own_network_come_first() -> None:
    private = parse(f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}")
    inside = parse(f"/ip4/192.0.2.7/tcp/1/p2p/{PEER}")
    assert belonging([private, inside], [ipaddress.ip_network("192.0.2.0/24")]) == [inside, private]
