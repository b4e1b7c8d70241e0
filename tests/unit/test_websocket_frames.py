"""Frames of a WebSocket, as a client sends them."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from fabstird.api.websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameReader,
    Sizes,
    Violation,
    accept_key,
    complete_texts,
    frame,
)


def masked(kind: int, data: bytes, *, final: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    size = len(data)
    head = bytes((0x80 * final | kind, 0x80 | size)) if size < 126 else b""
    if not head:
        form = (126, "!H") if size < 1 << 16 else (127, "!Q")
        head = bytes((0x80 * final | kind, 0x80 | form[0])) + struct.pack(form[1], size)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_frames_are_taken_apart_however_they_come(step: int) -> None:
    long = os.urandom(70_001)
    wire = masked(BINARY, b"one") + masked(BINARY, long[:200], final=False) + masked(PING, b"?") + masked(0, long[200:])
    wire += masked(TEXT, b'{"end"', final=False) + masked(PONG, b"") + masked(0, b":true}") + masked(BINARY, b"")
    wire += masked(CLOSE, b"\x03\xe8")
    reader, found = FrameReader(), []
    for at in range(0, len(wire), step):
        reader.feed(wire[at : at + step])
        while (piece := reader.next(1000)) is not None:
            assert len(piece[1]) <= 1000
            if found and found[-1][0] == piece[0] == BINARY:
                found[-1] = (BINARY, found[-1][1] + piece[1])
            else:
                found.append(piece)
    assert [kind for kind, _ in found] == [BINARY, PING, BINARY, PONG, TEXT, CLOSE]
    assert found[0][1] + found[2][1] == b"one" + long
    assert (found[1][1], found[4][1], found[5][1]) == (b"?", b'{"end":true}', b"\x03\xe8")


@pytest.mark.parametrize(
    "wire",
    [
        frame(BINARY, b"not masked"),
        masked(BINARY | 0x40, b"an extension"),
        masked(3, b"a kind that there is not"),
        masked(0, b"the rest of nothing"),
        masked(BINARY, b"one", final=False) + masked(TEXT, b"within another"),
        masked(PING, b"?" * 126),
        masked(PING, b"?", final=False),
        masked(TEXT, b"x" * 1025),
        masked(TEXT, b"x" * 1000, final=False) + masked(0, b"x" * 1000),
    ],
)
def test_frames_that_break_the_protocol_are_refused(wire: bytes) -> None:
    reader = FrameReader()
    reader.feed(wire)
    with pytest.raises(Violation):
        list(iter(lambda: reader.next(1000), None))


def test_the_handshake_is_answered_as_the_specification_says() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


frames = st.builds(
    masked,
    st.sampled_from([TEXT, TEXT, TEXT, TEXT, BINARY, PING, 0, 3, TEXT | 0x40]),
    st.sampled_from(
        [b"", b"x", b"\xc3\xa4", b"\xc3", b"\xed\xa0\x80", b"y" * 125, b"z" * 126, b"z" * 300, b"w" * 70_000]
    ),
    final=st.sampled_from([True, True, True, False]),
    mask=st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04"]),
)


@settings(max_examples=400)
@given(st.lists(frames, max_size=5), st.integers(0, 12), st.integers(1, 3), st.sampled_from([124, 1000]))
@example([b"\x81\xfe\x00\x05\0\0\0\0short"], 0, 3, 1000)  # a size of two bytes where one would do
@example([b"\x81\x02no"], 0, 3, 1000)  # not masked
def test_texts_that_go_past_wsproto_are_those_that_it_would_give(
    parts: list[bytes], cut: int, count: int, longest: int
) -> None:
    wire = b"".join(parts)
    wire = wire[: len(wire) - cut]
    texts, after = complete_texts(wire, 0, count, longest)
    assert len(texts) <= count
    wsproto = Connection(ConnectionType.SERVER)
    wsproto.receive_data(wire[:after])
    found = list(wsproto.events())
    assert all(type(event) is TextMessage and event.message_finished and event.frame_finished for event in found)
    assert [event.data.encode() for event in found] == texts
    sizes = Sizes()
    assert sizes.feed(wire[:after]) <= longest
    assert sizes.between


def test_a_message_is_under_way_until_its_last_frame() -> None:
    sizes = Sizes()
    for wire, between in (
        (masked(TEXT, b"", final=False), False),
        (masked(PING, b""), False),
        (masked(0, b"x", final=False), False),
        (masked(0, b""), True),
        (masked(TEXT, b"x")[:1], False),
        (masked(TEXT, b"x")[1:-1], False),
        (masked(TEXT, b"x")[-1:], True),
        (masked(PING, b"x"), True),
    ):
        sizes.feed(wire)
        assert sizes.between is between
