"""QUIC for tests: a bad way between two nodes, and a stranger who speaks it by hand, on the stock engine."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509

LOOPBACK = "127.0.0.1"


class Way:
    """Carries datagrams between a node that listens at ``port`` and whoever dials `port` here, badly: ``loss`` and
    ``late`` are the parts that are lost, and that come after later ones; ``cut`` loses everything."""

    def __init__(self, target: int, seed: int, loss: float, late: float) -> None:
        self.lost = self.carried = 0
        self.cut = False
        self._target = target
        self._random = random.Random(seed)
        self._loss, self._late = loss, late
        self._sockets: list[Any] = []
        self._here = self._socket()
        self._there = self._socket()
        self._client: Any = None

    async def open(self) -> None:
        await self._here.bind((LOOPBACK, 0))
        await self._there.bind((LOOPBACK, 0))

    @property
    def port(self) -> int:
        return int(self._here.getsockname()[1])

    async def move(self, nursery: trio.Nursery) -> None:
        """From now on the node sees its peer at another port."""
        another = self._socket()
        await another.bind((LOOPBACK, 0))
        self._there = another
        nursery.start_soon(self.back)

    async def forge(self) -> None:
        """From now on what is sent to the node comes from another port, where nobody hears it."""
        another = self._socket()
        await another.bind((LOOPBACK, 0))
        self._there = another

    def _socket(self) -> Any:
        self._sockets.append(trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        return self._sockets[-1]

    async def forth(self) -> None:
        while True:
            data, self._client = await self._here.recvfrom(65536)
            await self._carry(data, lambda one: self._there.sendto(one, (LOOPBACK, self._target)))

    async def back(self) -> None:
        sock = self._there
        while True:
            data, _ = await sock.recvfrom(65536)
            await self._carry(data, lambda one: self._here.sendto(one, self._client))

    async def _carry(self, data: bytes, send: Callable[[bytes], Any]) -> None:
        self.carried += 1
        if self.cut or self._random.random() < self._loss:
            self.lost += 1
        elif self._random.random() < self._late:
            self._nursery.start_soon(self._afterwards, data, send)
        else:
            await send(data)

    async def _afterwards(self, data: bytes, send: Callable[[bytes], Any]) -> None:
        await trio.sleep(self._random.random() * 0.02)
        await send(data)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        try:
            await self.open()
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self.forth)
                self._nursery.start_soon(self.back)
                yield self._nursery
                self._nursery.cancel_scope.cancel()
        finally:
            for sock in self._sockets:
                sock.close()


@asynccontextmanager
async def bad_way(target: int, *, seed: int = 1, loss: float = 0.0, late: float = 0.0) -> AsyncIterator[Way]:
    way = Way(target, seed, loss, late)
    async with way.running() as nursery:
        way.nursery = nursery  # type: ignore[attr-defined]
        yield way


class Stranger:
    """One connection on aioquic's engine as it comes, which takes whatever it is shown."""

    def __init__(
        self,
        shown: Sequence[x509.Certificate] = (),
        key: Any = None,
        *,
        is_client: bool = True,
        alpn: str = "libp2p",
        version: int = QuicProtocolVersion.VERSION_1,
        source: str = LOOPBACK,
        parameters: bytes = b"",
        streams: int = 128,
    ) -> None:
        """``parameters`` follow on its own transport parameters; ``streams`` may be opened by whoever dials it."""
        self.configuration = QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[alpn],
            certificate=shown[0] if shown else None,
            certificate_chain=list(shown[1:]),
            private_key=key,
            verify_mode=ssl.CERT_NONE,
            supported_versions=[version],
        )
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._source = source
        self._parameters = parameters
        self._streams = streams
        self.sent = self.received = 0
        self.engine: QuicConnection | None = None

    async def __aenter__(self) -> Stranger:
        try:
            await self.sock.bind((self._source, 0))
        except BaseException:  # an attack that is over before it has begun
            self.sock.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    async def dial(self, port: int) -> None:
        """Its first datagrams, which nothing may follow."""
        self.engine = self._made(QuicConnection(configuration=self.configuration))
        self.engine.connect((LOOPBACK, port), trio.current_time())
        await self.flush()

    async def send(self, data: bytes, port: int) -> None:
        self.sent += len(data)
        await self.sock.sendto(data, (LOOPBACK, port))

    async def flush(self) -> None:
        assert self.engine is not None
        for data, target in self.engine.datagrams_to_send(trio.current_time()):
            self.sent += len(data)
            await self.sock.sendto(data, target)

    def _made(self, engine: QuicConnection) -> QuicConnection:
        own = engine._serialize_transport_parameters
        engine._local_max_streams_bidi.value = engine._local_max_streams_bidi.sent = self._streams
        engine._serialize_transport_parameters = lambda: own() + self._parameters  # type: ignore[method-assign]
        return engine

    async def say(self, frames: bytes, *, by: Stranger | None = None) -> None:
        """One packet of the connection that is up, with whatever frames; ``by`` another one's socket."""
        engine = self.engine
        assert engine is not None
        number, engine._packet_number = engine._packet_number, engine._packet_number + 1
        head = b"\x41" + engine._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
        data = engine._cryptos[tls.Epoch.ONE_RTT].encrypt_packet(head, frames.ljust(4, b"\0"), number)
        self.sent += len(data)
        await (by or self).sock.sendto(data, engine._network_paths[0].addr)

    async def go_on(self, until: Callable[[QuicConnection], bool]) -> None:
        """Speak until it is so, or the other side has ended it."""
        while self.engine is None or not (until(self.engine) or self.engine._close_event is not None):
            due = self.engine.get_timer() if self.engine is not None else None
            with trio.move_on_at(min(due or float("inf"), trio.current_time() + 0.2)):
                data, source = await self.sock.recvfrom(65536)
                self.received += len(data)
                if self.engine is None:
                    self.engine = self._made(_server(self.configuration, data))
                self.engine.receive_datagram(data, source, trio.current_time())
            if self.engine is not None:
                now = trio.current_time()
                if due is not None and due <= now:
                    self.engine.handle_timer(now)
                await self.flush()

    async def hears(self, within: float) -> int:
        """How many bytes come within so many seconds."""
        with trio.move_on_after(within):
            while True:
                self.received += len(await self.sock.recv(65536))
        return self.received


def initial(frames: bytes, cid: bytes, source: bytes = b"", *, number: int = 0, token: bytes = b"") -> bytes:
    """A first datagram with whatever frames, filled up to 1,200 bytes."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=cid, is_client=True, version=QuicProtocolVersion.VERSION_1)
    head = b"\xc1\0\0\0\1" + bytes((len(cid),)) + cid + bytes((len(source),)) + source
    head += encode_uint_var(len(token)) + token
    frames = frames.ljust(1200 - len(head) - 20, b"\0")
    head += (0x4000 | len(frames) + 18).to_bytes(2, "big") + number.to_bytes(2, "big")
    return bytes(crypto.encrypt_packet(head, frames, number))


def _server(configuration: QuicConfiguration, first: bytes) -> QuicConnection:
    cid = first[6 : 6 + first[5]]
    engine = QuicConnection(configuration=configuration, original_destination_connection_id=cid)
    before = engine._initialize

    def initialize(peer_cid: bytes) -> None:
        before(peer_cid)
        engine.tls._request_client_certificate = True

    engine._initialize = initialize  # type: ignore[method-assign]
    return engine


def is_up(engine: QuicConnection) -> bool:
    return engine.tls.state in (tls.State.CLIENT_POST_HANDSHAKE, tls.State.SERVER_POST_HANDSHAKE)
