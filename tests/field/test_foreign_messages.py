"""Whatever a stranger, a relay or a server of AutoNAT says, or a proxy of somebody: it is taken, or it is one error of
the kind that ends that stream alone.

Drawn messages are any bytes, real ones that were changed, and real ones whose fields have values that nobody expects.
tests/faults throws the like at a running daemon, and tests/unit/test_mdns_message has what comes by mDNS.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.host import identify_message
from fabstird.p2p.host.opening import StreamError
from fabstird.p2p.nat import autonat_asking, autonat_messages
from fabstird.p2p.net import circuit
from fabstird.p2p.transport.proxied import SIGNATURE, Caller, forwarded, introduced, version_1, version_2
from fabstird.p2p.wire.addresses import pack, parse
from fabstird.p2p.wire.errors import ConnectionLost, EndOfStream, NetworkError, PeerError
from fabstird.p2p.wire.frames import frame
from fabstird.p2p.wire.protobuf import AutoNatMessage, HopMessage, Identify, StopMessage
from tests.field.test_foreign_bytes import ID, changed
from tests.support import wire

ADDRESS = pack("/ip4/192.0.2.1/tcp/4001")
TEXTS = st.sampled_from([b"", b"a/1", b"\xff\xfe", "\u202e\0é".encode(), b"x" * 5000]) | st.binary(max_size=40)
NUMBERS = st.sampled_from([0, 1, 100, 2**31, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 600)


@st.composite
def shaped(draw: st.DrawFn, depth: int = 2) -> bytes:
    """The encoding of some protobuf message: fields that exist, with numbers, texts, addresses and messages in them."""
    found = b""
    for number in draw(st.lists(st.integers(1, 9), max_size=6)):
        if draw(st.booleans()):
            found += wire.varint(number << 3) + wire.varint(draw(NUMBERS))
            continue
        value = draw(TEXTS | st.just(ADDRESS) | (shaped(depth - 1) if depth else st.just(b"")))
        found += wire.field(number, value)
    return found


def messages(real: bytes) -> st.SearchStrategy[bytes]:
    """What comes on a stream: framed or not."""
    framed = (shaped() | changed(real)).map(lambda data: frame(data, "uvarint"))
    return framed | changed(frame(real, "uvarint")) | st.tuples(framed, framed).map(b"".join)


@dataclass
class _Link:
    address: str = f"/ip4/127.0.0.1/tcp/1/p2p/{ID}"
    peer_id: str = ID
    pipe: Any = field(default_factory=lambda: SimpleNamespace(remote=SimpleNamespace(host="127.0.0.1")))


@dataclass
class Heard:
    """A stream on which a peer has said all that it will; nothing is deaf to what we say."""

    data: bytes
    link: Any = field(default_factory=_Link)
    peer_id: str = ID
    said: bytes = b""
    done: bool = False

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.data:
            raise EndOfStream("ended")
        size = len(self.data) if n is None else n
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    async def write(self, data: bytes) -> None:
        self.said += data

    async def close_write(self) -> None:
        self.done = True


Refused = type[Exception] | tuple[type[Exception], ...]


def outcome(call: Callable[[], Awaitable[Any]], refused: Refused) -> Any:
    """What it gives; None where it is refused. Anything else that it raises fails the test."""

    async def run() -> Any:
        try:
            with trio.fail_after(60):
                return await call()
        except refused:
            return None

    return trio.run(run)


REAL_IDENTIFY = Identify(
    agent_version="a/1", protocol_version="p/1", protocols=["/x/1"], listen_addrs=[ADDRESS], observed_addr=ADDRESS
).SerializeToString()


@given(said=messages(REAL_IDENTIFY), before=st.none() | st.just(REAL_IDENTIFY))
def test_identify(said: bytes, before: bytes | None) -> None:
    known = None
    if before is not None:
        known = outcome(lambda: identify_message.read(Heard(frame(before, "uvarint"))), PeerError)
        assert known.agent_version == "a/1"
    found = outcome(lambda: identify_message.read(Heard(said), known), PeerError)
    if found is not None:
        texts = [found.agent_version, found.protocol_version, *found.protocols, *found.addresses]
        assert all(len(text) <= 256 and text.isprintable() for text in texts)
        assert all(parse(address) for address in found.addresses)


ID_BYTES = b"\x00\x24\x08\x01\x12\x20" + bytes(32)
REAL_STOP = StopMessage(
    type=StopMessage.CONNECT, peer={"id": ID_BYTES}, limit={"duration": 120, "data": 131072}
).SerializeToString()


@given(said=messages(REAL_STOP))
def test_whom_a_relay_brings(said: bytes) -> None:
    stream: Any = Heard(said)
    pipe = outcome(lambda: circuit.accept(stream), NetworkError)
    if pipe is not None:
        assert pipe.remote.relay == ID
        assert pipe.remote.peer_id


REAL_HOP = HopMessage(
    type=HopMessage.STATUS,
    status=100,
    reservation={"expire": 4102444800, "addrs": [ADDRESS]},
    limit={"duration": 120, "data": 131072},
).SerializeToString()
HOP_AGREED = b"\x13/multistream/1.0.0\n" + bytes((len(circuit.HOP) + 1,)) + circuit.HOP.encode() + b"\n"


class _Asked(Heard):
    def agree(self, *_: object) -> None:
        pass

    def release(self) -> None:
        pass

    async def reset(self, _code: int = 0) -> None:
        self.done = True


@given(said=messages(REAL_HOP), ahead=st.just(HOP_AGREED) | changed(HOP_AGREED))
def test_what_a_relay_answers(said: bytes, ahead: bytes) -> None:
    class Link(_Link):
        def open_stream(self) -> Any:
            return _Asked(ahead + said)

    link: Any = Link()
    reservation = outcome(lambda: circuit.reserve(link), circuit.RelayError)
    if reservation is not None:
        assert all(not address.relay for address in reservation.addresses)


REAL_AUTONAT = AutoNatMessage(
    type=AutoNatMessage.DIAL_RESPONSE, dialResponse={"status": 0, "statusText": "ok", "addr": ADDRESS}
).SerializeToString()


@given(said=messages(REAL_AUTONAT))
def test_what_a_server_of_autonat_says(said: bytes) -> None:
    class Host:
        peer_id = ID

        @asynccontextmanager
        async def stream(self, *_: object) -> AsyncIterator[Heard]:
            yield Heard(said)

    host: Any = Host()
    found = outcome(lambda: autonat_asking.dial_back(host, ID, "/ip4/192.0.2.1/tcp/4001"), (StreamError, PeerError))
    if found is not None:
        assert found.words.isprintable() or not found.words
        assert found.reached is None or parse(found.reached)


REAL_AUTONAT_2 = [
    autonat_messages.encode(one)
    for one in (
        autonat_messages.DialDataRequest(0, 30_000),
        autonat_messages.DialResponse(autonat_messages.Status.OK, 0, autonat_messages.Dialled.DIAL_ERROR),
    )
]


@given(said=st.tuples(*(changed(one) | st.just(one) for one in REAL_AUTONAT_2)).map(b"".join) | messages(b""))
def test_what_a_server_of_autonat_2_says(said: bytes) -> None:
    stream = Heard(said)

    class Host:
        peer_id = ID

        @asynccontextmanager
        async def stream(self, *_: object) -> AsyncIterator[Heard]:
            yield stream

    host: Any = Host()
    dial_backs = autonat_asking.DialBacks(host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autonat_asking, "NONCE_WITHIN", 0.01)
        found = outcome(lambda: dial_backs.ask(ID, "/ip4/192.0.2.1/tcp/4001"), (StreamError, PeerError))
    assert found in (None, "failed", "refused", "unproven"), "nobody has brought the nonce"
    assert len(stream.said) < 101_000 + 1000


@given(data=messages(b"\x09" + bytes(8)))
def test_what_who_dials_back_says(data: bytes) -> None:
    host: Any = None
    dial_backs = autonat_asking.DialBacks(host)
    stream: Any = Heard(data)
    assert outcome(lambda: dial_backs._on_dial_back(stream), (PeerError,)) is None
    assert stream.said == b""


TRUSTED = [ipaddress.ip_network("127.0.0.0/8")]
LINE = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n"
HEADER = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 12) + bytes(12)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9, [2001:db8::1]:4711, 127.0.0.1\r\n\r\n"


@given(data=changed(LINE) | changed(HEADER) | changed(HEAD) | st.binary(max_size=40).map(SIGNATURE.__add__))
def test_what_a_proxy_says(data: bytes) -> None:
    forwarded(data, TRUSTED)
    for version in (version_1, version_2):
        try:
            version(data)
        except PeerError:
            pass
    for remote in ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/ws"):

        async def come(remote: str = remote) -> Caller:
            stream: Any = trio.testing.memory_stream_pair()
            await stream[0].send_all(data or b"x")
            await stream[0].send_eof()
            return await introduced(Caller(stream[1], parse(remote)), TRUSTED)

        found = outcome(come, (PeerError, ConnectionLost))
        assert found is None or ipaddress.ip_address(found.remote.host)
