"""What this node holds for others: bounded, fair to its users, and closed to whoever would push out the rest."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird import base58
from fabstird.p2p.dht import heard, providers, values
from fabstird.p2p.dht.heard import HERE, PUBLIC, Heard, Place, Scope, kept, told
from fabstird.p2p.dht.messages import Peer
from fabstird.p2p.dht.providers import PER_KEY, Providers
from fabstird.p2p.dht.routing import position
from fabstird.p2p.dht.values import LIFE, PER_SENDER, Refused, Values

OWN = b"\x12\x20" + bytes(32)
PEERS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(1, 400)]
A, B, C = PEERS[:3]
ADDRESS = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"  # /ip4/8.8.8.8/tcp/4001


def near(count: int) -> list[bytes]:
    """Keys that lie closer to this node than nearly all others: what some hashing buys."""
    every = (b"near %d" % number for number in range(10**6))
    return list(islice((key for key in every if position(key) ^ position(OWN) < 1 << 248), count))


# --------------------------------------------------------------------------------------------------------------------
# Values


def test_values_expire() -> None:
    store = Values(OWN, 100)
    store.put(b"k", b"v", A, 0)
    held = store.get(b"k", LIFE - 1)
    assert held is not None
    assert held.value == b"v"
    assert store.get(b"k", LIFE) is None
    store.put(b"k", b"v", A, 0)
    store.sweep(LIFE)
    assert (len(store), store.size) == (0, 0)


def test_values_that_are_not_taken() -> None:
    store = Values(OWN, 100)
    for key, value in (
        (b"k", bytes(101)),
        (b"", b"v"),
        (bytes(513), b"v"),
        (b"/ipns/x", b"v"),
        (b"/nobody/x", b"v"),
    ):
        with pytest.raises(Refused):
            store.put(key, value, A, 0)
    public = b"\x08\x01\x12\x20" + bytes(32)
    store.put(b"/pk/\x12\x20" + sha256(public).digest(), public, A, 0)
    store.put(b"/pk/\x00\x24" + public, public, A, 0)
    with pytest.raises(Refused, match="public key"):
        store.put(b"/pk/\x12\x20" + sha256(public).digest(), public + b"!", A, 0)
    with pytest.raises(Refused, match="public key"):
        Values(OWN, 1000).put(b"/pk/\x00\x24x", bytes(300), A, 0)


def test_what_its_owner_has_put_no_stranger_replaces() -> None:
    owner = b"\x00\x24\x08\x01\x12\x20" + bytes(range(32))
    key = b"metadata:" + base58.encode(owner).encode()
    store = Values(OWN, 100)
    store.put(key, b"from a stranger", A, 0)
    store.put(key, b"from the owner", owner, 0)
    with pytest.raises(Refused, match="owner"):
        store.put(key, b"forged", A, 0)
    store.put(key, b"from the owner", A, 5)  # a node that hands on what it holds
    store.put(key, b"new", owner, 6)
    held = store.get(key, 6)
    assert held is not None
    assert (held.value, held.by_owner) == (b"new", True)


def test_two_seconds_of_hashing_push_out_next_to_nothing_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_VALUES", 200)
    store = Values(OWN, 100)
    for number in range(200):
        store.put(b"%d" % number, b"v", PEERS[number], 0, f"10.0.{number}.0/24")
    for number, key in enumerate(near(600)):  # by three ids in one network, and all closer than nearly all the others'
        try:
            store.put(key, b"v", PEERS[200 + number % 3], 1, "192.0.2.0/24")
        except Refused:
            pass
    left = sum(store.get(b"%d" % number, 1) is not None for number in range(200))
    assert left >= 198, "one place is the network's fair share"
    assert len(store) <= 200


def test_a_sender_has_its_places_and_no_more() -> None:
    store = Values(OWN, 100)
    for number in range(3 * PER_SENDER):
        try:
            store.put(b"%d" % number, b"v", A, 0)
        except Refused:
            pass
    assert len(store) == PER_SENDER


def test_our_own_values_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_VALUES", 50)
    store = Values(OWN, 100)
    for number in range(50):
        store.put(b"%d" % number, b"v", PEERS[number], 0, f"10.0.{number}.0/24")
    for number in range(200):
        store.put(b"own %d" % number, b"v", OWN, 0)
    for number, key in enumerate(near(100)):
        with suppress(Refused):
            store.put(key, b"v", PEERS[number * 7 % 300], 0, f"10.1.{number}.0/24")
    assert all(store.get(b"own %d" % number, 0) for number in range(200))
    with pytest.raises(Refused, match="this node has put"):
        store.put(b"own 1", b"other", A, 0)
    store.forget(b"own 1")
    store.put(b"own 1", b"other", A, 0)


def test_an_owners_value_goes_after_those_of_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_VALUES", 10)
    owner = b"\x00\x24\x08\x01\x12\x20" + bytes(range(32))
    key = b"metadata:" + base58.encode(owner).encode()
    store = Values(OWN, 100)
    store.put(key, b"v", owner, 0, "192.0.2.0/24")
    for number in range(9):
        store.put(b"%d" % number, b"v", owner, 0, "192.0.2.0/24")
    for number in range(8):
        store.put(b"new %d" % number, b"v", PEERS[number], 0, f"10.0.{number}.0/24")
    assert store.get(key, 0) is not None


def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_BYTES", 50_000)
    store = Values(OWN, 10_000)
    for number in range(100):
        store.put(b"%d" % number, bytes(9000), PEERS[number], 0, f"10.0.{number}.0/24")
        assert store.size <= 50_000
    assert len(store) == 5


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8), st.integers(0, 3), st.integers(0, 60)), max_size=120))
def test_whatever_is_put_the_counts_are_right(puts: list[tuple[int, int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "MAX_VALUES", 12)
        patch.setattr(values, "PER_SENDER", 5)
        patch.setattr(values, "MAX_BYTES", 12 * 430)
        store = Values(OWN, 100)
        for key, sender, network, size in puts:
            try:
                store.put(b"%d" % key, bytes(size), PEERS[sender], 0, f"10.0.{network}.0/24" if network else None)
            except Refused:
                pass
            held = list(store._held.values())
            assert len(held) <= 12
            assert store.size == sum(one.size for one in held) <= 12 * 430
            assert store._senders == Counter(one.sender for one in held)
            assert max(store._senders.values(), default=0) <= 5


# --------------------------------------------------------------------------------------------------------------------
# Providers


def test_providers_expire_and_come_again() -> None:
    store = Providers(OWN)
    for number, peer in enumerate(PEERS[:5]):
        store.add(b"k", Peer(peer, (ADDRESS,)), number)
    assert store.get(b"k", LIFE + 3.5) == [Peer(PEERS[4], (ADDRESS,))]
    store.add(b"k", Peer(A), LIFE)
    assert {one.id for one in store.get(b"k", LIFE + 3.5)} == {A, PEERS[4]}
    store.sweep(3 * LIFE)
    assert (len(store), store.records, store.size) == (0, 0, 0)


def test_a_provider_has_its_keys_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "PER_PROVIDER", 5)
    store = Providers(OWN)
    for number in range(5):
        store.add(b"key %d" % number, Peer(A), 0)
    with pytest.raises(Refused, match="provides 5 keys already"):
        store.add(b"key 5", Peer(A), 0)
    store.add(b"key 4", Peer(A), 1)
    store.sweep(LIFE)
    for number in range(4):
        store.add(b"again %d" % number, Peer(A), 1)  # its count went down with what it was for


def test_two_hundred_providers_of_a_key_are_all_kept_and_named_in_turn() -> None:
    store = Providers(OWN, Random(1))
    for number, peer in enumerate(PEERS[:200]):
        store.add(b"k", Peer(peer), number, f"10.0.{number}.0/24")
    named = [one.id for _ in range(60) for one in store.get(b"k", 300, 20)]
    assert len(named) == 60 * 20
    assert set(named) == set(PEERS[:200])
    for peer in PEERS[:200]:
        assert [one.id for one in store.get(b"k", 300, 20, peer)].count(peer) == 1, "who asks is told of itself"


def test_many_made_up_providers_hide_nobody() -> None:
    store = Providers(OWN, Random(1))
    for number, peer in enumerate(PEERS[:20]):
        store.add(b"k", Peer(peer), 0, f"10.0.{number}.0/24")
    for number in range(3 * PER_KEY):
        store.add(b"k", Peer(b"\x12\x20" + sha256(b"%d" % number).digest()), 1, "192.0.2.0/24")
    assert store.records <= PER_KEY
    assert {one.id for one in store.get(b"k", 2)} >= set(PEERS[:20]), "the crowded network pushes out its own"
    named = Counter(one.id in PEERS[:20] for _ in range(20) for one in store.get(b"k", 2, 20))
    assert named[True] >= 20 * 19, "and takes one network's share of each answer"


def test_a_full_store_takes_from_those_that_hold_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "MAX_RECORDS", 100)
    store = Providers(OWN)
    for number in range(50):
        store.add(b"honest %d" % number, Peer(PEERS[number]), 0, f"10.0.{number}.0/24")
    for peer in PEERS[50:60]:
        for key in near(50):
            store.add(key, Peer(peer), 1, "192.0.2.0/24")
    assert store.records == 100
    assert all(store.get(b"honest %d" % number, 2) for number in range(50))


def test_bytes_of_provider_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "MAX_BYTES", 20_000)
    store = Providers(OWN)
    for number in range(200):
        store.add(b"%d" % number, Peer(PEERS[number], (bytes(150),) * 8), 0)
        assert store.size <= 20_000


# --------------------------------------------------------------------------------------------------------------------
# Addresses


def packed(text: str) -> bytes:
    found = heard.pack(text)
    assert found is not None
    return found


def test_addresses_are_kept_where_they_mean_the_same_to_both() -> None:
    public, private, loopback = (packed(f"/ip4/{ip}/tcp/1") for ip in ("8.8.8.8", "192.168.1.1", "127.0.0.1"))
    v6 = packed("/ip6/2001:4860::1/tcp/1/ws")
    mapped = b"\x29" + bytes(10) + b"\xff\xff\x7f\0\0\1\x06\0\1"  # ::ffff:127.0.0.1
    nowhere = packed("/ip6/fe80::1/tcp/1")
    link, zero = (packed(f"/ip4/{ip}/tcp/1") for ip in ("169.254.169.254", "0.0.0.0"))
    name = packed("/dns4/example.com/tcp/1")
    every = (loopback, private, public, v6, mapped, nowhere, link, zero, name)
    assert kept(every, PUBLIC) == (public, v6)
    assert kept(every, heard.met_at("192.168.7.7")) == (private, public, v6)
    assert kept(every, heard.met_at("10.0.0.1")) == (public, v6), "192.168.1.1 is somebody else there"
    assert kept(every, heard.met_at("192.168.7.7", relayed=True)) == (public, v6), "the relay is there, not the peer"
    assert told(every, heard.met_at("::ffff:192.168.7.7")) == (private, public, v6)
    assert told(every, heard.met_at("fe80::1%eth0")) == (public, v6)
    assert kept(every, HERE) == (loopback, private, public, v6, mapped)
    relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    assert kept([packed(f"/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit")], PUBLIC) == ()


@given(st.lists(st.binary(max_size=60), max_size=10), st.sampled_from([Place(scope) for scope in Scope]))
def test_any_bytes_are_an_address_or_not(found: list[bytes], place: Place) -> None:
    assert set(kept(found, place)) <= set(found)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.3.2.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("localhost", Scope.LOOPBACK),
        ("10.1.1.1", Scope.PRIVATE),
        ("fe80::1%eth0", Scope.PRIVATE),
        ("8.8.8.8", Scope.PUBLIC),
        ("relay.example.com", Scope.PUBLIC),
    ],
)
def test_where_a_peer_was_met(host: str, scope: Scope) -> None:
    assert heard.scope_of_host(host) is scope


def test_networks() -> None:
    assert heard.network_of_host("8.8.4.4") == "8.8.4.0/24"
    assert heard.network_of_host("::ffff:8.8.4.4") == "8.8.4.0/24"
    assert heard.network_of_host("2001:db8:1:2::3") == "2001:db8:1::/48"
    assert heard.network_of_host("relay.example.com") is None
    assert heard.public_network(packed("/ip4/8.8.4.4/tcp/1")) == "8.8.4.0/24"
    assert heard.public_network(packed("/ip4/10.8.4.4/tcp/1")) is None


def test_what_is_heard_is_bounded_and_who_is_in_the_table_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "MAX_HEARD", 10)
    where = Heard()
    where.hear(A, (b"a",))
    where.pin(A, (b"last",))
    for number in range(50):
        where.hear(b"%d" % number, (b"x",))
    assert (len(where), where.get(A)) == (10, (b"last", b"a"))
    where.hear(A, (b"told",))
    assert where.get(A) == (b"last", b"a", b"told")
    where.unpin(A)
    assert where.get(A) == (b"last", b"a", b"told")
    for number in range(50, 100):
        where.hear(b"%d" % number, (b"x",))
    assert where.get(A) == ()
    monkeypatch.setattr(heard, "MAX_BYTES", 1000)
    where.hear(B, (bytes(100),) * 8)
    assert where.size <= 1000 + heard.OVERHEAD
