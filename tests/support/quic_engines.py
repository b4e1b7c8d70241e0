"""Two engines of ours that talk to each other without a socket, and a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header
from aioquic.tls import Epoch

from fabstird.p2p.quic.engine import Engine
from fabstird.p2p.quic.identity import CID_LENGTH, Identity
from tests.support.certificates import certificate
from tests.support.wire import Identity as Who

CLIENT, SERVER = ("127.0.0.1", 1), ("127.0.0.1", 2)
IDLE = 30.0
STEP = 0.001  # seconds for which a datagram is on its way


class _Owner:
    """Reads all that comes; ``reached`` are the bytes by which streams have grown."""

    def __init__(self) -> None:
        self.reached: list[tuple[int, int]] = []

    def grown(self, number: int, size: int) -> None:
        self.reached.append((number, size))


class Side:
    def __init__(self, engine: Engine, address: tuple[str, int], owner: _Owner) -> None:
        self.engine, self.address, self.owner = engine, address, owner
        self.events: list[Any] = []

    def came(self, number: int) -> bytes:
        """Bytes of a stream that have come in order."""
        return b"".join(
            event.data for event in self.events if getattr(event, "data", b"") and event.stream_id == number
        )


class Engines:
    """A connection that is up on both sides. ``lost`` decides of each datagram, by who sends it and its size."""

    def __init__(self, kind: type[Engine] = Engine) -> None:
        self.now = 0.0
        self.sizes: list[int] = []  # of datagrams, as they were sent
        self.lost: Any = lambda sender, size: False
        mine, theirs = _identity(), _identity()
        owner = _Owner()
        self.client = Side(kind(mine, mine.configuration(is_client=True, idle=IDLE), owner), CLIENT, owner)
        self.client.engine.connect(SERVER, self.now)
        first = self.client.engine.datagrams_to_send(self.now)
        header = pull_quic_header(Buffer(data=first[0][0]), host_cid_length=CID_LENGTH)
        owner = _Owner()
        configuration = theirs.configuration(is_client=False, idle=IDLE)
        engine = kind(theirs, configuration, owner, original=header.destination_cid)
        self.server = Side(engine, SERVER, owner)
        for data, _ in first:
            engine.receive_datagram(data, CLIENT, self.now)
        for _ in range(300):
            self.step()
        assert self.client.engine.is_up
        assert self.server.engine.is_up

    def step(self, by: float = STEP) -> None:
        """What either has to send comes to the other."""
        self.now += by
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            due = sender.engine.get_timer()
            if due is not None and due <= self.now:
                sender.engine.handle_timer(self.now)
            for data, _ in sender.engine.datagrams_to_send(self.now):
                self.sizes.append(len(data))
                if not self.lost(sender, len(data)):
                    receiver.engine.receive_datagram(data, sender.address, self.now)
            while (event := receiver.engine.next_event()) is not None:
                receiver.events.append(event)

    def say(self, frames: bytes) -> None:
        """A packet of the client's with whatever frames."""
        engine = self.client.engine
        number, engine._packet_number = engine._packet_number, engine._packet_number + 1
        head = b"\x41" + engine._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
        data = engine._cryptos[Epoch.ONE_RTT].encrypt_packet(head, frames.ljust(4, b"\0"), number)
        self.server.engine.receive_datagram(data, CLIENT, self.now)


def _identity() -> Identity:
    shown, key = certificate(Who())
    return Identity(shown, key, lambda cid: bytes(16))
