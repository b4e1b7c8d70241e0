"""Whom a relay serves: places and circuits, and what of them one peer, one address, one network may have."""

from __future__ import annotations

from fabstird.p2p.nat.relay_places import CIRCUITS, FROM_ADDRESS, FROM_NETWORK, LASTS, PER_ADDRESS, PER_NETWORK, Places


def test_a_place_lasts_for_an_hour_and_is_renewed() -> None:
    places = Places(2, 1)
    assert places.reserve("a", "1.2.3.4", 1000.5) == 1000 + LASTS
    assert places.reserve("a", "1.2.3.4", 2000) == 2000 + LASTS
    assert places.reservations == 1
    assert places.holds("a", 1999 + LASTS)
    assert not places.holds("a", 2000 + LASTS)
    assert places.reservations == 0


def test_whoever_goes_leaves_its_place() -> None:
    places = Places(1, 1)
    assert places.reserve("a", "1.2.3.4", 0)
    assert places.reserve("b", "5.6.7.8", 0) is None
    places.release("a")
    places.release("a")
    assert places.reserve("b", "5.6.7.8", 0)


def test_one_address_and_one_network_have_some_of_them() -> None:
    places = Places(128, 1)
    for number in range(PER_ADDRESS):
        assert places.reserve(f"a{number}", "1.2.3.4", 0)
    assert places.reserve("another", "1.2.3.4", 0) is None
    assert places.reserve("a0", "1.2.3.4", 5), "it is its own place"
    for number in range(PER_NETWORK - PER_ADDRESS):
        assert places.reserve(f"n{number}", f"1.2.{number}.1", 0)
    assert places.reserve("another", "1.2.200.1", 0) is None
    assert places.reserve("another", "1.3.0.1", 0)


def test_of_ipv6_a_64_is_one_address_and_a_32_one_network() -> None:
    places = Places(128, 1)
    for number in range(PER_ADDRESS):
        assert places.reserve(f"a{number}", f"2001:db8:1:1::{number:x}", 0)
    assert places.reserve("another", "2001:db8:1:1:ffff::1", 0) is None
    assert places.reserve("another", "2001:db8:1:2::1", 0)


def test_a_name_is_no_address() -> None:
    assert Places(1, 1).reserve("a", "relay.example", 0) is None


def test_circuits_count_on_both_sides() -> None:
    places = Places(8, 2)
    assert places.begin("a", "x", "1.2.3.1")
    assert places.begin("b", "x", "1.2.3.2")
    assert not places.begin("c", "x", "1.2.3.3")
    assert places.begin("a", "y", "1.2.3.1")
    assert not places.begin("a", "z", "1.2.3.1")
    places.end("a", "x", "1.2.3.1")
    assert places.begin("c", "x", "1.2.3.3")
    assert places.circuits == 3


def test_circuits_asked_for_from_one_address_have_a_bound_whoever_asks() -> None:
    """With 16 peer ids, one address had all of them."""
    places = Places(8, 16)
    for number in range(FROM_ADDRESS):
        assert places.begin(f"s{number}", f"t{number}", f"2001:db8:1:1::{number:x}")
    assert not places.begin("s", "t", "2001:db8:1:1:ffff::1")
    assert places.begin("s", "t", "2001:db8:1:2::1")
    places.end("s0", "t0", "2001:db8:1:1::")
    assert places.begin("s", "t", "2001:db8:1:1:ffff::1")


def test_circuits_asked_for_from_one_network_have_a_bound_whatever_its_addresses() -> None:
    """Eight addresses of it had all of them."""
    places = Places(8, 16)
    for number in range(FROM_NETWORK):
        assert places.begin(f"s{number}", f"t{number}", f"1.2.{number}.1")
    assert not places.begin("s", "t", "1.2.200.1")
    assert places.begin("s", "t", "1.3.0.1")
    places.end("s0", "t0", "1.2.0.1")
    assert places.begin("s1", "t1", "1.2.200.1")


def test_all_circuits_have_a_bound() -> None:
    places = Places(8, CIRCUITS)
    for number in range(CIRCUITS):
        assert places.begin(f"s{number}", f"t{number}", f"1.2.3.{number}")
    assert not places.begin("s", "t", "1.2.4.1")
    for number in range(CIRCUITS):
        places.end(f"s{number}", f"t{number}", f"1.2.3.{number}")
    assert places.circuits == 0
    assert places.begin("s", "t", "1.2.4.1")
