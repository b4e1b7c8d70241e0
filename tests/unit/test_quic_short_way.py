"""The short way of most of QUIC's packets: what it does is what aioquic's long one does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aioquic.buffer import encode_uint_var as number
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode

from fabstird.p2p.quic.engine import Engine
from tests.support.quic_engines import Engines, Side


class LongWay(Engine):
    _payload_received = QuicConnection._payload_received

    def receive_short(self, *_: Any) -> bool:
        return False

    def _follows(self, *_: Any) -> bool:
        return False

    def bulk(self, now: float) -> list[Any]:
        return []


def _frame(rng: random.Random, reached: dict[int, int], *, honest: bool) -> bytes:
    """Of a stream, more often than not what follows; now and then something else, or something wrong."""
    stream = rng.choice((0, 0, 4, 8))
    kind = rng.randrange(40)
    if kind == 0:
        return b"\x11" + number(stream) + number(rng.randrange(1 << 20))
    if kind == 1 and not honest:
        return b"\2" + number(rng.randrange(12)) + b"\0\0\0"
    if kind == 2:
        return bytes((rng.choice((1, 0) if honest else (1, 0, 0x10, 0x14)),)) + b"\0" * rng.randrange(3)
    if kind == 3 and not honest:
        return rng.choice((b"\x04", b"\x05")) + number(stream) + b"\1" * (2 if rng.random() < 0.5 else 1)
    data = rng.randbytes(rng.choice((0, 1, 5, 300)))
    at = reached.get(stream, 0)
    if kind == 4:
        at += rng.choice((-3, 1, 700) if honest else (-3, 1, 700, 300_000))
    at = max(0, at)
    last = not honest and rng.random() < 0.02
    reached[stream] = max(reached.get(stream, 0), at + len(data)) if kind != 4 else reached.get(stream, 0)
    return bytes((0x0E | last,)) + number(stream) + number(at) + number(len(data)) + data


def _seen(side: Side) -> tuple[Any, ...]:
    engine = side.engine
    streams = {
        at: (one.receiver.highest_offset, one.receiver._buffer_start, one.receiver.is_finished)
        for at, one in engine._streams.items()
    }
    closed = engine.closed_with and engine.closed_with[:2]
    return (closed, engine._local_max_data.used, streams, engine.received, side.owner.reached)


def test_whatever_comes_is_taken_as_aioquic_takes_it() -> None:
    ended = 0
    for seed in range(12):
        rng = random.Random(seed)
        short, long = Engines(), Engines(LongWay)
        long.client.engine._packet_number = short.client.engine._packet_number = 500
        reached: dict[int, int] = {}
        for _ in range(40):
            frames = b"".join(_frame(rng, reached, honest=seed % 2 == 0) for _ in range(rng.randint(1, 4)))
            for one in (short, long):
                one.say(frames)
                while (event := one.server.engine.next_event()) is not None:
                    one.server.events.append(event)
            assert _seen(short.server) == _seen(long.server), f"seed {seed}"
            for stream in (0, 4, 8):
                assert short.server.came(stream) == long.server.came(stream)
        kinds = [[type(event) for event in one.server.events[-20:]] for one in (short, long)]
        assert kinds[0] == kinds[1]
        ended += short.server.engine.closed_with is not None
    assert ended == 6, "who sends what is wrong, and nobody else"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x0e\0" + number(1 << 20) + b"\1x", QuicErrorCode.FLOW_CONTROL_ERROR),
        (b"\x0c\0" + b"\x80\x04\0\0" + b"x" * 10, QuicErrorCode.FLOW_CONTROL_ERROR),
        (b"\x0e\0\0\x44\0x", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x0a\0\1x\x02", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x0a\0\1x\x40\x50", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x0a\1\1x", QuicErrorCode.STREAM_STATE_ERROR),
        (b"\x0f\0\0\1x\x0e\0\1\1y", QuicErrorCode.FINAL_SIZE_ERROR),
    ],
)
def test_what_no_honest_peer_sends_ends_the_connection_on_the_short_way_too(frames: bytes, code: int) -> None:
    for kind in (Engine, LongWay):
        engines = Engines(kind)
        engines.say(b"\x0a\x04\1x")
        engines.say(frames)
        closed = engines.server.engine.closed_with
        assert closed is not None
        assert closed[0] == code, kind


def test_reserved_bits_end_the_connection() -> None:
    engines = Engines()
    engine = engines.client.engine
    pair = next(one for epoch, one in engine._cryptos.items() if epoch.name == "ONE_RTT")
    packet = engine._packet_number
    head = b"\x59" + engine._peer_cid.cid + packet.to_bytes(2, "big")
    engines.server.engine.receive_datagram(
        pair.encrypt_packet(head, b"\1\0\0\0", packet), ("127.0.0.1", 1), engines.now
    )
    closed = engines.server.engine.closed_with
    assert closed is not None
    assert closed[0] == QuicErrorCode.PROTOCOL_VIOLATION


def test_streams_that_fill_datagrams_take_turns_and_hold_up_no_small_one() -> None:
    engines = Engines()
    engine = engines.client.engine
    many = [engine.open() for _ in range(3)]
    for at, (_, half) in enumerate(many):
        half.sender.write(bytes([at]) * 60_000)
    small_number, small = engine.open()
    small.sender.write(b"a word", end_stream=True)
    for _ in range(3):
        engines.step()
    assert engines.server.came(small_number) == b"a word"
    came = [len(engines.server.came(one)) for one, _ in many]
    assert min(came) > 0
    for _ in range(400):
        engines.step()
    for at, (one, half) in enumerate(many):
        assert engines.server.came(one) == bytes([at]) * 60_000
        assert len(half.sender._buffer) == 0, "all was acknowledged"


def test_what_is_lost_on_the_short_way_is_sent_again() -> None:
    rng = random.Random(5)
    engines = Engines()
    engines.lost = lambda sender, size: rng.random() < 0.1
    one, half = engines.client.engine.open()
    data = rng.randbytes(200_000)
    half.sender.write(data, end_stream=True)
    for _ in range(6000):
        engines.step()
        if len(engines.server.came(one)) == len(data):
            break
    assert engines.server.came(one) == data


def test_no_more_is_sent_than_the_windows_allow() -> None:
    engines = Engines()
    engine = engines.client.engine
    _, half = engine.open()
    half.max_stream_data_remote = 5_000
    half.sender.write(bytes(50_000))
    for _ in range(50):
        engines.step()
    assert half.sender.highest_offset == 5_000
    engine._remote_max_data = engine._remote_max_data_used + 3_000
    half.max_stream_data_remote = 100_000
    for _ in range(50):
        engines.step()
    assert half.sender.highest_offset == 8_000
    assert engines.server.engine.closed_with is None
