"""What strangers may do to a node that listens on QUIC: frames that no honest peer sends, in packets that it must take.

Each attack goes on until it is cancelled."""

from __future__ import annotations

import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count

import trio
from aioquic.buffer import encode_uint_var as number
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.support.certificates import certificate
from tests.support.quic import Stranger, initial, is_up
from tests.support.wire import Identity

Attack = Callable[[int], Awaitable[None]]  # on the node at this port
ROOM = 1140  # bytes of frames in a packet
SHOWN, KEY = certificate(Identity())
PAUSE = 0.002  # seconds between datagrams: on the way through the kernel they would be lost


@asynccontextmanager
async def connected(port: int, *, source: str = "127.0.0.1") -> AsyncIterator[Stranger]:
    """A stranger whose connection is up, and that goes on taking what comes."""
    async with Stranger([SHOWN], KEY, source=source) as stranger, trio.open_nursery() as nursery:
        await stranger.dial(port)
        nursery.start_soon(stranger.go_on, lambda engine: False)
        while stranger.engine is None or not is_up(stranger.engine):
            assert stranger.engine is None or stranger.engine._close_event is None, stranger.engine._close_event
            await trio.sleep(0.01)
        yield stranger
        nursery.cancel_scope.cancel()


def packed(frames: Iterator[bytes], room: int = ROOM) -> bytes:
    """As many frames as a packet takes."""
    found = bytearray()
    while len(found) < room - 40:
        found += next(frames)
    return bytes(found)


async def _with_frames(make: Callable[[], Iterator[bytes]], port: int) -> None:
    """Connections that send nothing else, one after the other."""
    while True:
        frames = make()
        async with connected(port) as stranger:
            assert stranger.engine is not None
            while stranger.engine._close_event is None:
                await stranger.say(packed(frames))
                await trio.sleep(PAUSE)
        await trio.sleep(0.05)


# --------------------------------------------------------------------------------------------------------------------
# Frames of a connection that is up


def _holes() -> Iterator[bytes]:
    """Every other byte of a window."""
    for offset in range(1, 262144, 2):
        yield b"\x0e\0" + number(offset) + b"\1x"
    while True:
        yield b"\1"


def _far() -> Iterator[bytes]:
    """One byte at the end of the window of each stream."""
    for stream in count(0, 4):
        yield b"\x0e" + number(stream % 1024) + number(262140) + b"\1x"


def _beyond() -> Iterator[bytes]:
    while True:
        yield b"\x0e\0" + number((1 << 62) - 9) + b"\1x"


def _opened_and_reset() -> Iterator[bytes]:
    for stream in count(0, 4):
        yield b"\x0a" + number(stream) + b"\1x" + b"\x04" + number(stream) + b"\0\1" + b"\5" + number(stream) + b"\0"


def _limits() -> Iterator[bytes]:
    for size in count(1 << 20):
        yield b"\x10" + number(size) + b"\x12" + number(size) + b"\x13" + number(size) + b"\x11\0" + number(size)


def _new_ids() -> Iterator[bytes]:
    for at in count(9):
        yield b"\x18" + number(at) + number(at) + b"\x08" + os.urandom(24)


def _retired_ids() -> Iterator[bytes]:
    for at in count(1):
        yield b"\x19" + number(at % 6 + 1) + b"\x19" + number(at // 8)


def _challenges() -> Iterator[bytes]:
    while True:
        yield b"\x1a" + os.urandom(8) + b"\x1b" + os.urandom(8)


def _acks() -> Iterator[bytes]:
    """Of packets that were never sent, with many gaps, and delays of years."""
    while True:
        yield b"\2" + number(1 << 30) + number(1 << 61) + number(40) + b"\0" + b"\0\0" * 40
        yield b"\2\0\0\0\0"


def _blocked() -> Iterator[bytes]:
    for at in count():
        yield b"\x14" + number(at) + b"\x15" + number(at % 256 * 4) + b"\0" + b"\x16" + number(at)


def _handshakes() -> Iterator[bytes]:
    """Of a handshake that is long over."""
    while True:
        yield b"\6\0\1\1"
        yield b"\6" + number(100) + b"\0"


def _pings() -> Iterator[bytes]:
    while True:
        yield b"\1\0"


def _noise(seed: int) -> Iterator[bytes]:
    """Frames with one field wrong, or all."""
    rng = random.Random(seed)
    kinds = [make() for make in FRAMES.values()]
    while True:
        frame = bytearray(next(rng.choice(kinds)))
        for _ in range(rng.randrange(3)):
            frame[rng.randrange(len(frame))] = rng.choice(
                (0, 1, 4, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF, rng.randrange(256))
            )
        yield bytes(frame)


FRAMES: dict[str, Callable[[], Iterator[bytes]]] = {
    "a stream with holes": _holes,
    "streams with their end first": _far,
    "a stream beyond its window": _beyond,
    "streams that are opened and reset": _opened_and_reset,
    "limits": _limits,
    "connection ids": _new_ids,
    "connection ids that are retired": _retired_ids,
    "path challenges": _challenges,
    "acknowledgements": _acks,
    "who says that it is blocked": _blocked,
    "handshakes without end": _handshakes,
    "pings": _pings,
}


async def _noises(port: int) -> None:
    for seed in count():
        with trio.move_on_after(0.3):
            await _with_frames(partial(_noise, seed), port)


# --------------------------------------------------------------------------------------------------------------------
# Datagrams of strangers


async def _flood(datagrams: Iterator[bytes], port: int, *, sources: int = 16, pause: float = 0.0005) -> None:
    async with AsyncExitStack() as stack:
        strangers = [
            await stack.enter_async_context(Stranger(source=f"127.0.{n // 200}.{n % 200 + 1}")) for n in range(sources)
        ]
        for stranger in strangers:
            stranger.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for at, data in enumerate(datagrams):
            await strangers[at % sources].send(data, port)
            await trio.sleep(pause)


def _client() -> QuicConnection:
    engine = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=ssl.CERT_NONE))
    engine.connect(("127.0.0.1", 1), 0.0)
    return engine


def _hellos() -> Iterator[bytes]:
    """First datagrams as they should be, of clients that say nothing more."""
    while True:
        hello = _client().datagrams_to_send(0.0)[0][0]
        for _ in range(20):
            yield hello  # the same from other sources: another connection once the first is gone


def _wrong_hellos() -> Iterator[bytes]:
    """A connection is made of each, and ends at once."""
    while True:
        yield initial(b"\6\0\4\2\0\0\0", os.urandom(8), b"12345678")


def _mutated_hellos() -> Iterator[bytes]:
    rng = random.Random(7)
    while True:
        engine = _client()
        hello = bytes(engine._crypto_streams[next(iter(engine._crypto_streams))].sender._buffer)
        for _ in range(100):
            changed = bytearray(hello)
            for _ in range(rng.randint(1, 4)):
                changed[rng.randrange(4, len(changed))] = rng.randrange(256)
            yield initial(b"\6\0" + number(len(changed)) + changed, rng.randbytes(8), b"12345678")


def _hello_with_holes() -> Iterator[bytes]:
    while True:
        cid = os.urandom(8)
        offsets = iter(range(1, 16380, 2))
        frames = (b"\6" + number(offset) + b"\1x" for offset in offsets)
        for packet in range(30):
            yield initial(packed(frames), cid, b"12345678", number=packet)


def _forged_tokens() -> Iterator[bytes]:
    while True:
        yield initial(b"\6\0\1x", os.urandom(8), b"12345678", token=os.urandom(random.randrange(1, 200)))


def _versions() -> Iterator[bytes]:
    while True:
        yield b"\xc0\x1a\x2a\x3a\x4a\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + bytes(1200)
        yield b"\x80\0\0\0\0\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\0\0\0\1" * 300


def _junk() -> Iterator[bytes]:
    while True:
        yield b"\x40" + os.urandom(60)


def _large() -> Iterator[bytes]:
    """As many packets in a datagram as can be, for a connection that it begins."""
    while True:
        cid = os.urandom(8)
        yield initial(b"\6\x40\x64\1x", cid, b"12345678")
        packet = b"\xc0\0\0\0\1\x08" + cid + b"\0\0\x14" + os.urandom(20)
        for _ in range(10):
            yield (packet * 2000)[:65000]


DATAGRAMS: dict[str, Attack] = {
    "clients that begin and say no more": partial(_flood, _hellos()),
    "handshakes that are none": partial(_flood, _wrong_hellos()),
    "handshakes with a byte wrong": partial(_flood, _mutated_hellos()),
    "a handshake with holes": partial(_flood, _hello_with_holes()),
    "tokens that are forged": partial(_flood, _forged_tokens()),
    "other versions": partial(_flood, _versions()),
    "datagrams of nobody": partial(_flood, _junk()),
    "large datagrams": partial(_flood, _large()),
}


async def _came_and_went(port: int) -> None:
    for at in count():
        async with connected(port, source=f"127.0.9.{at % 200 + 1}") as stranger:
            assert stranger.engine is not None
            if at % 2:
                stranger.engine.close()
                await stranger.flush()


async def _moves(port: int) -> None:
    """From one address to the next with each packet."""
    async with connected(port) as stranger, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(Stranger(source=f"127.0.8.{n + 1}")) for n in range(50)]
        for at in count():
            await stranger.say(b"\x01" * 20, by=others[at % 50])
            await trio.sleep(PAUSE)


ATTACKS: dict[str, Attack] = {
    **DATAGRAMS,
    **{name: partial(_with_frames, make) for name, make in FRAMES.items()},
    "frames with a field wrong": _noises,
    "clients that come and go": _came_and_went,
    "a client that moves": _moves,
}
