"""Multiaddrs: what this node understands, what it says of the rest, and its own interfaces."""

from __future__ import annotations

import ipaddress
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from fabstird.identity import Identity
from fabstird.p2p.wire.addresses import Address, AddressError, expand, from_endpoint, normal_peer_id, parse, unpack

ED25519 = Identity.from_seed(bytes(32)).peer_id
RSA = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"  # of the libp2p specification, peer-ids.md
AS_CID = "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe"  # the same peer's, from there too


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/1.2.3.4/tcp/4001", Address("ip4", "1.2.3.4", 4001, "tcp", None)),
        ("/ip4/1.2.3.4/tcp/0/ws", Address("ip4", "1.2.3.4", 0, "ws", None)),
        ("/ip6/::1/tcp/65535", Address("ip6", "::1", 65535, "tcp", None)),
        ("/ip6/2001:db8::1/tcp/1/ws", Address("ip6", "2001:db8::1", 1, "ws", None)),
        (f"/dns/a.example/tcp/1/p2p/{ED25519}", Address("dns", "a.example", 1, "tcp", ED25519)),
        (f"/dns4/a.example/tcp/1/ws/p2p/{RSA}", Address("dns4", "a.example", 1, "ws", RSA)),
        ("/dns4/a.example/tcp/443/tls/ws", Address("dns4", "a.example", 443, "wss", None)),
        (
            f"/ip4/1.2.3.4/tcp/443/tls/sni/a.example/ws/p2p/{RSA}",
            Address("ip4", "1.2.3.4", 443, "wss", RSA, sni="a.example"),
        ),
        (f"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/{ED25519}", Address("ip4", "1.2.3.4", 4001, "quic-v1", ED25519)),
        ("/dns4/a.example/udp/1/quic-v1", Address("dns4", "a.example", 1, "quic-v1", None)),
        (
            f"/ip6/::1/udp/1/quic-v1/p2p/{RSA}/p2p-circuit/p2p/{ED25519}",
            Address("ip6", "::1", 1, "quic-v1", ED25519, RSA),
        ),
        ("/dns6/localhost/tcp/1", Address("dns6", "localhost", 1, "tcp", None)),
        ("/dnsaddr/a.example", Address("dnsaddr", "a.example", 0, "tcp", None)),
        (f"/dnsaddr/a.example/p2p/{ED25519}", Address("dnsaddr", "a.example", 0, "tcp", ED25519)),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RSA}/p2p-circuit", Address("ip4", "1.2.3.4", 1, "tcp", None, RSA)),
        (
            f"/dns4/a.example/tcp/1/ws/p2p/{RSA}/p2p-circuit/p2p/{ED25519}",
            Address("dns4", "a.example", 1, "ws", ED25519, RSA),
        ),
    ],
)
def test_what_is_understood(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(parse(text)) == text
    assert parse(f"{text}/") == address
    assert str(Multiaddr(address.packed)) == text
    assert unpack(address.packed) == address
    assert parse(str(address.bare)) == address.bare
    assert address.bare.peer_id is None


def test_the_older_name_of_secure_websocket_is_the_same() -> None:
    assert str(parse(f"/dns4/a.example/tcp/443/wss/p2p/{RSA}")) == f"/dns4/a.example/tcp/443/tls/ws/p2p/{RSA}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a multiaddr"),
        ("/", "is not a multiaddr"),
        ("ip4/1.2.3.4/tcp/1", "is not a multiaddr"),
        ("1.2.3.4:4001", "is not a multiaddr"),
        ("/ip4", "is not a multiaddr"),
        ("//", "is not a multiaddr"),
        ("/unix/run/x.sock", "does not begin with an address that can be reached"),
        (f"/ip4/1.2.3.4/tcp/1/p2p-circuit/p2p/{ED25519}", "must name the relay: …/p2p/<relay's peer id>/p2p-circuit"),
        ("/ip4/1.2.3.4/tcp/1/p2p-circuit", "must name the relay"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RSA}/p2p-circuit/p2p/{RSA}/p2p-circuit", "no transport for"),
        (
            "/ip4/1.2.3.4",
            "this node speaks /tcp/PORT and, after it, /ws or /tls/ws, and /udp/PORT/quic-v1, not /nothing",
        ),
        ("/ip4/1.2.3.4/tcp", "not /tcp"),
        ("/ip4/1.2.3.4/udp/1/quic", "no transport for .* not /udp/1/quic$"),  # a draft's, which is not QUIC v1
        ("/ip4/1.2.3.4/udp/1", "no transport for .* not /udp/1$"),
        ("/ip4/1.2.3.4/tcp/1/quic-v1", "no transport for .* not /tcp/1/quic-v1$"),
        ("/ip4/1.2.3.4/udp/1/quic-v1/webtransport", "no transport for .* not /udp/1/quic-v1/webtransport$"),
        ("/ip4/1.2.3.4/udp/65536/quic-v1", '"65536" is not a port'),
        ("/ip4/1.2.3.4/udp/1/webrtc", "not /udp/1/webrtc$"),
        ("/ip4/1.2.3.4/tcp/1/tls", "no transport for .* not /tcp/1/tls"),
        ("/ip4/1.2.3.4/tcp/1/wss/ws", "no transport for .* not /tcp/1/wss/ws"),
        ("/ip4/1.2.3.4/tcp/1/tls/sni/a.example", "no transport for"),
        ("/ip4/1.2.3.4/tcp/1/tls/sni//ws", "no transport for"),
        ("/ip4/1.2.3.4/tcp/1/tls/sni/ä.example/ws", "no transport for"),
        ("/ip4/1.2.3.4/tcp/1/ws/ws", "no transport for"),
        ("/ip4/1.2.3.4/tcp/65536", '"65536" is not a port'),
        ("/ip4/1.2.3.4/tcp/-1", '"-1" is not a port'),
        ("/ip4/1.2.3.4/tcp/", '"" is not a port|not /tcp'),
        ("/ip4/1.2.3.4/tcp/http", '"http" is not a port'),
        ("/ip4/1.2.3.4/tcp/٣", "is not a port"),
        ("/ip4/1.2.3.4/tcp/" + "9" * 400, "is not a port"),
        (f"/dns4/{'a' * 600}/tcp/1", "is too long for a multiaddr"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{'0' * 200}", "cannot be decoded: it is too long"),
        ("/ip4/1.2.3/tcp/1", '"1.2.3" is not an /ip4 address'),
        ("/ip4/::1/tcp/1", '"::1" is not an /ip4 address'),
        ("/ip6/1.2.3.4/tcp/1", '"1.2.3.4" is not an /ip6 address'),
        ("/ip4/1.2.3.4/tcp/1/p2p/", "no transport for|cannot be decoded"),
        ("/ip4/1.2.3.4/tcp/1/p2p/nonsense", 'the peer id "nonsense" cannot be decoded'),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ED25519[:-1]}", "cannot be decoded"),
        ("/dnsaddr/a.example/tcp/1", "/dnsaddr takes a name and a peer id, nothing else"),
    ],
)
def test_what_is_not_understood_is_told_in_words(text: str, words: str) -> None:
    with pytest.raises(AddressError, match=words) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_a_peer_id_is_base58_from_any_form() -> None:
    assert normal_peer_id(RSA) == RSA
    assert normal_peer_id(ED25519) == ED25519
    for before in ("/p2p/", "/ipfs/"):
        assert normal_peer_id(before + RSA) == RSA
        assert normal_peer_id(before + AS_CID) == normal_peer_id(AS_CID)
    assert normal_peer_id(AS_CID) == ID.from_base58(normal_peer_id(AS_CID)).to_base58()
    assert normal_peer_id(AS_CID).startswith("Qm")


@pytest.mark.parametrize(
    "text",
    ["", "x", "Qm", "0OIl", RSA[:-1], ED25519 + "1", f"{RSA}/tcp/1", f"/p2p/{RSA}/", f"/ip4/{RSA}", "1" * 50, "\0"],
)
def test_what_is_no_peer_id(text: str) -> None:
    with pytest.raises(AddressError, match=f'the peer id "{re.escape(text)}" cannot be decoded'):
        normal_peer_id(text)


names = st.sampled_from(
    ["ip4", "ip6", "dns", "dns4", "dnsaddr", "tcp", "udp", "ws", "p2p", "1.2.3.4", "::1", "a.b", "0", "", RSA]
)
nearly = st.lists(names | st.text(max_size=8), max_size=8).map(lambda parts: "/" + "/".join(parts))


@given(st.text() | nearly)
@example("/ip4/1.2.3.4/tcp/1/p2p/\udcff")
@example("/dns4/\udcff/tcp/1")
@example("/dns4/" + "a" * 100_000 + "/tcp/1")
@example("/ip6/fe80::1%lo/tcp/1")
@example("/ip6zone/lo/ip6/fe80::1/tcp/1")
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert parse(str(address)) == address
    assert unpack(address.packed) == address


@given(st.text() | st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"))
def test_any_text_is_a_peer_id_or_an_address_error(text: str) -> None:
    try:
        peer_id = normal_peer_id(text)
    except AddressError:
        return
    assert normal_peer_id(peer_id) == peer_id


def test_a_text_of_a_megabyte_costs_no_time() -> None:
    """base58 takes time that grows with the square of the length: 15,000 characters stopped the loop for 0.1 s."""
    began = time.process_time()
    for text in ("x" * 10**6, "0" * 10**6, f"/ip4/1.2.3.4/tcp/1/p2p/{'x' * 10**6}", "/a" * 10**6):
        with pytest.raises(AddressError) as raised:
            parse(text) if text.startswith("/") else normal_peer_id(text)
        assert len(str(raised.value)) < 1000
    assert time.process_time() - began < 5  # by the square it were minutes; the garbage collector may have its turn


def test_a_sockets_end_as_an_address() -> None:
    assert str(from_endpoint("1.2.3.4", 5, "tcp")) == "/ip4/1.2.3.4/tcp/5"
    assert str(from_endpoint("2001:db8:0::1", 5, "ws")) == "/ip6/2001:db8::1/tcp/5/ws"
    assert str(from_endpoint("::ffff:1.2.3.4", 5, "tcp")) == "/ip4/1.2.3.4/tcp/5"
    assert str(from_endpoint("fe80::1%eth0", 5, "tcp")) == "/ip6/fe80::1/tcp/5"


# --------------------------------------------------------------------------------------------------------------------
# Interfaces


def of_the_kernel(version: int) -> set[str]:
    """The addresses of this machine's interfaces as the kernel tells them (Linux), without link-local ones."""
    if version == 4:
        lines = Path("/proc/net/fib_trie").read_text().splitlines()
        found = {above.split()[-1] for above, line in pairwise(lines) if "/32 host LOCAL" in line}
    else:
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        found = {str(ipaddress.IPv6Address(bytes.fromhex(row[0]))) for row in rows}
    return {one for one in found if not ipaddress.ip_address(one).is_link_local}


@pytest.mark.parametrize(("wildcard", "version"), [("/ip4/0.0.0.0/tcp/7/ws", 4), ("/ip6/::/tcp/7/ws", 6)])
def test_a_wildcard_is_every_interface_loopback_last(wildcard: str, version: int) -> None:
    found = expand(parse(wildcard))
    assert {address.host for address in found} == of_the_kernel(version)
    assert {(address.port, address.transport) for address in found} <= {(7, "ws")}
    loopback = [ipaddress.ip_address(address.host).is_loopback for address in found]
    assert loopback == sorted(loopback)
    assert found == expand(parse(wildcard))


def test_one_interface_is_itself() -> None:
    assert expand(parse("/ip4/127.0.0.1/tcp/1")) == [parse("/ip4/127.0.0.1/tcp/1")]
    assert expand(parse("/ip6/::1/tcp/1")) == [parse("/ip6/::1/tcp/1")]
