"""What the DHT decides: messages, table, lookups, records, keys. No peer can make it raise, loop or grow."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.dht import keys, lookup, records
from fabstird.p2p.dht.kept import AGAIN, Kept
from fabstird.p2p.dht.lookup import Lookup
from fabstird.p2p.dht.messages import Kind, Message, MessageError, Peer, Record, decode, encode
from fabstird.p2p.dht.records import LIFE, Providers, Refused, Values
from fabstird.p2p.dht.routing import K, RoutingTable, position
from fabstird.p2p.dht.server import Server

OWN = b"\x12\x20" + bytes(32)
PEERS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(1, 400)]
A, B, C = PEERS[:3]
ADDRESS = b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"  # /ip4/127.0.0.1/tcp/4001

peers = st.builds(
    Peer, st.binary(min_size=1, max_size=128), st.lists(st.binary(min_size=1, max_size=30), max_size=5).map(tuple)
)
made = st.builds(
    Message,
    st.sampled_from(Kind),
    st.binary(max_size=60),
    st.none()
    | st.builds(Record, st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(["", "2026-11-22T13Z"])),
    st.lists(peers, max_size=4).map(tuple),
    st.lists(peers, max_size=4).map(tuple),
)


# --------------------------------------------------------------------------------------------------------------------
# Messages


@given(made)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=400))
def test_garbage_is_a_message_or_an_error(data: bytes) -> None:
    try:
        message = decode(data)
    except MessageError:
        return
    assert isinstance(message, Message)


@given(made, st.data())
def test_a_message_that_is_cut_or_bent_is_a_message_or_an_error(message: Message, data: st.DataObject) -> None:
    packed = bytearray(encode(message))
    at = data.draw(st.integers(0, len(packed)))
    bent = packed[:at] + data.draw(st.binary(max_size=4)) + packed[at + data.draw(st.integers(0, 3)) :]
    try:
        decode(bytes(bent))
    except MessageError:
        return


def test_the_bytes_are_the_specifications() -> None:
    # FIND_NODE for "key": type = 4 (field 1), key (field 2); a peer in closerPeers (field 8)
    assert encode(Message(Kind.FIND_NODE, b"key")) == bytes.fromhex("0804 1203") + b"key"
    assert decode(bytes.fromhex("0804 1203") + b"key" + bytes.fromhex("4205 0a01 41 1800")).closer == (Peer(b"A"),)
    # clusterLevelRaw (field 10) and a record's publisher and ttl (666, 777) of rust-libp2p are passed over
    record = b"\x0a\x01k\x12\x01v\xd2\x29\x01P\xc8\x30\x05"
    told = decode(b"\x08\x01\x12\x01k\x50\x01\x1a" + bytes([len(record)]) + record)
    assert told == Message(Kind.GET_VALUE, b"k", Record(b"k", b"v"))


def test_lists_of_a_message_are_bounded() -> None:
    many = tuple(Peer(b"x", (b"a",) * 100) for _ in range(500))
    read = decode(encode(Message(Kind.FIND_NODE, b"k", closer=many, providers=many)))
    assert (len(read.closer), len(read.providers), len(read.closer[0].addresses)) == (64, 64, 16)


# --------------------------------------------------------------------------------------------------------------------
# The routing table


@given(st.lists(st.sampled_from(PEERS), max_size=400), st.binary(min_size=1, max_size=20))
def test_the_closest_are_the_closest(known: list[bytes], key: bytes) -> None:
    table = RoutingTable(OWN)
    there = {peer for peer in known if table.add(peer, 0)}
    assert len(table) == len(there)
    by_distance = sorted(there, key=lambda peer: position(peer) ^ position(key))
    assert table.closest(key) == by_distance[:K]


def test_a_full_bucket_keeps_those_it_knows() -> None:
    table = RoutingTable(OWN)
    far = [peer for peer in PEERS if (position(peer) ^ position(OWN)).bit_length() == 256]
    assert [table.add(peer, 0) for peer in far[: K + 5]] == [True] * K + [False] * 5
    assert table.remove(far[0])
    assert table.add(far[K], 0)
    assert not table.remove(far[0])
    assert far[0] not in table
    assert not table.add(OWN, 0)


def test_one_network_does_not_take_the_table() -> None:
    table = RoutingTable(OWN, per_network=3)
    assert sum(table.add(peer, 0, "192.0.2.0/24") for peer in PEERS) == 3
    assert table.add(PEERS[-1], 1, "198.51.100.0/24")
    first = next(peer for peer in table.peers() if peer != PEERS[-1])
    table.remove(first)
    assert sum(table.add(peer, 0, "192.0.2.0/24") for peer in PEERS if peer not in table) == 1


def test_who_was_not_heard_of_is_stale() -> None:
    table = RoutingTable(OWN)
    table.add(A, 1)
    table.add(B, 1)
    table.add(A, 5)
    assert table.stale(5) == [B]


# --------------------------------------------------------------------------------------------------------------------
# Lookups


def test_a_lookup_comes_to_the_closest_of_a_whole_network() -> None:
    """400 peers; each knows its own closest twenty and twenty others. What is found is what is there."""
    tables = {}
    for index, peer in enumerate(PEERS):
        tables[peer] = RoutingTable(peer)
        for other in [*PEERS[index : index + K], *PEERS[::19]]:
            tables[peer].add(other, 0)
        for near in sorted(PEERS, key=lambda other: position(other) ^ position(peer))[1:K]:
            tables[peer].add(near, 0)
    target = b"anything"
    search = Lookup(target, OWN, PEERS[:3])
    while not search.done:
        for peer in search.due():
            search.answered(peer, tables[peer].closest(target))
    assert search.closest() == sorted(PEERS, key=lambda peer: position(peer) ^ position(target))[:K]
    assert search.asked < 80


def test_those_that_do_not_answer_are_passed_over() -> None:
    search = Lookup(b"x", OWN, [A, B, OWN])
    assert sorted(search.due()) == sorted([A, B])
    assert search.due() == []
    search.failed(A)
    assert not search.done
    search.answered(B, [C, OWN, A])
    assert search.due() == [C]
    search.failed(C)
    assert search.done
    assert search.closest() == [B]


def test_no_more_are_asked_at_a_time_than_alpha() -> None:
    search = Lookup(b"x", OWN, PEERS[:50], alpha=3)
    first = search.due()
    assert len(first) == 3
    search.answered(first[0], [])
    assert len(search.due()) == 1


def test_liars_who_make_up_ever_closer_peers_come_to_an_end() -> None:
    search = Lookup(b"x", OWN, [A])
    while not search.done:
        for peer in search.due():
            search.answered(peer, [b"\x12\x20" + os.urandom(32) for _ in range(64)])
    assert search.asked <= lookup.MAX_ASKED
    assert search.count("heard") <= lookup.MAX_HEARD


def test_a_lookup_that_knows_nobody_is_done() -> None:
    assert Lookup(b"x", OWN, []).done


# --------------------------------------------------------------------------------------------------------------------
# Records


def test_values_expire_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_VALUES", 10)
    values = Values(OWN, 100)
    values.put(b"k", b"v", A, 0)
    held = values.get(b"k", LIFE - 1)
    assert held is not None
    assert held.value == b"v"
    assert values.get(b"k", LIFE) is None
    taken = 0
    for number in range(200):
        try:
            values.put(b"key %d" % number, b"", A, 0)
            taken += 1
        except Refused:
            pass
    assert len(values) == 10
    assert taken > 10, "closer ones have pushed farther ones out"
    values.sweep(LIFE)
    assert len(values) == 0


def test_values_that_are_not_taken() -> None:
    values = Values(OWN, 100)
    for key, value in ((b"k", bytes(101)), (b"", b"v"), (bytes(513), b"v"), (b"/ipns/x", b"v"), (b"/nobody/x", b"v")):
        with pytest.raises(Refused):
            values.put(key, value, A, 0)
    public = b"\x08\x01\x12\x20" + bytes(32)
    values.put(b"/pk/\x12\x20" + sha256(public).digest(), public, A, 0)
    values.put(b"/pk/\x00\x24" + public, public, A, 0)
    with pytest.raises(Refused, match="public key"):
        values.put(b"/pk/\x12\x20" + sha256(public).digest(), public + b"!", A, 0)


def test_what_its_owner_has_put_no_stranger_replaces() -> None:
    owner = b"\x00\x24\x08\x01\x12\x20" + bytes(range(32))
    key = b"metadata:" + keys.base58.b58encode(owner)
    values = Values(OWN, 100)
    values.put(key, b"from a stranger", A, 0)
    values.put(key, b"from the owner", owner, 0)
    with pytest.raises(Refused, match="owner"):
        values.put(key, b"forged", A, 0)
    values.put(key, b"from the owner", A, 5)  # a node that hands on what it holds
    values.put(key, b"new", owner, 6)
    held = values.get(key, 6)
    assert held is not None
    assert (held.value, held.by_owner) == (b"new", True)


def test_providers_expire_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_PROVIDED", 10)
    monkeypatch.setattr(records, "MAX_PROVIDED_BY", 5)
    monkeypatch.setattr(records, "MAX_PROVIDERS", 3)
    store = Providers(OWN)
    for number, peer in enumerate(PEERS[:5]):
        store.add(b"k", Peer(peer, (ADDRESS,)), number)
    assert [one.id for one in store.get(b"k", 5)] == [PEERS[4], PEERS[3], PEERS[2]]
    assert store.get(b"k", LIFE + 3.5) == [Peer(PEERS[4], (ADDRESS,))]
    for number in range(5):
        store.add(b"key %d" % number, Peer(A), 0)
    with pytest.raises(Refused, match="provides 5 keys already"):
        store.add(b"key 5", Peer(A), 0)
    for number in range(200):
        try:
            store.add(b"other %d" % number, Peer(PEERS[number]), 0)
        except Refused:
            pass
    assert len(store) == 10
    store.sweep(2 * LIFE)
    assert len(store) == 0
    for number in range(5):
        store.add(b"again %d" % number, Peer(A), 0)  # its count went down with what it was for


# --------------------------------------------------------------------------------------------------------------------
# Answers


def server(known: dict[bytes, tuple[bytes, ...]]) -> Server:
    table = RoutingTable(OWN)
    for peer in known:
        table.add(peer, 0)
    return Server(table, Values(OWN, 100), Providers(OWN), lambda peer: known.get(peer, ()), lambda key: key == b"mine")


def test_a_node_is_answered_with_whom_we_know_and_not_with_itself() -> None:
    ours = server({A: (ADDRESS,), B: (ADDRESS,), C: (), OWN: (ADDRESS,)})
    answer = ours.answer(A, Message(Kind.FIND_NODE, b"x"), 0)
    assert answer is not None
    assert answer.closer == (Peer(B, (ADDRESS,)),), "A asks, and nobody knows where C is"
    itself = ours.answer(A, Message(Kind.FIND_NODE, OWN), 0)
    assert itself is not None
    assert itself.closer == (Peer(OWN, (ADDRESS,)),)


def test_provider_records_of_others_are_refused() -> None:
    ours = server({})
    with pytest.raises(Refused, match="somebody else"):
        ours.answer(A, Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(B, (ADDRESS,)),)), 0)
    assert ours.answer(A, Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(B), Peer(A, (ADDRESS,)))), 0) is None
    told = ours.answer(B, Message(Kind.GET_PROVIDERS, b"k"), 0)
    assert told is not None
    assert told.providers == (Peer(A, (ADDRESS,)),)
    mine = ours.answer(B, Message(Kind.GET_PROVIDERS, b"mine"), 0)
    assert mine is not None
    assert [one.id for one in mine.providers] == [OWN]
    assert ours.refused == 1


def test_a_value_under_another_key_is_refused() -> None:
    ours = server({})
    for record in (None, Record(b"other", b"v")):
        with pytest.raises(Refused, match="another key"):
            ours.answer(A, Message(Kind.PUT_VALUE, b"k", record), 0)
    message = Message(Kind.PUT_VALUE, b"k", Record(b"k", b"v"))
    assert ours.answer(A, message, 0) == message
    got = ours.answer(B, Message(Kind.GET_VALUE, b"k"), 0)
    assert got is not None
    assert got.record == Record(b"k", b"v", "1970-01-01T00:00:00.000000Z")


@given(made, st.sampled_from([A, B, OWN]))
def test_whatever_is_asked_is_answered_or_refused(message: Message, sender: bytes) -> None:
    ours = server({A: (ADDRESS,), B: (ADDRESS,)})
    try:
        answer = ours.answer(sender, message, 0)
    except Refused:
        return
    assert answer is None or decode(encode(answer)).kind is message.kind


# --------------------------------------------------------------------------------------------------------------------
# Keys


def test_keys_in_every_encoding() -> None:
    digest = b"\x12\x20" + sha256(b"test").digest()
    v0 = "QmYtUc4iTCbbfVSDNKvtQqrfyezPPnFvE33wFmutw9PBBk"
    assert keys.multihash(b"test") == digest
    assert keys.parse("test", "text") == b"test"
    assert keys.parse("dGVzdA==", "base64") == b"test"
    raw = "bafkreie7q3iidccmpvszul7kudcvvuavuo7u6gzlbobczuk5nqk3b4akba"  # CIDv1, raw, base32
    assert keys.parse(raw, "cid") == digest
    assert keys.parse("f01551220" + digest[2:].hex(), "cid") == digest
    assert keys.parse(v0, "cid")[:2] == b"\x12\x20"


@given(st.text(max_size=80), st.sampled_from(["text", "base64", "cid"]))
def test_any_text_is_a_key_or_an_error(text: str, encoding: keys.Encoding) -> None:
    try:
        key = keys.parse(text, encoding)
    except keys.BadKey:
        return
    assert 0 < len(key) <= keys.MAX_KEY


@given(st.binary(max_size=80))
def test_any_key_has_an_owner_or_none(key: bytes) -> None:
    assert keys.owner(b"metadata:" + key) is None or len(key) > 2
    keys.namespace(key)


# --------------------------------------------------------------------------------------------------------------------
# What is announced again


def test_kept_records_are_due_every_twelve_hours_and_outlive_a_restart(tmp_path: Path) -> None:
    now = 1_000_000.0
    kept = Kept(tmp_path / "dht.json", clock=lambda: now)
    kept.load()
    provided, value = kept.put(b"\xff", None), kept.put(b"k", b"v")
    assert kept.due() == [provided, value]
    kept.announced(provided)
    kept.announced(value)
    kept.save()
    again = Kept(tmp_path / "dht.json", clock=lambda: now)
    again.load()
    assert again.due() == []
    now += AGAIN - 1
    assert again.due() == []
    now += 1
    assert [(one.key, one.value) for one in again.due()] == [(b"\xff", None), (b"k", b"v")]
    now -= 10 * AGAIN
    assert len(again.due()) == 2, "a clock that was set back delays nothing"
    assert again.provides(b"\xff")
    assert not again.provides(b"k")
    assert len(again.forget(b"k")) == 1
    assert again.forget(b"k") == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version":2,"records":[]}', b'{"version":1,"records":[{"key":7}]}', b"\xff"]
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dht.json").write_bytes(content)
    kept = Kept(tmp_path / "dht.json")
    kept.load()
    assert kept.all() == []
    [aside] = tmp_path.glob("dht.json.damaged-*")
    assert aside.read_bytes() == content
