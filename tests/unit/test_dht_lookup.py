"""How the DHT looks for a key: whom a lookup asks, when it ends, and what it takes from whom."""

from __future__ import annotations

import math
import os

import pytest

from fabstird.p2p.dht import lookup, patience
from fabstird.p2p.dht.density import ENOUGH, Density
from fabstird.p2p.dht.findings import LEAST, WORDS, FoundProviders, FoundValues
from fabstird.p2p.dht.lookup import ALPHA, SLOW, Lookup
from fabstird.p2p.dht.patience import UNKNOWN, Patience
from fabstird.p2p.dht.routing import BITS, K, RoutingTable, position

OWN = b"\x12\x20" + bytes(32)
PEERS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(1, 400)]
A, B, C = PEERS[:3]
TARGET = b"x"


def sorted_by_distance(key: bytes, peers: list[bytes]) -> list[bytes]:
    """The closest first."""
    target = position(key)
    return sorted(peers, key=lambda peer: position(peer) ^ target)


NEAR = sorted_by_distance(TARGET, PEERS)


def test_a_lookup_comes_to_the_closest_of_a_whole_network() -> None:
    """400 peers; each knows its own closest twenty and twenty others. What is found is what is there."""
    tables = {}
    for index, peer in enumerate(PEERS):
        tables[peer] = RoutingTable(peer)
        for other in [*PEERS[index : index + K], *PEERS[::19]]:
            tables[peer].add(other, 0)
        for near in sorted_by_distance(peer, PEERS)[1:K]:
            tables[peer].add(near, 0)
    search = Lookup(b"anything", OWN, PEERS[:3])
    while not search.done(0):
        for peer in search.due(0):
            search.answered(peer, tables[peer].closest(b"anything"))
    assert search.closest() == sorted_by_distance(b"anything", PEERS)[:K]
    assert search.asked < 80


def test_those_that_do_not_answer_are_passed_over() -> None:
    search = Lookup(TARGET, OWN, [A, B, OWN])
    assert sorted(search.due(0)) == sorted([A, B])
    assert search.due(0) == []
    search.failed(A)
    assert not search.done(0)
    search.answered(B, [C, OWN, A])
    assert search.due(0) == [C]
    search.failed(C)
    assert search.done(0)
    assert search.closest() == [B]


def test_no_more_are_asked_at_a_time_than_alpha() -> None:
    search = Lookup(TARGET, OWN, PEERS[:50], alpha=3)
    first = search.due(0)
    assert len(first) == 3
    search.answered(first[0], [])
    assert len(search.due(0)) == 1


def test_who_is_slow_keeps_nobody_waiting_and_a_late_answer_counts() -> None:
    search = Lookup(TARGET, OWN, NEAR[:30])
    first = search.due(0)
    assert (first, search.due(SLOW - 0.1), search.wake_at()) == (NEAR[:ALPHA], [], SLOW)
    second = search.due(SLOW)
    assert second == NEAR[ALPHA : 2 * ALPHA], "their places are free"
    for peer in second:
        search.answered(peer, [])
    assert not search.done(SLOW)
    search.answered(first[0], [])
    assert search.wake_at() == UNKNOWN
    assert search.closest()[0] == first[0]
    third = search.due(UNKNOWN)
    assert third == NEAR[20:29], "nine are given up, and the next ones take their place"
    assert search.late == set(first[1:])
    for peer in third:
        search.answered(peer, [])
    assert search.done(UNKNOWN)
    search.answered(first[1], [])
    assert search.closest()[:2] == first[:2]
    assert search.late == set(first[2:])
    assert search.wake_at() == math.inf


def test_who_is_not_among_the_closest_is_not_waited_for() -> None:
    search = Lookup(TARGET, OWN, NEAR[-ALPHA:])
    asked = search.due(0)
    search.answered(asked[0], NEAR[:K])
    for _ in range(K):
        for peer in search.due(0):
            search.answered(peer, [])
    assert search.due(SLOW) == []
    for peer in search.due(SLOW):
        search.answered(peer, [])
    assert search.done(SLOW), "those that still owe an answer are farther than the twenty that gave theirs"


def test_liars_who_make_up_ever_closer_peers_come_to_an_end() -> None:
    search = Lookup(TARGET, OWN, [A])
    while not search.done(0):
        for peer in search.due(0):
            search.answered(peer, [b"\x12\x20" + os.urandom(32) for _ in range(64)])
    assert search.asked <= lookup.MAX_ASKED
    assert search.count("heard") <= lookup.MAX_ASKED * K


def test_a_lookup_that_knows_nobody_is_done() -> None:
    assert Lookup(TARGET, OWN, []).done(0)


def test_one_network_is_not_the_front() -> None:
    """Twenty ids that were made for the key, all in one network, and honest peers behind them."""
    where = dict.fromkeys(NEAR[:K], "192.0.2.0/24")
    search = Lookup(TARGET, OWN, NEAR[: 3 * K], network=where.get)
    asked: list[bytes] = []
    while not search.done(0):
        due = search.due(0)
        asked += due
        for peer in due:
            search.answered(peer, [])
    assert search.closest() == [*NEAR[:2], *NEAR[K : 2 * K - 2]]
    assert asked == search.closest(), "the others are not even asked"


def test_many_more_peers_than_could_be_there_are_not_taken_for_the_closest() -> None:
    """Sybils in as many networks as one likes: that they all lie beside one key gives them away."""
    target = position(TARGET)
    honest = sorted_by_distance(TARGET, PEERS)
    radius = position(honest[K - 1]) ^ target
    sybils: list[bytes] = []
    while len(sybils) < 60:
        made = b"\x12\x20" + os.urandom(32)
        if (position(made) ^ target) < position(honest[0]) ^ target:
            sybils.append(made)
    search = Lookup(TARGET, OWN, [*honest[: 2 * K], *sybils], radius=radius)
    while not search.done(0):
        for peer in search.due(0):
            search.answered(peer, [])
    found = search.closest()
    assert len(found) == K
    assert len(set(found) & set(honest)) >= 12
    plain = Lookup(TARGET, OWN, [*honest[: 2 * K], *sybils])
    while not plain.done(0):
        for peer in plain.due(0):
            plain.answered(peer, [])
    assert not set(plain.closest()) & set(honest), "what a lookup without the radius makes of it"


def test_how_densely_peers_lie_is_known_after_some_walks_only() -> None:
    density = Density()
    for number in range(ENOUGH):
        assert density.radius is None
        density.observe([1 << number] * K)
        density.observe([7] * (K - 1))  # fewer than twenty say nothing
    assert density.radius == 1, "a quarter of the walks counts"
    for _ in range(100):
        density.observe([1 << 200] * K)
    assert density.radius == 1 << 200


@pytest.mark.parametrize("seed", range(5))
def test_chance_alone_hides_nobody(seed: int) -> None:
    """Of honest peers, next to none is passed over for lying too close to others."""
    missed = 0
    for number in range(20):
        target = b"%d %d" % (seed, number)
        near = sorted_by_distance(target, PEERS)
        radius = (1 << BITS) * K // len(PEERS)
        search = Lookup(target, OWN, near[: 2 * K], radius=radius)
        while not search.done(0):
            for peer in search.due(0):
                search.answered(peer, [])
        missed += len(set(near[:K]) - set(search.closest()))
    assert missed <= 4, "of 400"


# --------------------------------------------------------------------------------------------------------------------
# What is found


def test_no_single_answer_ends_a_search_for_providers_nor_fills_it() -> None:
    found = FoundProviders(20)
    made_up = [b"made up %d" % number for number in range(20)]
    assert found.learn(A, made_up) == made_up[:LEAST]
    assert not found.enough({A})
    for number, peer in enumerate((B, C, *PEERS[3:12])):
        found.learn(peer, [b"real", *(b"real %d" % (number * 4 + one) for one in range(4))])
    assert found.enough(set(PEERS[:20]))
    assert not found.enough({A, *PEERS[12:20]}), "most near the key name nobody"
    result = found.result()
    assert len(result) == 20
    assert b"real" in result
    assert len(set(result) & set(made_up)) <= LEAST


def test_one_provider_that_is_wanted_is_the_one_that_most_near_the_key_name() -> None:
    found = FoundProviders(1)
    for peer in PEERS[: WORDS - 1]:
        found.learn(peer, [b"real"])
    assert not found.enough(set(PEERS[: WORDS - 1])), "too few say so"
    found.learn(PEERS[WORDS], [b"made up"])
    found.learn(PEERS[WORDS + 1], [b"real"])
    assert found.enough(set(PEERS[: WORDS + 2]))
    assert not found.enough(set(PEERS[1 : WORDS + 2])), "who gave it was only met on the way"
    assert not found.enough(set(PEERS[: 3 * WORDS])), "most of those near the key name nobody"
    assert found.result() == [b"real"]


def test_what_is_beyond_an_answers_share_is_taken_where_room_is_left() -> None:
    found = FoundProviders(20)
    many = [b"%d" % number for number in range(20)]
    found.learn(A, many)
    assert found.result() == many
    assert len(found) == LEAST


def test_values_are_enough_by_their_owners_word_or_by_a_clear_majority() -> None:
    found = FoundValues(A, 4)
    for peer in PEERS[1:5]:
        found.values[peer] = b"v"
    assert found.enough(set(PEERS[1:8]))
    assert not found.enough(set(PEERS[1:9])), "four of the eight near the key say nothing"
    for peer in PEERS[5:8]:
        found.values[peer] = b"forged"
    assert not found.enough(set(PEERS[1:5])), "three of seven say something else"
    found.values[A] = b"the owner's"
    assert (found.enough(set(PEERS)), found.best) == (True, b"the owner's")


def test_who_is_waited_for_depends_on_how_long_others_take() -> None:
    waiting = Patience()
    assert waiting.give_up == UNKNOWN
    for _ in range(patience.ENOUGH):
        waiting.observe(0.1)
    assert waiting.give_up == patience.LEAST, "no connection is made much faster"
    for _ in range(200):
        waiting.observe(1.4)
    assert waiting.give_up == pytest.approx(patience.TIMES * 1.4), "everybody is far away"
    for _ in range(200):
        waiting.observe(9.0)
    assert waiting.give_up == patience.MOST
