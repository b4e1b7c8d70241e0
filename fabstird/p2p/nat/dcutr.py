"""The messages of DCUtR (libp2p specification, relay/DCUtR): over a relayed connection two peers tell each other where
they are seen from outside, and agree on the moment in which both dial. And which addresses those are.

Who was called through the relay asks (`ask`), who has called answers (`answer`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import trio

from fabstird.p2p.net.stream import Stream
from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, Transport, pack, parse, unpack
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.frames import frame, read_protobuf
from fabstird.p2p.wire.ips import group_of_host, reach, to_ip
from fabstird.p2p.wire.protobuf import HolePunch

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE = 4096  # bytes; as the specification has it
ADDRESSES = 4  # of one side that are told, and of the other that are dialled
TCP_ALONE: tuple[Transport, ...] = ("tcp",)
PUNCHABLE: dict[Transport, str] = {"tcp": "TCP", QUIC: "QUIC"}  # through which holes are punched, as words have them


@dataclass(frozen=True, slots=True)
class Outside:
    """Where this node is seen from outside: bare addresses, those first that most peers see, TCP and QUIC in turn.
    ``changing``: by either of these, its NAT shows it to each of several peers at another port, so none of these is
    where the next one would find it."""

    addresses: tuple[str, ...]
    changing: bool


def outside(
    observed: Iterable[tuple[str, str]], listening: Iterable[str], transports: Collection[Transport] = TCP_ALONE
) -> Outside:
    """``observed`` are addresses of connections that were dialled from the port that is listened on, each with the IP
    address of who sees us there; ``listening`` is where the node listens. Only public ones of ``transports`` count."""
    seen: dict[Address, set[str]] = {}
    for text, observer in observed:
        if (address := _public(text, transports)) is not None:
            seen.setdefault(address, set()).add(group_of_host(observer))
    ports: dict[tuple[Transport, str], list[int]] = {}  # by host: how many see each of its ports
    for address, observers in seen.items():
        ports.setdefault((address.transport, address.host), []).append(len(observers))
    ordered = sorted(seen, key=lambda address: -len(seen[address]))
    own = [address for text in listening if (address := _public(text, transports)) is not None]
    told = _in_turn(dict.fromkeys([*ordered, *own]))
    many = {place for place, counts in ports.items() if len(counts) > 1 and max(counts) == 1}
    return Outside(tuple(map(str, told)), _everywhere(ports, many))


def is_of(text: str, transport: str) -> bool:
    """Whether what a peer has said is an address of this transport."""
    try:
        return parse(text).transport == transport
    except AddressError:
        return False


def is_changing(addresses: Iterable[str]) -> bool:
    """Whether a peer names one host and several ports, by each transport that it names."""
    places = [(address.transport, address.host) for address in map(parse, addresses)]
    return _everywhere(places, {place for place in places if places.count(place) > 1})


def _everywhere(places: Iterable[tuple[Transport, str]], changing: Iterable[tuple[Transport, str]]) -> bool:
    """Whether no transport is left by which the ports stay as they are."""
    return bool(found := {transport for transport, _ in changing}) and found == {transport for transport, _ in places}


def _in_turn(addresses: Collection[Address]) -> list[Address]:
    """As many as one side tells; each transport has its share of them, so many of one push none of the other out."""
    by_transport = [[one for one in addresses if one.transport == transport] for transport in PUNCHABLE]
    return [one for one in chain(*zip_longest(*by_transport)) if one is not None][:ADDRESSES]


def _public(text: str, transports: Collection[Transport]) -> Address | None:
    """A public address of one of these transports, bare; None for any other."""
    try:
        address = parse(text).bare
    except AddressError:
        return None
    return address if _is_public(address, transports) else None


def _is_public(address: Address, transports: Collection[Transport]) -> bool:
    ip = to_ip(address.host) if address.kind in ("ip4", "ip6") else None
    wanted = address.transport in transports and address.transport in PUNCHABLE and address.relay is None
    return wanted and ip is not None and reach(ip) == "global"


async def ask(stream: Stream, own: Sequence[str]) -> tuple[list[str], float]:
    """Tell where we are seen, learn where the other side is, and give it the word to dial. The addresses, and the round
    trip in seconds: half of it later the word is there. Raises `NetworkError`; the caller brings the deadline."""
    began = trio.current_time()
    await stream.write(_connect(own))
    addresses = _addresses(await read_protobuf(stream, HolePunch, MAX_MESSAGE), own)
    took = trio.current_time() - began
    await stream.write(frame(HolePunch(type=HolePunch.SYNC).SerializeToString(), "uvarint"))
    return addresses, took


async def answer(stream: Stream, own: Sequence[str]) -> list[str]:
    """The other side of `ask`: returns where the peer is seen once it is time to dial."""
    addresses = _addresses(await read_protobuf(stream, HolePunch, MAX_MESSAGE), own)
    await stream.write(_connect(own))
    if (await read_protobuf(stream, HolePunch, MAX_MESSAGE)).type != HolePunch.SYNC:
        raise PeerError("it gives no word to dial")
    return addresses


def _connect(own: Sequence[str]) -> bytes:
    message = HolePunch(type=HolePunch.CONNECT, ObsAddrs=[pack(text) for text in own])
    return frame(message.SerializeToString(), "uvarint")


def _addresses(message: HolePunch, own: Sequence[str]) -> list[str]:
    """Those of a peer's message that are public, bare, and of a transport of our ``own``: by any other it waits for no
    dial of ours. They are a stranger's word all the same. A message has room for some 400."""
    if message.type != HolePunch.CONNECT:
        raise PeerError("it does not say where it is")
    transports = {parse(text).transport for text in own}
    found: dict[Address, None] = {}
    for packed in message.ObsAddrs:
        try:
            address = unpack(packed).bare
        except AddressError:
            continue  # of another transport, or nonsense
        if _is_public(address, transports):
            found[address] = None
    if not found:
        words = " or ".join(word for transport, word in PUNCHABLE.items() if transport in transports)
        raise PeerError(f"it tells no public address of {words}")
    return [str(address) for address in _in_turn(found)]
