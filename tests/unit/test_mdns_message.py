"""mDNS messages: what goes out is what other implementations want to see, and whatever comes in is survived."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from zeroconf import DNSIncoming, DNSOutgoing, DNSPointer, DNSText

from fabstird.identity import Identity
from fabstird.p2p.mdns.message import (
    MAX_OFFERS,
    MAX_PACKET,
    SERVICE,
    SERVICES,
    TTL,
    Message,
    Name,
    answer,
    goodbye,
    question,
    read,
    services,
)
from fabstird.p2p.wire.addresses import Address, parse

PEER, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))
NAME = Name("a" * 40)
HERE = parse(f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}")
SIX = parse(f"/ip6/2001:db8::1/tcp/4002/ws/p2p/{PEER}")


def understood(packet: bytes) -> Message:
    message = read(packet)
    assert message is not None
    return message


def told(*records: DNSPointer | DNSText) -> bytes:
    """A response with these records, the first as its answer."""
    out = DNSOutgoing(0x8400)
    out.add_answer_at_time(records[0], 0)
    for record in records[1:]:
        out.add_additional_answer(record)
    return b"".join(out.packets())


def pointer(name: str, ttl: int = TTL) -> DNSPointer:
    return DNSPointer(SERVICE, 12, 1, ttl, name)


def text(name: str, *strings: str) -> DNSText:
    return DNSText(name, 16, 1, TTL, b"".join(bytes([len(s.encode())]) + s.encode() for s in strings))


def test_a_question_is_asked_of_everybody() -> None:
    message = understood(question())
    assert message.asked == {SERVICE}
    assert NAME.is_asked_by(message)
    assert question()[:4] == bytes(4), "id 0 and no flags: RFC 6762, section 18"


def test_an_answer_is_read_back_as_it_was_meant() -> None:
    (offer,) = understood(answer(NAME, [HERE, SIX])).offers
    assert (offer.name, offer.peer_id, offer.ttl) == (NAME.instance, PEER, TTL)
    assert offer.addresses == (HERE, SIX)


def test_an_answer_has_what_other_implementations_look_for() -> None:
    """go-libp2p wants SRV and an address of its target, and reads one TXT record; js-libp2p and rust-libp2p read the
    strings of TXT records under the name that PTR gives."""
    incoming = DNSIncoming(answer(NAME, [HERE, SIX]))
    kinds = {record.type: record for record in incoming.answers()}
    assert set(kinds) == {12, 33, 16, 1, 28}
    assert len(incoming.answers()) == 5
    assert kinds[12].alias == kinds[33].name == kinds[16].name == NAME.instance
    assert kinds[33].server == kinds[1].name == kinds[28].name == NAME.host
    assert kinds[16].text == b"".join(bytes([len(t)]) + t for t in (f"dnsaddr={a}".encode() for a in (HERE, SIX)))
    assert (incoming.num_answers, incoming.num_additionals) == (1, 4)


def test_an_answer_stays_in_one_packet_of_any_network() -> None:
    many = [parse(f"/ip6/2001:db8::{number:x}/tcp/65535/ws/p2p/{PEER}") for number in range(1, 100)]
    packet = answer(NAME, many)
    assert len(packet) <= 1452, "an Ethernet frame less the IPv6 and UDP headers"
    (offer,) = understood(packet).offers
    assert offer.addresses == tuple(many[: len(offer.addresses)])
    assert len(offer.addresses) >= 7


def test_a_random_name_fits_the_specification() -> None:
    names = {Name.random().label for _ in range(100)}
    assert len(names) == 100
    assert all(32 <= len(name) < 64 and name.isalnum() and name == name.lower() for name in names)


def test_a_goodbye_names_nobody_who_is_there() -> None:
    message = understood(goodbye(NAME))
    assert message.gone == (NAME.instance,)
    assert message.offers == ()
    assert b"dnsaddr" not in goodbye(NAME)


def test_services_are_told_to_who_asks_for_them() -> None:
    (record,) = DNSIncoming(services()).answers()
    assert (record.name, record.type, record.alias) == (SERVICES, 12, SERVICE)


def test_who_knows_the_answer_is_not_told() -> None:
    out = DNSOutgoing(0)
    out.add_question(DNSIncoming(question()).questions[0])
    out.add_answer_at_time(pointer(NAME.instance), 0)
    assert not NAME.is_asked_by(understood(b"".join(out.packets())))
    assert Name("b" * 40).is_asked_by(understood(b"".join(out.packets())))


@pytest.mark.parametrize("name", [NAME.instance, NAME.host])
def test_who_asks_for_us_by_name_is_answered(name: str) -> None:
    out = DNSOutgoing(0)
    one = DNSIncoming(question()).questions[0]
    out.add_question(type(one)(name.upper(), 16, 1))
    assert NAME.is_asked_by(understood(b"".join(out.packets())))
    assert not Name("b" * 40).is_asked_by(understood(b"".join(out.packets())))


def test_rust_names_have_one_label_and_a_record_for_each_address() -> None:
    name = "x" * 50 + "."
    first, second = f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}", f"/ip4/192.0.2.2/tcp/2/p2p/{PEER}"
    packet = told(pointer(name), text(name, f"dnsaddr={first}"), text(name, f"dnsaddr={second}"))
    (offer,) = understood(packet).offers
    assert [str(address) for address in offer.addresses] == [first, second]


@pytest.mark.parametrize(
    "liar",
    [
        f"/ip4/192.0.2.1/tcp/0/p2p/{PEER}",
        "/ip4/192.0.2.1/tcp/1",
        f"/dns4/example.org/tcp/1/p2p/{PEER}",
        f"/dnsaddr/example.org/p2p/{PEER}",
        f"/ip4/192.0.2.1/udp/1/webrtc-direct/p2p/{PEER}",
        f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit",
        f"/ip4/999.0.2.1/tcp/1/p2p/{PEER}",
        "/ip4/192.0.2.1/tcp/1/p2p/QmNobody",
        "/ip4/192.0.2.1/tcp/1/p2p/",
        "\N{SNOWMAN}",
        "",
    ],
)
def test_an_address_that_cannot_be_used_is_left_out(liar: str) -> None:
    good = f"dnsaddr={HERE}"
    packet = told(pointer(NAME.instance), text(NAME.instance, f"dnsaddr={liar}", liar, good))
    (offer,) = understood(packet).offers
    assert offer.addresses == (HERE,)
    assert understood(told(pointer(NAME.instance), text(NAME.instance, f"dnsaddr={liar}"))).offers == ()


def test_an_answer_speaks_for_one_peer_only() -> None:
    another = f"dnsaddr=/ip4/192.0.2.9/tcp/1/p2p/{OTHER}"
    (offer,) = understood(told(pointer(NAME.instance), text(NAME.instance, f"dnsaddr={HERE}", another))).offers
    assert offer.addresses == (HERE,)


def test_one_packet_names_no_more_peers_than_it_may() -> None:
    names = [f"n{number}.{SERVICE}" for number in range(3 * MAX_OFFERS)]
    out = DNSOutgoing(0x8400)
    for name in names:
        out.add_answer_at_time(pointer(name), 0)
        out.add_additional_answer(text(name, f"dnsaddr={HERE}"))
    out.allow_long = True
    offers = [offer for packet in out.packets() for offer in understood(packet).offers]
    assert len(offers) <= MAX_OFFERS


def test_other_services_are_none_of_ours() -> None:
    printer = DNSPointer("_ipp._tcp.local.", 12, 1, TTL, f"printer.{SERVICE}")
    assert understood(told(printer, text(f"printer.{SERVICE}", f"dnsaddr={HERE}"))) == Message()


@given(st.binary(max_size=512))
@example(b"")
@example(bytes(12))
@example(struct.pack(">6H", 0, 0x8400, 0, 0xFFFF, 0xFFFF, 0xFFFF) + bytes(100))
@example(struct.pack(">6H", 0, 0, 0xFFFF, 0, 0, 0) + b"\xc0\x0c" * 200)
@example(struct.pack(">6H", 0, 0, 1, 0, 0, 0) + b"\x07\x05local" + bytes(5))
def test_garbage_is_survived(packet: bytes) -> None:
    read(packet)


@given(st.data())
def test_damaged_answers_are_survived(data: st.DataObject) -> None:
    packet = bytearray(answer(NAME, [HERE, SIX]))
    for _ in range(data.draw(st.integers(1, 8))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    message = read(bytes(packet[: data.draw(st.integers(0, len(packet)))]))
    for offer in message.offers if message else ():
        assert all(isinstance(address, Address) and address.peer_id == offer.peer_id for address in offer.addresses)


@given(st.lists(st.text(max_size=80), max_size=8))
def test_any_text_in_a_record_is_survived(strings: list[str]) -> None:
    short = [one for one in strings if len(one.encode("utf-8", "surrogatepass")) < 200 and one.isprintable()]
    packet = told(pointer(NAME.instance), text(NAME.instance, *(f"dnsaddr=/ip4/{one}" for one in short)))
    assert understood(packet).offers == ()


def crowded(seed: int) -> bytes:
    """As many addresses as fit into an ordinary packet, none of which was ever seen before."""
    ports = range(seed * 14 + 1, seed * 14 + 15)
    strings = [f"dnsaddr=/ip4/1.2.3.4/tcp/{port}/p2p/{PEER}" for port in ports]
    return told(pointer(NAME.instance), text(NAME.instance, *strings))


def test_a_hundred_crowded_packets_do_not_hold_the_loop_up() -> None:
    packets = [crowded(seed) for seed in range(100)]
    begun = time.process_time()
    assert all(len(understood(packet).offers) == 1 for packet in packets)
    assert time.process_time() - begun < 5, "of processor time, not of the clock"


@pytest.mark.parametrize(
    "packet",
    [
        # as many records as fit, their names chains of pointers to one another
        struct.pack(">6H", 0, 0x8400, 0, 700, 0, 0) + b"\x01a\xc0\x0c\x00\x0c\x00\x01\x00\x00\x00\x01\x00\x00" * 640,
        struct.pack(">6H", 0, 0, 1400, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 3 + b"\xc0\x0c\x00\x0c\x00\x01" * 1400,
    ],
    ids=["pointers", "labels"],
)
def test_the_worst_packet_does_not_hold_the_loop_up(packet: bytes) -> None:
    packet = packet[:MAX_PACKET]
    begun = time.process_time()
    for _ in range(100):
        read(packet)
    assert time.process_time() - begun < 5
