"""Places among the connections: silent newcomers lose theirs to others, and some are for our own dials."""

from __future__ import annotations

from fabstird.p2p.net.admission import ORIGINS, Admission, Arrivals, Newcomer


def come(places: Admission, host: str, *, most: int = 64, each: int = 100, relayed: bool = False) -> Newcomer | None:
    return places.come(host, most, each, relayed=relayed)


def test_newcomers_are_no_obstacle_to_our_own_dials() -> None:
    places = Admission()
    crowd = [come(places, f"10.0.0.{number % 8}") for number in range(64)]
    assert all(crowd)
    for number in range(64):
        assert places.dial(64), number
        assert places.taken + places.shaking <= 64
    assert not places.dial(64)
    assert sum(one is not None and one.handshake.cancel_called for one in crowd) == 64


def test_who_comes_from_elsewhere_takes_the_place_of_the_crowd_s_eldest() -> None:
    places = Admission()
    crowd = [come(places, "10.0.0.1") for _ in range(64)]
    assert come(places, "10.0.0.1") is None, "it is the crowd"
    friend = come(places, "10.0.0.2")
    assert friend is not None
    assert crowd[0] is not None
    assert crowd[0].handshake.cancel_called
    assert not places.settle(crowd[0], 64)
    assert places.settle(friend, 64)
    assert (places.taken, places.shaking) == (1, 63)


def test_some_places_are_for_our_own_dials() -> None:
    places = Admission()
    for number in range(60):
        newcomer = come(places, f"10.0.1.{number}")
        assert newcomer is not None
        assert places.settle(newcomer, 64)
    assert come(places, "10.0.2.1") is None
    assert [places.dial(64) for _ in range(5)] == [True] * 4 + [False]
    places.leave()
    assert places.dial(64)


def test_a_handshake_that_ends_too_late_has_no_place() -> None:
    places = Admission()
    late = come(places, "10.0.0.1", most=1)
    assert late is not None
    assert places.dial(1)
    assert not places.settle(late, 1)
    places.go(late, settled=False)
    assert (places.taken, places.shaking) == (1, 0)


def test_an_address_has_its_share_and_a_relay_s_does_not_count() -> None:
    places = Admission()
    for host in ("10.0.0.1", "2001:db8::1"):
        held = [come(places, host, each=4) for _ in range(5)]
        assert [one is not None for one in held] == [True] * 4 + [False]
        assert held[0] is not None
        assert come(places, host, each=4, relayed=True)
        places.go(held[0], settled=False)
        assert come(places, host, each=4)
    assert come(places, "2001:db8::ffff", each=4) is None, "a /64 is one place"
    assert come(places, "::ffff:10.0.0.1", each=4) is None, "and an address one, however it is written"


def test_an_address_may_come_so_often() -> None:
    arrivals = Arrivals()

    def came(count: int, now: float, *, remote: str = "203.0.113.7", local: str = "203.0.113.1") -> int:
        return sum(arrivals.admits(remote, local, 4, 32, now) for _ in range(count))

    assert came(100, 0.0) == 32
    assert came(100, 1.0) == 4
    assert came(100, 1.1) == 0, "not a whole one yet"
    assert came(1, 1.35) == 1
    assert came(100, 1000.0) == 32, "never more than at once"
    assert came(100, 1000.0, remote="203.0.113.8") == 32, "another's are another's"
    assert came(100, 1000.0, remote="::ffff:203.0.113.8") == 0, "however it is spelled"
    assert came(100, 1000.0, remote="2001:db8::1") == 32
    assert came(100, 1000.0, remote="2001:db8::2") == 0, "a /64 is one"
    for own in ("127.0.8.1", "::1", "::ffff:127.0.0.1", "203.0.113.1"):
        assert came(100, 1000.0, remote=own) == 100, "of this machine"
    assert sum(arrivals.admits("203.0.113.7", "", 0, 32, 1000.0) for _ in range(100)) == 100, "no limit"


def test_as_many_addresses_are_remembered_as_there_is_room_for() -> None:
    arrivals = Arrivals()
    for number in range(2 * ORIGINS):
        assert arrivals.admits(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "", 4, 32, float(number))
    assert arrivals.bounds() == {"newcomerAddresses": (ORIGINS, ORIGINS)}
