"""Reachability: what servers that dial back say, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.nat.reachability import (
    FRESH,
    MAX_ADDRESSES,
    MAX_SERVERS,
    RECHECK,
    RETRY,
    Reachability,
    candidates,
    in_turn,
    is_public,
    is_seen,
)

HERE, THERE = "/ip4/45.32.1.1/tcp/4001", "/ip4/45.32.1.2/tcp/4001"
PEER = "/p2p/12D3KooWKVCMqTPAwNzjWJNkWywkAv99v9YFW5CpckeZWfjjUApK"


def test_one_server_s_word_is_not_enough() -> None:
    known = Reachability()
    known.record(HERE, "a", reached=True, now=0)
    assert not known.is_reachable(HERE, 0)
    known.record(HERE, "a", reached=True, now=1)
    assert not known.is_reachable(HERE, 1), "the same one twice is still one"
    known.record(HERE, "b", reached=True, now=2)
    assert known.is_reachable(HERE, 2)
    assert not known.is_reachable(THERE, 2)
    assert known.checked(HERE) == 2
    assert known.checked(THERE) is None


@pytest.mark.parametrize("honest", ["45.32.1.{}", "2606:4700:{}::/64"])
def test_whoever_has_a_whole_network_has_one_voice_among_others(honest: str) -> None:
    """Liars of one /24 neither hide an address that others reach, nor confirm one that others do not, and do not crowd
    out what these have said."""
    good = [honest.format(1), "8.8.4.4"]
    liars = [f"203.0.113.{number}" for number in range(1, 2 * MAX_SERVERS)]
    for truth in (True, False):
        known = Reachability()
        for now, server in enumerate(good):
            known.record(HERE, server, reached=truth, now=now)
        for now, server in enumerate(liars, start=2):
            known.record(HERE, server, reached=not truth, now=now)
        assert known.is_reachable(HERE, 100) is truth
        assert not known.is_unreachable(HERE, 100)
        assert set(good) <= known.said[HERE].keys()
        assert len(known.said[HERE]) == MAX_SERVERS


def test_where_all_servers_are_of_one_network_each_counts() -> None:
    known = Reachability()
    known.record(HERE, "45.32.1.7", reached=True, now=0)
    assert not known.is_reachable(HERE, 0)
    known.record(HERE, "45.32.1.8", reached=True, now=0)
    assert known.is_reachable(HERE, 0)


def test_servers_of_one_network_stand_in_no_other_s_way() -> None:
    crowd = [f"203.0.113.{number}" for number in range(1, 50)]
    assert in_turn([*crowd, "8.8.8.8", "45.32.1.1"])[:4] == [crowd[0], "8.8.8.8", "45.32.1.1", crowd[1]]
    assert sorted(in_turn(crowd)) == sorted(crowd)


def test_words_fade_and_are_taken_back() -> None:
    known = Reachability()
    for server in "ab":
        known.record(HERE, server, reached=True, now=0)
    assert not known.is_reachable(HERE, FRESH)
    for server in "ab":
        known.record(HERE, server, reached=True, now=FRESH)
    known.record(HERE, "c", reached=False, now=FRESH)
    assert known.is_reachable(HERE, FRESH), "two against one"
    known.record(HERE, "b", reached=False, now=FRESH)
    assert not known.is_reachable(HERE, FRESH)


def test_a_node_is_private_when_several_have_failed_and_nobody_has_not() -> None:
    known = Reachability()
    assert not known.is_private(0), "nobody has tried"
    known.record(HERE, "a", reached=False, now=0)
    assert not known.is_private(0)
    known.record(HERE, "b", reached=False, now=0)
    assert known.is_private(0)
    known.record(THERE, "b", reached=True, now=0)
    assert not known.is_private(0)
    assert not known.is_private(FRESH)


def test_an_address_is_unreachable_when_several_have_failed_and_nobody_has_not() -> None:
    known = Reachability()
    known.record(HERE, "a", reached=False, now=0)
    assert not known.is_unreachable(HERE, 0)
    known.record(HERE, "b", reached=False, now=0)
    assert known.is_unreachable(HERE, 0)
    assert not known.is_unreachable(THERE, 0), "of another address nobody has said so"
    assert not known.is_unreachable(HERE, FRESH)
    known.record(HERE, "c", reached=True, now=0)
    assert not known.is_unreachable(HERE, 0)


def test_a_server_that_has_shown_nothing_changes_nothing_and_is_left_alone_for_a_while() -> None:
    known = Reachability()
    for server in "ab":
        known.record(HERE, server, reached=None, now=0)
    assert not known.is_reachable(HERE, 0)
    assert not known.is_unreachable(HERE, 0)
    assert not known.is_private(0)
    assert known.confirmations(HERE, 0) == 0
    assert known.checked(HERE) is None
    assert not known.due(HERE, "a", RETRY - 1), "other addresses have their turn"
    assert known.due(HERE, "a", RETRY)
    known.record(HERE, "a", reached=True, now=0)
    known.record(HERE, "b", reached=True, now=0)
    known.record(HERE, "a", reached=None, now=RECHECK)
    assert known.is_reachable(HERE, RECHECK), "what it has shown before fades in its own time"
    assert not known.due(HERE, "a", RECHECK + RETRY - 1)
    assert known.due(HERE, "a", RECHECK + RETRY)
    assert not known.is_reachable(HERE, FRESH)
    known.record(HERE, "a", reached=None, now=FRESH)
    assert known.checked(HERE) == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("/ip4/45.32.1.1/tcp/1", True),
        ("/ip6/2606:4700::1/tcp/1/ws", True),
        ("/ip4/10.0.0.1/tcp/1", False),
        ("/ip4/127.0.0.1/tcp/1", False),
        ("/dns4/a.example/tcp/1", False),
        (f"/ip4/45.32.1.1/tcp/1{PEER}/p2p-circuit", False),
        ("nonsense", False),
    ],
)
def test_which_address_could_be_dialled_by_everybody(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("seen", "observer", "counts"),
    [
        ("/ip4/45.32.1.1/tcp/61000", "45.32.1.9", True),
        ("/ip4/45.32.1.2/tcp/4001", "45.32.1.9", False),
        ("/ip4/45.32.1.1/tcp/61000", "10.0.0.9", False),  # of our own network
        ("/ip4/45.32.1.1/tcp/61000", "relay.example", False),
        ("nonsense", "45.32.1.9", False),
    ],
)
def test_who_sees_us_where_we_listen(seen: str, observer: str, counts: bool) -> None:
    assert is_seen(HERE, [(seen, observer)]) is counts


def test_who_is_asked_again_and_when() -> None:
    known = Reachability()
    assert known.due(HERE, "a", 0)
    known.record(HERE, "a", reached=False, now=0)
    assert not known.due(HERE, "a", RETRY - 1)
    assert known.due(HERE, "a", RETRY)
    assert known.due(THERE, "a", 0)
    known.record(HERE, "a", reached=True, now=0)
    assert not known.due(HERE, "a", RETRY)
    assert known.due(HERE, "a", RECHECK)


def test_addresses_that_are_ours_no_more_are_forgotten() -> None:
    known = Reachability()
    for server in "ab":
        known.record(HERE, server, reached=True, now=0)
    known.keep([THERE])
    assert known.checked(HERE) is None
    assert not known.is_reachable(HERE, 0)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=200))
def test_it_is_bounded(words: list[tuple[int, bool]]) -> None:
    known = Reachability()
    for now, (server, reached) in enumerate(words):
        known.record(HERE, str(server), reached=reached, now=now)
    assert len(known.said.get(HERE, {})) <= MAX_SERVERS


@pytest.mark.parametrize(
    ("told", "listen", "observed", "worth"),
    [
        ([], ["/ip4/10.0.0.2/tcp/4001"], [], []),
        ([], ["/ip4/45.32.1.1/tcp/4001"], [], ["/ip4/45.32.1.1/tcp/4001"]),
        # behind a router: our port at its address, never the port that a connection of ours happened to have there
        ([], ["/ip4/10.0.0.2/tcp/4001"], ["/ip4/45.32.1.1/tcp/61000"], ["/ip4/45.32.1.1/tcp/4001"]),
        ([], ["/ip6/::1/tcp/4001"], ["/ip4/45.32.1.1/tcp/61000"], []),
        ([], ["/ip4/127.0.0.1/tcp/4001"], ["/ip4/45.32.1.1/tcp/61000"], []),  # on loopback alone: asks nobody
        ([], ["/ip4/10.0.0.2/tcp/1", "/ip4/127.0.0.1/tcp/2"], ["/ip4/45.32.1.1/tcp/9"], ["/ip4/45.32.1.1/tcp/1"]),
        (["/dns4/a.example/tcp/1", "/ip4/45.32.1.9/tcp/9/ws"], [], [], ["/ip4/45.32.1.9/tcp/9/ws"]),
        ([f"/ip4/45.32.1.9/tcp/9{PEER}/p2p-circuit{PEER}"], [], [], []),
        (["/ip4/45.32.1.9/udp/9/webrtc-direct"], [], [], []),
    ],
)
def test_what_is_worth_checking(told: list[str], listen: list[str], observed: list[str], worth: list[str]) -> None:
    seen = [(address + PEER, observer) for address in observed for observer in ("192.0.2.1", "192.0.2.2")]
    assert candidates(told, [address + PEER for address in listen], seen) == worth


def test_no_more_than_a_few_are_checked() -> None:
    many = [f"/ip4/45.32.1.{number}/tcp/1" for number in range(1, 100)]
    assert len(candidates(many, [], [])) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("observers", "counts"),
    [
        (["192.0.2.1"], False),
        (["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"], False),
        (["2001:db8::1", "2001:db8::2"], False),
        (["192.0.2.1", "192.0.2.2"], True),
        (["192.0.2.1", "2001:db8::1"], True),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], True),
    ],
    ids=["one", "one three times", "a /64", "two", "two of both kinds", "three"],
)
def test_one_peer_s_word_of_where_we_are_has_nobody_dialled(observers: list[str], counts: bool) -> None:
    listen = ["/ip4/10.0.0.2/tcp/4001"]
    found = candidates([], listen, [(THERE, observer) for observer in observers])
    assert found == ([THERE] if counts else [])


def test_observers_of_one_network_have_nobody_dialled_where_others_see_us_elsewhere() -> None:
    listen = ["/ip4/10.0.0.2/tcp/4001"]
    lies = [(THERE, f"203.0.113.{number}") for number in range(1, 200)]
    truth = [(HERE, "8.8.8.8"), (HERE, "2606:4700::1")]
    assert candidates([], listen, [*lies, *truth]) == [HERE]


def test_what_most_peers_see_comes_first() -> None:
    listen = ["/ip4/10.0.0.2/tcp/4001"]
    lies = [(f"/ip4/45.32.9.{n}/tcp/9", f"192.0.2.{one}") for n in range(20) for one in (1, 2)]
    truth = [(THERE, f"198.51.100.{n}") for n in range(3)]
    assert candidates([], listen, [*lies, *truth])[0] == THERE
