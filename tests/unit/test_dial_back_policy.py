"""Whom a daemon dials back for AutoNAT, where and how often; and the messages of its second version."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from fabstird.identity import Identity
from fabstird.p2p.nat import autonat_messages as messages
from fabstird.p2p.nat.dial_back_policy import (
    MAX_DIALLED,
    MAX_LISTED,
    MINUTE,
    VERSION_1,
    VERSION_2,
    Questions,
    Rates,
    Window,
    at_the_asker,
    first_allowed,
    is_elsewhere,
    is_outward,
)
from fabstird.p2p.wire.addresses import Address, parse
from fabstird.p2p.wire.frames import Undecodable
from fabstird.p2p.wire.ips import reach, to_ip

PRIVATE = ipaddress.IPv4Address("10.0.0.9")
PEER = Identity.from_seed(bytes(32)).peer_id


def packed(*texts: str) -> list[bytes]:
    return [bytes(Multiaddr(text).to_bytes()) for text in texts]


def anywhere(_: Address) -> bool:
    return True


@pytest.mark.parametrize(
    ("listed", "seen", "dialled"),
    [
        (["/ip4/45.32.1.1/tcp/4001"], "45.32.1.1", ["/ip4/45.32.1.1/tcp/4001"]),
        (
            ["/ip4/10.0.0.2/tcp/4001", "/ip6/fd00::2/tcp/4002/ws"],
            "45.32.1.1",
            ["/ip4/45.32.1.1/tcp/4001", "/ip4/45.32.1.1/tcp/4002/ws"],
        ),
        (["/ip4/8.8.8.8/tcp/1", "/ip4/127.0.0.1/tcp/1"], "45.32.1.1", ["/ip4/45.32.1.1/tcp/1"]),
        (["/ip4/10.0.0.2/tcp/1"], "10.0.0.2", ["/ip4/10.0.0.2/tcp/1"]),
        # nothing that could be dialled: from where its connection comes
        ([], "45.32.1.1", ["/ip4/45.32.1.1/tcp/61000"]),
        (
            ["/ip4/10.0.0.2/tcp/0", "/dns4/a.example/tcp/1", "/ip4/10.0.0.2/udp/1/quic-v1"],
            "10.0.0.2",
            ["/ip4/10.0.0.2/tcp/61000"],
        ),
        (["/ip4/10.0.0.2/tcp/1/p2p/" + PEER + "/p2p-circuit"], "10.0.0.2", ["/ip4/10.0.0.2/tcp/61000"]),
        (["/ip4/10.0.0.2/tcp/1"], "fe80::1", []),
    ],
)
def test_version_1_dials_the_asker_s_own_ip_address_alone(listed: list[str], seen: str, dialled: list[str]) -> None:
    kind = "ip6" if ":" in seen else "ip4"
    found = at_the_asker([*packed(*listed), b"nonsense"], PEER, parse(f"/{kind}/{seen}/tcp/61000"))
    assert [str(one) for one in found] == [f"{text}/p2p/{PEER}" for text in dialled]


def test_version_1_dials_nobody_by_quic() -> None:
    """A dial back speaks TCP: the port of UDP that a peer comes from means nothing there."""
    seen = parse("/ip4/45.32.1.1/udp/61000/quic-v1")
    assert at_the_asker(packed("/ip4/45.32.1.1/udp/4001/quic-v1"), PEER, seen) == []
    found = at_the_asker(packed("/ip4/10.0.0.1/tcp/4001"), PEER, seen)
    assert [str(one) for one in found] == [f"/ip4/45.32.1.1/tcp/4001/p2p/{PEER}"]


def test_version_1_dials_few() -> None:
    found = at_the_asker(
        packed(*(f"/ip4/45.32.1.1/tcp/{port}" for port in range(1, 100))), PEER, parse("/ip4/45.32.1.1/tcp/9")
    )
    assert len(found) == MAX_DIALLED


@pytest.mark.parametrize(
    ("listed", "seen", "chosen"),
    [
        (["/ip4/10.0.0.2/tcp/1", "/ip4/45.32.1.9/tcp/1"], "45.32.1.1", 1),
        (["/ip4/10.0.0.2/tcp/1", "/ip4/45.32.1.9/tcp/1"], "10.0.0.2", 0),
        (["/ip4/10.0.0.2/tcp/1"], "10.0.0.3", None),  # of the same network, and still not where it is
        (["/ip4/127.0.0.1/tcp/1"], "127.0.0.2", None),
        (["/ip4/224.0.0.1/tcp/1", "/ip4/169.254.169.254/tcp/80", "/ip6/fe80::1/tcp/1"], "45.32.1.1", None),
        (["/ip6/64:ff9b::a00:2/tcp/1", "/ip6/2002:a00:2::/tcp/1"], "45.32.1.1", None),  # 10.0.0.2 in other clothes
        (["/dns4/localhost/tcp/1", "/ip4/45.32.1.9/udp/1/quic-v1", "/ip4/45.32.1.9/tcp/0"], "45.32.1.9", None),
        ([f"/ip4/45.32.1.9/tcp/1/p2p/{PEER}/p2p-circuit"], "45.32.1.9", None),
        ([], "45.32.1.9", None),
    ],
)
def test_version_2_dials_what_is_public_or_the_asker_s_own(listed: list[str], seen: str, chosen: int | None) -> None:
    found = first_allowed(packed(*listed), PEER, seen, anywhere)
    if chosen is None:
        assert found is None
    else:
        assert found == (chosen, parse(f"{listed[chosen]}/p2p/{PEER}"))


def test_version_2_passes_over_what_it_cannot_reach_and_reads_no_endless_list() -> None:
    listed = packed("/ip6/2606:4700::1/tcp/1", "/ip4/45.32.1.9/tcp/1")
    found = first_allowed(listed, PEER, "45.32.1.1", lambda address: address.kind == "ip4")
    assert found is not None
    assert found[0] == 1
    many = [b"nonsense"] * MAX_LISTED + packed("/ip4/45.32.1.9/tcp/1")
    assert first_allowed(many, PEER, "45.32.1.1", anywhere) is None
    assert first_allowed(many[1:], PEER, "45.32.1.1", anywhere) is not None


def test_who_has_to_pay() -> None:
    assert not is_elsewhere(parse("/ip4/45.32.1.1/tcp/1"), "::ffff:45.32.1.1")
    assert is_elsewhere(parse("/ip4/45.32.1.2/tcp/1"), "45.32.1.1")
    assert is_elsewhere(parse("/ip6/2606:4700::1/tcp/1"), "45.32.1.1")


def test_who_is_heard_by_others() -> None:
    assert is_outward([to_ip("127.0.0.1"), to_ip("10.0.0.1")])
    assert is_outward([to_ip("0.0.0.0")])
    assert not is_outward([to_ip("127.0.0.1"), to_ip("::1"), None])
    assert not is_outward([])


def test_questions_of_one_peer_of_one_address_and_of_all() -> None:
    questions = Questions(VERSION_1)

    def ask(peer: str, host: str, now: float = 0) -> bool:
        admitted = questions.begin(peer, host, now)
        if admitted:
            questions.end(peer, host)
        return admitted

    assert [ask("a", "45.32.1.1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [ask(f"b{number}", "45.32.1.1") for number in range(10)] == [True] * 7 + [False] * 3
    assert [ask(f"c{number}", f"45.33.{number}.1") for number in range(40)] == [True] * 20 + [False] * 20
    assert not ask("d", "45.32.3.1", MINUTE - 1)
    assert ask("a", "45.32.1.1", MINUTE)


def test_questions_at_once() -> None:
    questions = Questions(VERSION_2)
    assert [questions.begin("a", "45.32.1.1", 0) for _ in range(3)] == [True, True, False]
    admitted = [questions.begin(f"b{number}", f"45.33.{number}.1", 0) for number in range(10)]
    assert admitted == [True] * 6 + [False] * 4
    assert questions.under_way == VERSION_2.at_once
    questions.end("a", "45.32.1.1")
    assert questions.begin("a", "45.32.1.1", 0)


@pytest.mark.parametrize("rates", [VERSION_1, VERSION_2])
def test_one_address_leaves_others_their_places(rates: Rates) -> None:
    """Peer ids cost nothing, and a question that never comes keeps a place for ten seconds."""
    questions = Questions(rates)
    admitted = [questions.begin(f"a{number}", "45.32.1.1", 0) for number in range(10)]
    assert admitted == [True] * 4 + [False] * 6
    assert questions.begin("b", "45.32.1.2", 0)
    questions.end("a0", "45.32.1.1")
    assert questions.begin("a9", "45.32.1.1", 0)
    for peer, host in [("a1", "45.32.1.1"), ("a2", "45.32.1.1"), ("a3", "45.32.1.1"), ("b", "45.32.1.2")]:
        questions.end(peer, host)
    assert questions.under_way == 1


@pytest.mark.parametrize("rates", [VERSION_1, VERSION_2])
@pytest.mark.parametrize("host", ["45.32.1.{:d}", "2606:4700:1:{:x}::1"])
def test_one_network_leaves_others_their_questions(rates: Rates, host: str) -> None:
    """Two addresses of it had all that are answered at once, and three all of a minute."""
    questions = Questions(rates)
    admitted = [questions.begin(f"a{number}", host.format(number), 0) for number in range(1, 10)]
    assert admitted == [True] * 6 + [False] * 3
    assert questions.begin("b", "45.32.2.1", 0)
    for number in range(1, 7):
        questions.end(f"a{number}", host.format(number))
    asked = 0
    for number in range(1, 200):
        if questions.begin(f"c{number}", host.format(number), 1):
            questions.end(f"c{number}", host.format(number))
            asked += 1
    assert asked == rates.network - 6
    questions.end("b", "45.32.2.1")
    assert questions.begin("b1", "45.32.2.1", 1)


def test_a_window() -> None:
    window = Window(2)
    assert [window.begin(0), window.begin(1), window.begin(2)] == [True, True, False]
    assert [window.begin(MINUTE), window.begin(MINUTE)] == [True, False]


REQUEST = messages.DialRequest((b"one", b"two"), 2**64 - 1)
ANSWER = messages.DialResponse(messages.Status.OK, 3, messages.Dialled.DIAL_ERROR)
EACH: list[messages.Message] = [
    REQUEST, ANSWER, messages.DialRequest((), 0), messages.DialResponse(0),
    messages.DialDataRequest(1, 40_000), messages.DialDataRequest(0, 0), messages.DialDataResponse(b"x" * 100),
]  # fmt: skip


@pytest.mark.parametrize("message", EACH, ids=repr)
def test_messages_come_out_as_they_went_in(message: messages.Message) -> None:
    encoded = messages.encode(message)
    body = encoded[1:] if len(encoded) < 129 else encoded[2:]
    assert messages.decode(body) == message


def test_a_request_as_the_specification_has_it() -> None:
    assert (
        messages.encode(messages.DialRequest((b"\x04\x01",), 1)).hex()
        == "0f" + "0a0d" + "0a020401" + "110100000000000000"
    )
    assert messages.encode(ANSWER).hex() == "09" + "1207" + "08c801" + "1003" + "1864"
    assert messages.encode_dial_back(1).hex() == "09" + "090100000000000000"


@given(st.binary(max_size=64))
def test_nonsense_is_one_error(data: bytes) -> None:
    for decode in (messages.decode, messages.decode_dial_back):
        try:
            decode(data)
        except Undecodable:
            pass


@given(st.lists(st.binary(max_size=40) | st.sampled_from(packed("/ip4/127.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/2"))))
def test_whatever_is_listed_leads_to_the_asker_or_to_the_public(listed: list[bytes]) -> None:
    seen = parse("/ip4/10.0.0.2/tcp/61000")
    assert {one.host for one in at_the_asker(listed, PEER, seen)} == {"10.0.0.2"}
    found = first_allowed(listed, PEER, seen.host, anywhere)
    assert found is None or reach(to_ip(found[1].host) or PRIVATE) == "global" or found[1].host == seen.host
