"""Places that peers share: who gets one, and whose it was."""

from __future__ import annotations

import random
from collections import Counter

from fabstird.p2p.streams.places import Holder, Places

ALICE, BOB, CAROL = ("alice",), ("bob",), ("carol",)


def test_a_peer_alone_has_every_place_and_gives_the_newest_to_who_has_fewer() -> None:
    lost: list[int] = []
    places: Places[int] = Places(4, lost.append)
    for number in range(4):
        assert places.has_room(ALICE)
        places.take(number, ALICE)
    assert not places.has_room(ALICE)
    for number, left in ((4, [0, 1, 2, 4]), (5, [0, 1, 4, 5])):
        assert places.has_room(BOB)
        places.take(number, BOB)
        assert places.all() == left
    assert lost == [3, 2]
    assert not places.has_room(BOB), "it has as many as Alice"
    places.take(6, CAROL)
    assert len(lost) == 3
    assert len(places) == 4
    places.leave(lost[-1])  # what has lost its place leaves it again
    for one in places.all():
        places.leave(one)
    assert len(places) == 0
    assert places.has_room(ALICE)


def test_one_place_is_whoever_came_first() -> None:
    places: Places[str] = Places(1, lambda _: None)
    places.take("first", ALICE)
    assert not places.has_room(BOB)


def test_whatever_comes_and_goes_no_peer_is_kept_out_by_one_that_has_two_more() -> None:
    chance = random.Random(13)
    for _ in range(50):
        count = chance.randint(1, 8)
        whose: dict[int, str] = {}
        places: Places[int] = Places(count, whose.pop)
        for number in range(200):
            peer = chance.choice("abcde")
            holder = (peer,)
            had = Counter(whose.values())
            room = places.has_room(holder)
            assert room == (len(whose) < count or max(had.values()) > had[peer] + 1)
            if room and chance.random() < 0.8:
                places.take(number, holder)
                whose[number] = peer
            elif whose:
                gone = chance.choice(list(whose))
                places.leave(gone)
                del whose[gone]
            assert len(places) == len(whose) <= count
            assert set(places.all()) == set(whose)


def stranger(network: int, address: int, number: int) -> Holder:
    return f"n{network}", f"n{network}.a{address}", f"{network}.{address}.{number}"


def test_a_network_with_many_peers_has_no_more_than_its_share() -> None:
    """Peer ids cost nothing: 64 of them with a place each kept everybody else out."""
    lost: list[int] = []
    places: Places[int] = Places(64, lost.append)
    for number in range(64):
        places.take(number, stranger(1, number % 8, number))
    assert not places.has_room(stranger(1, 1, 99)), "it is of the same address, and each peer has one"
    for number in range(32):
        assert places.has_room(stranger(2, number, 0))
        places.take(100 + number, stranger(2, number, 0))
    assert len(lost) == 32
    assert all(number < 64 for number in lost)
    assert not places.has_room(stranger(2, 0, 1)), "half of all is the share of its network"
    assert len(places) == 64


def test_an_address_with_many_peers_has_no_more_than_its_share_of_a_network() -> None:
    lost: list[int] = []
    places: Places[int] = Places(8, lost.append)
    for number in range(8):
        places.take(number, stranger(1, 1, number))
    for number in range(4):
        places.take(10 + number, stranger(1, 2, 0))
    assert lost == [7, 6, 5, 4], "the newest of that address"
    assert not places.has_room(stranger(1, 2, 0)), "it has as many as the other address"
    assert places.has_room(stranger(1, 2, 1)), "but within its own it is one peer of two"


def test_whatever_comes_and_goes_shares_are_by_network_then_by_address_then_by_peer() -> None:
    chance = random.Random(31)
    for _ in range(30):
        count = chance.randint(1, 9)
        whose: dict[int, Holder] = {}
        places: Places[int] = Places(count, whose.pop)
        for number in range(200):
            holder = stranger(chance.randint(1, 3), chance.randint(1, 2), chance.randint(1, 2))
            if chance.random() < 0.7:
                full, had = len(whose) >= count, dict(whose)
                if places.has_room(holder):
                    places.take(number, holder)
                    whose[number] = holder
                    assert len(had) - (len(whose) - 1) == full, "one has lost its place for it, where all were taken"
                else:
                    by_network = Counter(one[0] for one in had.values())
                    assert full
                    assert max(by_network.values()) <= by_network[holder[0]] + 1
            elif whose:
                gone = chance.choice(list(whose))
                places.leave(gone)
                del whose[gone]
            assert len(places) == len(whose) <= count
