"""mDNS messages as libp2p uses them (libp2p specification, discovery/mdns; RFC 6762), over `zeroconf`'s codec. Pure.

A peer queries ``PTR _p2p._udp.local``. A peer that hears it responds ``_p2p._udp.local PTR <name>._p2p._udp.local``
with a random name, and a TXT record of that name whose strings are ``dnsaddr=<multiaddr with /p2p/>``. go-libp2p
accepts a response only with SRV and A or AAAA records, so ours have them. js-libp2p and rust-libp2p send none, and
nobody uses their contents.
"""

from __future__ import annotations

import ipaddress
import secrets
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from zeroconf import DNSAddress, DNSIncoming, DNSOutgoing, DNSPointer, DNSQuestion, DNSService, DNSText

from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, parse

SERVICE = "_p2p._udp.local."
SERVICES = "_services._dns-sd._udp.local."  # what a network's administrator queries to list services
TTL = 120  # seconds; RFC 6762, section 10, for records that depend on a host's addresses
MAX_PACKET = 9000  # bytes; RFC 6762, section 17
MAX_TXT = 1000  # bytes of TXT data that we send, so that a response fits into one Ethernet packet
MAX_OFFERS = 16  # peers that one packet may name; normally a peer names only itself
MAX_ADDRESSES = 16  # of one peer
MAX_TEXTS = 64  # addresses decoded of one packet, for all its peers
_A, _PTR, _TXT, _AAAA, _SRV = 1, 12, 16, 28, 33  # RFC 1035, 3596, 2782
_IN = 1
_FLUSH = 0x8000  # in a record's class: the only record of its name and type (RFC 6762, section 10.2)
_QUERY, _RESPONSE = 0x0000, 0x8400  # flags; a response is authoritative (RFC 6762, section 18)
_KEY = b"dnsaddr="
_ALPHABET = string.ascii_lowercase + string.digits
_LABEL = 40  # characters of our random name; the specification requires 32 or more, DNS fewer than 64


@dataclass(frozen=True, slots=True)
class Offer:
    """A peer named in a message, under a random ``name``. ``ttl`` is in seconds. Each address has an IP address, a port
    and the peer id; whether to believe it is decided elsewhere."""

    name: str
    peer_id: str
    addresses: tuple[Address, ...]
    ttl: int


@dataclass(frozen=True, slots=True)
class Message:
    """The relevant parts of a message: names that it queries (lower case), names that it lists as known, peers that it
    offers, and names that say goodbye."""

    asked: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    offers: tuple[Offer, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Name:
    """A random name for one run. It is not the peer id, which may be too long for a DNS label."""

    label: str

    @classmethod
    def random(cls) -> Name:
        return cls("".join(secrets.choice(_ALPHABET) for _ in range(_LABEL)))

    @property
    def instance(self) -> str:
        return f"{self.label}.{SERVICE}"

    @property
    def host(self) -> str:
        return f"{self.label}.local."

    def is_asked_by(self, message: Message) -> bool:
        """Whether our response answers this message."""
        return bool(message.asked & {SERVICE, self.instance, self.host}) and self.instance not in message.known


# --------------------------------------------------------------------------------------------------------------------
# Ours


def question() -> bytes:
    """The query for all peers."""
    out = DNSOutgoing(_QUERY)
    out.add_question(DNSQuestion(SERVICE, _PTR, _IN))
    return _only(out)


def answer(name: Name, addresses: Sequence[Address]) -> bytes:
    """Our response with addresses of one interface (kind ip4 or ip6, each with our peer id); it must not be empty.
    Addresses that do not fit into one packet are omitted."""
    out = _response(name, TTL)
    text, shown = b"", []
    for address in addresses:
        record = _KEY + str(address).encode()
        if len(record) < 256 and len(text) + 1 + len(record) <= MAX_TXT:
            text += bytes([len(record)]) + record
            shown.append(address)
    unique = _IN | _FLUSH
    # Port and target are for tools that do not know libp2p, and for go-libp2p, which requires them.
    service = DNSService(name.instance, _SRV, unique, TTL, 0, 0, shown[0].port, name.host)
    out.add_additional_answer(DNSText(name.instance, _TXT, unique, TTL, text))
    out.add_additional_answer(service)
    for ip in dict.fromkeys(ipaddress.ip_address(address.host) for address in shown):
        kind = _A if ip.version == 4 else _AAAA
        out.add_additional_answer(DNSAddress(name.host, kind, unique, TTL, ip.packed))
    return _only(out)


def services() -> bytes:
    """The response that names the service."""
    out = DNSOutgoing(_RESPONSE)
    out.add_answer_at_time(DNSPointer(SERVICES, _PTR, _IN, TTL, SERVICE), 0)
    return _only(out)


def goodbye(name: Name) -> bytes:
    """The goodbye. It has no TXT record: js-libp2p takes a peer with one for present."""
    return _only(_response(name, 0))


def _response(name: Name, ttl: int) -> DNSOutgoing:
    out = DNSOutgoing(_RESPONSE)
    out.add_answer_at_time(DNSPointer(SERVICE, _PTR, _IN, ttl, name.instance), 0)
    return out


def _only(out: DNSOutgoing) -> bytes:
    (packet,) = out.packets()
    return packet


# --------------------------------------------------------------------------------------------------------------------
# Theirs


def read(packet: bytes) -> Message | None:
    """Parse a packet; None where it is not a DNS message. Messages of other services come out empty."""
    incoming = DNSIncoming(packet)
    if not incoming.valid:
        return None
    if incoming.is_query():
        return _asking(incoming)
    offers: list[Offer] = []
    gone: list[str] = []
    records = incoming.answers()
    texts = _texts(records)
    for name, ttl in _pointers(records):
        if ttl == 0:
            gone.append(name)
        elif (offer := _offer(name, ttl, texts.get(name, ()))) is not None:
            offers.append(offer)
    return Message(offers=tuple(offers), gone=tuple(gone))


def _asking(incoming: DNSIncoming) -> Message:
    asked = {question.key for question in incoming.questions}
    if not asked & {SERVICE, SERVICES} and not any(name.endswith(".local.") for name in asked):
        return Message()
    # RFC 6762, section 7.1: a querier that lists a response as known, with half its life left, does not want it again
    known = {name for name, ttl in _pointers(incoming.answers()) if ttl >= TTL // 2}
    return Message(asked=frozenset(asked), known=frozenset(known))


def _pointers(records: Sequence[object]) -> list[tuple[str, int]]:
    """Names of peers and their time to live, without duplicates."""
    found: dict[str, int] = {}
    for record in records:
        if isinstance(record, DNSPointer) and record.type == _PTR and record.key == SERVICE:
            found.setdefault(record.alias.lower(), record.ttl)
    return list(found.items())[:MAX_OFFERS]


def _texts(records: Sequence[object]) -> dict[str, list[bytes]]:
    """The ``dnsaddr`` texts under each name, as many as are decoded."""
    found: dict[str, list[bytes]] = {}
    budget = MAX_TEXTS
    for record in records:
        if isinstance(record, DNSText):
            for text in _strings(record.text):
                if text.startswith(_KEY) and budget > 0:
                    found.setdefault(record.key, []).append(text.removeprefix(_KEY))
                    budget -= 1
    return found


def _offer(name: str, ttl: int, texts: Sequence[bytes]) -> Offer | None:
    addresses = [address for address in map(_address, texts) if address is not None]
    if not addresses or (peer_id := addresses[0].peer_id) is None:
        return None
    own = dict.fromkeys(address for address in addresses if address.peer_id == peer_id)
    return Offer(name, peer_id, tuple(own)[:MAX_ADDRESSES], ttl)


def _strings(data: bytes) -> Iterator[bytes]:
    """The character-strings of a TXT record; an incomplete one at its end is omitted."""
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if at + length <= len(data):
            yield data[at : at + length]
        at += length


@lru_cache(maxsize=1024)  # the same peers repeat the same addresses
def _address(text: bytes) -> Address | None:
    """An address; None for a transport that is not supported or is dialled only on a user's word, and for an address
    without peer id or usable endpoint."""
    try:
        address = parse(text.decode())
    except (UnicodeDecodeError, AddressError):
        return None
    if (
        address.transport == QUIC
        or address.kind not in ("ip4", "ip6")
        or not address.peer_id
        or address.relay
        or not address.port
    ):
        return None
    return address
