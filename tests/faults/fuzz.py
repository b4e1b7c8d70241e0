"""What the fuzzer says: real messages of every protocol, mutated ones, and noise. All of it follows from one seed."""

from __future__ import annotations

import random

from tests.support.minipeer import IDENTIFY, PING, MiniPeer
from tests.support.wire import MULTISTREAM, field, lines, varint
from tests.support.yamux import PROTOCOL as YAMUX

PUSH = "/ipfs/id/push/1.0.0"
KAD = "/ipfs/kad/1.0.0"
HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
AUTONAT = "/libp2p/autonat/1.0.0"
DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"
DCUTR = "/libp2p/dcutr"
PERF = "/perf/1.0.0"
BRIDGE = "/fabstird/message/1.0.0"
SPOKEN = frozenset((IDENTIFY, PUSH, PING, KAD, HOP, STOP, AUTONAT, DIAL_REQUEST, DIAL_BACK, DCUTR, PERF, BRIDGE))
AS_IT_IS = (PING, PERF, BRIDGE)  # whose messages say their length otherwise than the rest, or not at all
KINDS = range(6)  # of the DHT's messages
ADDRESSES = [  # as they stand in messages: to dial, and not to be dialled
    bytes.fromhex(text)
    for text in (
        "047f000001060fa1",  # /ip4/127.0.0.1/tcp/4001
        "0400000000060fa1",
        "04a9fea9fe0650",
        "29" + 10 * "00" + "ffff7f000001060fa1",
        "360a6c6f63616c686f73742e060fa1",  # /dns4/localhost./tcp/4001
        "0408080808060fa1cd03",  # /ip4/8.8.8.8/tcp/4001 and quic
        "2900000000000000000000000000000001060fa1dd03",
    )
]


class Sayer:
    """Draws what is said next."""

    def __init__(self, seed: int, peer: MiniPeer) -> None:
        self.chance = random.Random(seed)
        self._key = peer.identity.public_key
        self._id = b"\0" + bytes((len(self._key),)) + self._key

    def real(self, protocol: str | None) -> bytes:
        """A message that the protocol has."""
        message = {
            IDENTIFY: self._identify,
            PUSH: self._identify,
            PING: lambda: self.chance.randbytes(32),
            KAD: self._kad,
            HOP: self._hop,
            STOP: self._stop,
            AUTONAT: self._autonat,
            DIAL_REQUEST: self._autonat_2,
            DIAL_BACK: lambda: b"\x09" + self.chance.randbytes(8),
            DCUTR: self._dcutr,
            PERF: self._perf,
            BRIDGE: self._bridge,
        }.get(protocol or "", self._json)()
        return message if protocol in AS_IT_IS else varint(len(message)) + message

    def any(self, protocol: str | None) -> bytes:
        """A real message, one that was one, several, or none."""
        draw = self.chance.random()
        if draw < 0.25:
            return self.real(protocol)
        if draw < 0.8:
            return self.mutated(self.real(protocol))
        if draw < 0.9:
            return b"".join(self.mutated(self.real(protocol)) for _ in range(self.chance.randint(2, 8)))
        return self.chance.randbytes(self.chance.choice((0, 1, 2, 17, 300, 5000, 70000)))

    def mutated(self, data: bytes) -> bytes:
        """One to six changes, each at one place."""
        found = bytearray(data)
        for _ in range(self.chance.randint(1, 6)):
            at = self.chance.randrange(len(found) + 1)
            match self.chance.randrange(7):
                case 0 if found:
                    found[at % len(found)] ^= 1 << self.chance.randrange(8)
                case 1:
                    found[at:at] = self.chance.randbytes(self.chance.choice((1, 2, 9, 100)))
                case 2:
                    del found[at : at + self.chance.choice((1, 2, 20))]
                case 3:
                    del found[at:]
                case 4:
                    found[at:at] = found[: self.chance.choice((1, 30, len(found)))]
                case 5:
                    found[at : at + 1] = self.chance.choice((b"\xff", b"\0", b"\x80" * 10, b"\xff\xff\xff\xff\x0f"))
                case _:
                    found[at : at + 2] = self.chance.choice((b"\xed\xa0\x80", b"\xc3\x28", b"\x1b[2J", b"\n"))
        return bytes(found[:200_000])

    def frames(self) -> bytes:
        """Frames of yamux, in no order that makes sense."""
        chance, found = self.chance, bytearray()
        for _ in range(chance.randint(1, 40)):
            kind, flags = chance.choice((0, 0, 1, 1, 2, 3, 4)), chance.choice((0, 0, 1, 2, 4, 8, 3, 5, 9, 15))
            number, length = (
                chance.choice((0, 1, 2, 3, 99, 101, 2**32 - 1)),
                chance.choice((0, 0, 1, 40, 2**18, 2**32 - 1)),
            )
            found += bytes((0, kind)) + flags.to_bytes(2, "big") + number.to_bytes(4, "big") + length.to_bytes(4, "big")
            if kind == 0 and length < 100:
                found += chance.randbytes(length)
        return bytes(found)

    def raw(self) -> bytes:
        """What comes before anything is agreed on."""
        whole = lines(MULTISTREAM, "/noise") + b"\0\x20" + self.chance.randbytes(32)
        return self.mutated(self.chance.choice((whole, lines(MULTISTREAM, YAMUX), lines(MULTISTREAM, *["/x"] * 80))))

    # ----------------------------------------------------------------------------------------------------------------

    def _address(self) -> bytes:
        return self.chance.choice(ADDRESSES) if self.chance.random() < 0.8 else self.mutated(ADDRESSES[0])

    def _text(self) -> bytes:
        return self.chance.choice((b"agent/1", b"\xff\xfe", "ü\u202e\0".encode(), b"x" * 3000, b""))

    def _identify(self) -> bytes:
        protocols = b"".join(field(3, one) for one in (KAD.encode(), AUTONAT.encode(), HOP.encode(), self._text()))
        addresses = b"".join(field(2, self._address()) for _ in range(self.chance.randint(0, 20)))
        return field(1, self._key) + field(5, b"ipfs/0.1.0") + field(6, self._text()) + addresses + protocols

    def _peer(self) -> bytes:
        identity = self._id if self.chance.random() < 0.3 else b"\0\x24\x08\x01\x12\x20" + self.chance.randbytes(32)
        return field(1, identity) + b"".join(field(2, self._address()) for _ in range(self.chance.randint(0, 10)))

    def _kad(self) -> bytes:
        key = self.chance.choice((self._id, b"/pk/" + self._id, b"\x12\x20" + self.chance.randbytes(32), b"metadata:x"))
        record = field(1, key) + field(2, self._text()) + field(5, b"2026-01-01T00:00:00Z")
        message = b"\x08" + bytes((self.chance.choice(KINDS),)) + field(2, key)
        if self.chance.random() < 0.5:
            message += field(3, record)
        for number in (8, 9):
            message += b"".join(field(number, self._peer()) for _ in range(self.chance.randint(0, 4)))
        return message

    def _hop(self) -> bytes:
        reservation = b"\x08" + varint(self.chance.choice((0, 1, 4102444800, 2**63))) + field(2, self._address())
        limit = b"\x08" + varint(self.chance.choice((0, 1, 120))) + b"\x10" + varint(self.chance.choice((0, 1, 131072)))
        status = varint(self.chance.choice((100, 100, 200, 201, 401, 7)))
        return b"\x08\x02" + field(3, reservation) + field(4, limit) + b"\x28" + status

    def _stop(self) -> bytes:
        return b"\x08" + bytes((self.chance.randrange(2),)) + field(2, field(1, self._id)) + field(3, b"\x08\x78")

    def _autonat(self) -> bytes:
        answer = b"\x08" + varint(self.chance.choice((0, 100, 101, 200, 300))) + field(2, self._text())
        return b"\x08\x01" + field(3, answer + field(3, self._address()))

    def _autonat_2(self) -> bytes:
        numbers = [varint(self.chance.choice((0, 1, 100, 101, 200, 30_000, 100_000, 2**63))) for _ in range(3)]
        said = b"".join(bytes((8 * (number + 1),)) + value for number, value in enumerate(numbers))
        question = field(1, self._address()) + b"\x11" + self.chance.randbytes(8)
        kind = self.chance.randint(1, 4)
        return field(kind, question if kind == 1 else field(1, bytes(99)) if kind == 4 else said)

    def _dcutr(self) -> bytes:
        kind = b"\x08" + varint(self.chance.choice((100, 100, 300, 7)))
        return kind + b"".join(field(2, self._address()) for _ in range(self.chance.randint(0, 6)))

    def _perf(self) -> bytes:
        return self.chance.choice((0, 1, 2**20, 2**63)).to_bytes(8, "big") + self.chance.randbytes(100)

    def _bridge(self) -> bytes:
        message = self._json()
        return len(message).to_bytes(4, "big") + message

    def _json(self) -> bytes:
        return self.chance.choice((b'{"JobClaim":{"job_id":7}}', b"[" * 2000, b'{"a":"\\ud800"}', b"1e999", b"\xff"))
