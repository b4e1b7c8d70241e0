"""Reachability: what servers that dial back say, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.reachability import (
    FRESH,
    MAX_ADDRESSES,
    MAX_SERVERS,
    RECHECK,
    RETRY,
    Reachability,
    candidates,
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
        (["/dns4/a.example/tcp/1", "/ip4/45.32.1.9/tcp/9/ws"], [], [], ["/ip4/45.32.1.9/tcp/9/ws"]),
        ([f"/ip4/45.32.1.9/tcp/9{PEER}/p2p-circuit{PEER}"], [], [], []),
        (["/ip4/45.32.1.9/udp/9/webrtc-direct"], [], [], []),
    ],
)
def test_what_is_worth_checking(told: list[str], listen: list[str], observed: list[str], worth: list[str]) -> None:
    assert candidates(told, [address + PEER for address in listen], [address + PEER for address in observed]) == worth


def test_no_more_than_a_few_are_checked() -> None:
    many = [f"/ip4/45.32.1.{number}/tcp/1" for number in range(1, 100)]
    assert len(candidates(many, [], many)) == MAX_ADDRESSES
