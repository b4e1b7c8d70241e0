"""What the DHT decides: messages, table, lookups, records, keys. No peer can make it raise, loop or grow."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.dht import keys
from fabstird.p2p.dht.heard import met_at
from fabstird.p2p.dht.messages import Kind, Message, MessageError, Peer, Record, decode, encode
from fabstird.p2p.dht.providers import Providers
from fabstird.p2p.dht.republish_store import Kept
from fabstird.p2p.dht.routing import SECOND, K, RoutingTable, position
from fabstird.p2p.dht.server import Sender, Server
from fabstird.p2p.dht.values import Refused, Values

OWN = b"\x12\x20" + bytes(32)
PEERS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(1, 400)]
A, B, C = PEERS[:3]
LOOPBACK = b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"  # /ip4/127.0.0.1/tcp/4001
PRIVATE = b"\x04\x0a\x00\x00\x01\x06\x0f\xa1"  # /ip4/10.0.0.1/tcp/4001
ADDRESS = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"  # /ip4/8.8.8.8/tcp/4001
QUIC = b"\x04\x08\x08\x08\x08\x91\x02\x0f\xa1\xcd\x03"  # /ip4/8.8.8.8/udp/4001/quic-v1

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
    assert (len(read.closer), len(read.providers), len(read.closer[0].addresses)) == (64, 64, 32)


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


def test_one_network_does_not_take_the_table_nor_a_bucket() -> None:
    table = RoutingTable(OWN)
    far = [peer for peer in PEERS if (position(peer) ^ position(OWN)).bit_length() == 256]
    assert [table.add(peer, 0, "192.0.2.0/24") for peer in far[:6]] == [True, True, False, False, False, False]
    assert sum(table.add(peer, 0, "192.0.2.0/24") for peer in PEERS if peer not in far) == 1, "three in the table"
    assert table.add(far[10], 1, "198.51.100.0/24")
    table.remove(far[0])
    assert table.add(far[7], 0, "192.0.2.0/24")
    # One whose network is learned later, or that has moved, must fit in anew
    assert table.add(far[12], 0)
    assert not table.add(far[12], 1, "192.0.2.0/24")
    assert far[12] not in table


def test_who_does_not_answer_is_suspect_and_loses_its_place_later() -> None:
    left: list[bytes] = []
    table = RoutingTable(OWN, left=left.append)
    for peer in (A, B):
        table.add(peer, 0)
    assert not table.failed(A, 10)
    assert (table.closest(A), table.suspects(10), table.suspects(11)) == ([B], [], [A])
    assert not table.failed(A, 10 + SECOND - 1), "one outage of ours is one failure"
    table.heard(A, 20)
    assert not table.failed(A, 100)
    assert table.failed(A, 100 + SECOND)
    assert (left, table.peers()) == ([A], [B])
    assert not table.failed(B, 0)
    assert table.closest(A) == [B], "where there is nobody else, the suspect are asked"


def test_a_suspect_gives_its_place_to_a_newcomer() -> None:
    table = RoutingTable(OWN)
    far = [peer for peer in PEERS if (position(peer) ^ position(OWN)).bit_length() == 256]
    for peer in far[:K]:
        table.add(peer, 0)
    assert not table.add(far[K], 1)
    table.failed(far[3], 2)
    assert table.add(far[K], 3)
    assert far[3] not in table
    assert len(table) == K


def test_who_was_not_heard_of_is_stale() -> None:
    table = RoutingTable(OWN)
    table.add(A, 1)
    table.add(B, 1)
    table.add(A, 5)
    assert table.stale(5) == [B]


# --------------------------------------------------------------------------------------------------------------------
# Answers


def server(known: dict[bytes, tuple[bytes, ...]]) -> Server:
    table = RoutingTable(OWN)
    for peer in known:
        table.add(peer, 0)
    return Server(table, Values(OWN, 100), Providers(OWN), lambda peer: known.get(peer, ()), lambda key: key == b"mine")


def test_a_node_is_answered_with_whom_we_know_and_not_with_itself() -> None:
    ours = server({A: (ADDRESS,), B: (ADDRESS,), C: (), OWN: (ADDRESS,)})
    answer = ours.answer(Sender(A), Message(Kind.FIND_NODE, b"x"), 0)
    assert answer is not None
    assert answer.closer == (Peer(B, (ADDRESS,)),), "A asks, and nobody knows where C is"
    itself = ours.answer(Sender(A), Message(Kind.FIND_NODE, OWN), 0)
    assert itself is not None
    assert itself.closer == (Peer(OWN, (ADDRESS,)),)


def test_provider_records_of_others_are_refused() -> None:
    ours = server({})
    with pytest.raises(Refused, match="somebody else"):
        ours.answer(Sender(A), Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(B, (ADDRESS,)),)), 0)
    assert ours.answer(Sender(A), Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(B), Peer(A, (ADDRESS,)))), 0) is None
    told = ours.answer(Sender(B), Message(Kind.GET_PROVIDERS, b"k"), 0)
    assert told is not None
    assert told.providers == (Peer(A, (ADDRESS,)),)
    mine = ours.answer(Sender(B), Message(Kind.GET_PROVIDERS, b"mine"), 0)
    assert mine is not None
    assert [one.id for one in mine.providers] == [OWN]
    assert ours.refused == 1


def test_a_value_under_another_key_is_refused() -> None:
    ours = server({})
    for record in (None, Record(b"other", b"v")):
        with pytest.raises(Refused, match="another key"):
            ours.answer(Sender(A), Message(Kind.PUT_VALUE, b"k", record), 0)
    message = Message(Kind.PUT_VALUE, b"k", Record(b"k", b"v"))
    assert ours.answer(Sender(A), message, 0) == message
    got = ours.answer(Sender(B), Message(Kind.GET_VALUE, b"k"), 0)
    assert got is not None
    assert got.record == Record(b"k", b"v", "1970-01-01T00:00:00.000000Z")


def test_addresses_are_told_to_those_to_whom_they_mean_something() -> None:
    ours = server({A: (LOOPBACK, PRIVATE, ADDRESS)})
    for host, told in (
        ("8.8.4.4", (ADDRESS,)),
        ("192.168.1.1", (ADDRESS,)),
        ("10.7.7.7", (PRIVATE, ADDRESS)),
        ("127.0.0.1", (LOOPBACK, PRIVATE, ADDRESS)),
    ):
        sender = Sender(B, None, met_at(host))
        answer = ours.answer(sender, Message(Kind.FIND_NODE, b"x"), 0)
        assert answer is not None
        assert answer.closer == (Peer(A, told),)
        ours.answer(sender, Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(B, (LOOPBACK, PRIVATE, ADDRESS)),)), 0)
        got = ours.answer(Sender(C), Message(Kind.GET_PROVIDERS, b"k"), 0)
        assert got is not None
        assert got.providers == (Peer(B, (ADDRESS,)),)


def test_what_cannot_be_dialled_goes_first_and_only_then_is_cut() -> None:
    ours = server({})
    quic = tuple(QUIC[:-3] + bytes([port]) + QUIC[-2:] for port in range(20))
    ours.answer(Sender(A), Message(Kind.ADD_PROVIDER, b"k", providers=(Peer(A, (*quic, ADDRESS)),)), 0)
    got = ours.answer(Sender(B), Message(Kind.GET_PROVIDERS, b"k"), 0)
    assert got is not None
    assert got.providers == (Peer(A, (ADDRESS,)),)


@given(made, st.sampled_from([A, B, OWN]))
def test_whatever_is_asked_is_answered_or_refused(message: Message, sender: bytes) -> None:
    ours = server({A: (ADDRESS,), B: (ADDRESS,)})
    try:
        answer = ours.answer(Sender(sender), message, 0)
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


def test_kept_records_outlive_a_restart(tmp_path: Path) -> None:
    now = 1_000_000.0
    kept = Kept(tmp_path / "dht.json", clock=lambda: now)
    kept.load()
    provided, value = kept.put(b"\xff", None), kept.put(b"k", b"v")
    kept.announced(provided)
    kept.save()
    again = Kept(tmp_path / "dht.json", clock=lambda: now)
    again.load()
    assert again.all() == [provided, value]
    assert (again.get((True, b"k")), again.get((False, b"k"))) == (value, None)
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
