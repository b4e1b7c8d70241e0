"""Names to addresses: the hosts file, and dnsaddr records from a real name server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

from fabstird.identity import Identity
from fabstird.p2p.net.resolve import MAX_ADDRESSES, MAX_LOOKUPS, ResolveError, resolve
from fabstird.p2p.wire.addresses import parse

A, B = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))
Zone = dict[str, list[str]]


@asynccontextmanager
async def name_server(zone: Zone | None) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """A resolver that asks a server of ours, which knows the TXT records of ``zone``; None answers nothing at all."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = sock.getsockname()[1]
        resolver.lifetime = 10 if zone is not None else 0.2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, sock, zone)
            yield resolver
            nursery.cancel_scope.cancel()


async def _answer(sock: trio.socket.SocketType, zone: Zone | None) -> None:
    while True:
        wire, sender = await sock.recvfrom(4096)
        if zone is None:
            continue
        query = dns.message.from_wire(wire)
        name = query.question[0].name
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        texts = zone.get(str(name).removesuffix("."))
        if texts is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            quoted = [" ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200)) for text in texts]
            answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", dns.rdatatype.TXT, quoted))
        await sock.sendto(answer.to_wire(max_size=65535), sender)


async def resolved(text: str, zone: Zone | None) -> list[str]:
    failure: ResolveError | None = None
    async with name_server(zone) as resolver:
        try:
            return [str(address) for address in await resolve(parse(text), resolver=resolver)]
        except ResolveError as error:
            failure = error
    raise failure  # not inside the nursery's group


# --------------------------------------------------------------------------------------------------------------------
# The system's own names


@pytest.mark.parametrize("text", [f"/ip4/1.2.3.4/tcp/1/p2p/{A}", "/ip6/::1/tcp/1/ws"])
async def test_an_address_is_itself(text: str) -> None:
    assert [str(address) for address in await resolve(parse(text))] == [text]


async def test_the_hosts_file_counts() -> None:
    (found,) = await resolve(parse(f"/dns4/localhost/tcp/4001/ws/p2p/{A}"))
    assert str(found) == f"/ip4/127.0.0.1/tcp/4001/ws/p2p/{A}"


async def test_dns_is_either_family() -> None:
    found = {str(address) for address in await resolve(parse("/dns/localhost/tcp/1"))}
    assert "/ip4/127.0.0.1/tcp/1" in found
    assert found <= {"/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"}


@pytest.mark.parametrize("name", ["does-not-exist.invalid", "ä.invalid"])
async def test_a_name_that_does_not_exist_is_told_in_words(name: str) -> None:
    with pytest.raises(ResolveError, match=f"^cannot resolve {name}: ") as raised:
        await resolve(parse(f"/dns4/{name}/tcp/1"))
    assert "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------------------------------------
# dnsaddr


async def test_records_are_addresses_in_their_order() -> None:
    texts = [f"dnsaddr=/ip4/1.2.3.{number}/tcp/1/p2p/{A}" for number in range(1, 4)]
    found = await resolved("/dnsaddr/boot.example", {"_dnsaddr.boot.example": texts})
    assert sorted(found) == [text.removeprefix("dnsaddr=") for text in texts]


async def test_records_of_another_peer_are_left_out() -> None:
    zone = {"_dnsaddr.boot.example": [f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}", f"dnsaddr=/ip4/2.2.2.2/tcp/1/p2p/{B}"]}
    assert await resolved(f"/dnsaddr/boot.example/p2p/{B}", zone) == [f"/ip4/2.2.2.2/tcp/1/p2p/{B}"]
    assert len(await resolved("/dnsaddr/boot.example", zone)) == 2


async def test_records_name_further_names() -> None:
    zone = {
        "_dnsaddr.boot.example": [f"dnsaddr=/dnsaddr/ams.example/p2p/{A}", f"dnsaddr=/dnsaddr/nyc.example/p2p/{B}"],
        "_dnsaddr.ams.example": [
            f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}",
            f"dnsaddr=/ip4/9.9.9.9/tcp/1/p2p/{B}",  # not of the peer that the name was given for
        ],
        "_dnsaddr.nyc.example": [f"dnsaddr=/dns4/localhost/tcp/2/ws/p2p/{B}"],
    }
    found = await resolved("/dnsaddr/boot.example", zone)
    assert sorted(found) == [f"/ip4/1.1.1.1/tcp/1/p2p/{A}", f"/ip4/127.0.0.1/tcp/2/ws/p2p/{B}"]


async def test_garbage_and_unknown_transports_are_left_out() -> None:
    texts = [
        "v=spf1 -all",
        "dnsaddr=",
        "dnsaddr=nonsense",
        "dnsaddr /ip4/5.5.5.5/tcp/1",
        f"dnsaddr=/ip4/1.1.1.1/udp/1/quic-v1/p2p/{A}",
        "dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/nonsense",
        "dnsaddr=/ip4/1.1.1.1/tcp/" + "9" * 5000,
        "dnsaddr=\\255\\254",
        f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}",
    ]
    assert await resolved("/dnsaddr/boot.example", {"_dnsaddr.boot.example": texts}) == [f"/ip4/1.1.1.1/tcp/1/p2p/{A}"]


async def test_an_address_that_is_named_twice_is_one() -> None:
    zone = {
        "_dnsaddr.boot.example": [f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}", "dnsaddr=/dnsaddr/b.example"],
        "_dnsaddr.b.example": [f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}"],
    }
    assert await resolved("/dnsaddr/boot.example", zone) == [f"/ip4/1.1.1.1/tcp/1/p2p/{A}"]


async def test_a_dead_name_among_the_records_does_not_spoil_the_others() -> None:
    texts = ["dnsaddr=/dnsaddr/dead.example", f"dnsaddr=/ip4/1.1.1.1/tcp/1/p2p/{A}", "dnsaddr=/dns4/dead.invalid/tcp/1"]
    assert await resolved("/dnsaddr/boot.example", {"_dnsaddr.boot.example": texts}) == [f"/ip4/1.1.1.1/tcp/1/p2p/{A}"]


async def test_a_zone_without_end_is_left_after_a_bounded_number_of_questions() -> None:
    asked = 0

    class Endless(dict[str, list[str]]):
        def get(self, name: str, default: object = None) -> list[str]:  # type: ignore[override]
            nonlocal asked
            asked += 1
            return [f"dnsaddr=/dnsaddr/{letter}{name.removeprefix('_dnsaddr.')}" for letter in "abcdefgh"]

    with pytest.raises(ResolveError, match="nested more than 4 deep"):
        await resolved("/dnsaddr/x.example", Endless())
    assert asked <= MAX_LOOKUPS


async def test_a_name_with_too_many_addresses_gives_the_first_of_them() -> None:
    texts = [f"dnsaddr=/ip4/1.2.3.4/tcp/{port}/p2p/{A}" for port in range(1, 200)]
    assert len(await resolved("/dnsaddr/boot.example", {"_dnsaddr.boot.example": texts})) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ({}, r"cannot resolve _dnsaddr.boot.example: .*does not exist"),
        ({"_dnsaddr.boot.example": ["v=spf1 -all"]}, "boot.example has no address that this node can dial"),
        ({"_dnsaddr.boot.example": ["dnsaddr=/dnsaddr/boot.example"]}, "boot.example are nested more than 4 deep"),
        (None, "cannot resolve _dnsaddr.boot.example: .*(lifetime|timed out)"),
    ],
    ids=["no such name", "nothing to dial", "names itself", "no answer"],
)
async def test_what_cannot_be_resolved_is_told_in_words(zone: Zone | None, words: str) -> None:
    with pytest.raises(ResolveError, match=words) as raised:
        await resolved("/dnsaddr/boot.example", zone)
    assert "\n" not in str(raised.value)


async def test_a_machine_without_name_servers_says_so() -> None:
    resolver = dns.asyncresolver.Resolver(configure=False)
    with pytest.raises(ResolveError, match=r"cannot resolve _dnsaddr\.boot\.example: "):
        await resolve(parse("/dnsaddr/boot.example"), resolver=resolver)
