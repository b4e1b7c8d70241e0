"""A WebSocket on which calls are made, over its socket: what is handed over, and how it ends."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, TextMessage

from fabstird.api.sockets import Outbox
from fabstird.api.websocket import WebSocket
from fabstird.api.websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, frame
from fabstird.rpc.arriving import Arriving, Room
from tests.unit.test_websocket_frames import masked

MOST = 1000
WITHIN = 60.0  # seconds


class Received:
    """Handles single messages without waiting, unless ``slow``."""

    def __init__(self, *, slow: bool = False) -> None:
        self.messages: list[bytes] = []
        self.slow = slow

    def at_once(self, message: bytes) -> bool:
        if not self.slow:
            self.messages.append(message)
        return not self.slow

    async def receive(self, messages: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        self.messages += messages


@asynccontextmanager
async def websocket() -> AsyncIterator[tuple[WebSocket, trio.SocketStream]]:
    """One, and its client."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(WITHIN):
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as client:
            with trio.socket.from_stdlib_socket(ours) as sock:
                yield WebSocket(sock, Outbox(sock), MOST, Arriving(Room(MOST), "us")), client


async def conversation(wire: bytes, first: int = 0, *, slow: bool = False) -> tuple[list[bytes], bytes]:
    """The messages that a client gets across which sends this and ends, ``first`` bytes of it behind its handshake, and
    what it is sent."""
    received = Received(slow=slow)
    async with websocket() as (server, client):
        await client.send_all(wire[first:])
        await client.send_eof()
        await server.read(wire[:first], received)
        if server.ended:
            await server.leave(linger=False)
        sent = b""
        with suppress(BlockingIOError):
            sent = os.read(client.socket.fileno(), 65536)
    return received.messages, sent


def by_wsproto(wire: bytes) -> tuple[list[bytes], int | None]:
    """The messages that wsproto finds, and the code that it would close with."""
    connection, messages, parts = Connection(ConnectionType.SERVER), [], b""
    connection.receive_data(wire)
    for event in connection.events():
        if isinstance(event, CloseConnection):
            return messages, int(event.code)
        if isinstance(event, Message):
            parts += event.data.encode() if isinstance(event, TextMessage) else event.data
            if event.message_finished:
                messages.append(parts)
                parts = b""
    return messages, None


def closing(sent: bytes) -> int | None:
    """The code of the close frame at the end of what a client was sent."""
    at = 0
    while at < len(sent):
        if sent[at] == 0x80 | CLOSE:
            code: int = struct.unpack("!H", sent[at + 2 : at + 4])[0]
            return code
        at += 2 + sent[at + 1]
    return None


frames = st.builds(
    masked,
    st.sampled_from([TEXT, TEXT, TEXT, BINARY, PING, PONG, 0, 0, CLOSE, 3, TEXT | 0x40]),
    st.sampled_from([b"", b"x", b"\xc3\xa4", b"\xc3", b"\x03\xe8", b"\x03\xe8\xc3\xa4", b"y" * 125, b"z" * 300]),
    final=st.sampled_from([True, True, True, False]),
    mask=st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=6), st.integers(0, 9), st.integers(0, 700), st.booleans())
@example([masked(TEXT, b"a", final=False), masked(PING, b"?"), masked(0, b"b"), masked(TEXT, b"c")], 0, 3, False)
@example([masked(TEXT, b"\xc3", final=False), masked(0, b"\xa4")], 0, 0, True)  # a character in two frames
@example([masked(CLOSE, b"\x03\xe8"), masked(TEXT, b"late")], 0, 0, False)
def test_what_is_handed_over_is_what_wsproto_finds(parts: list[bytes], cut: int, first: int, slow: bool) -> None:
    wire = b"".join(parts)
    wire = wire[: len(wire) - cut]
    messages, sent = trio.run(lambda: conversation(wire, first, slow=slow))
    expected, code = by_wsproto(wire)
    assert messages == expected
    if code != 1005:  # a close without a code is answered by one without
        assert closing(sent) == code


@pytest.mark.parametrize(
    "wire",
    [
        masked(TEXT, b"x" * (MOST + 1))[:8],  # its head alone
        masked(TEXT, b"x" * MOST, final=False) + masked(PING, b"") + masked(0, b"x"),
        masked(BINARY, b"x" * 70_000),
    ],
)
async def test_a_message_that_is_too_long_is_refused_by_what_its_heads_say(wire: bytes) -> None:
    async with websocket() as (server, client):
        received = Received()
        await client.send_all(masked(TEXT, b"y" * MOST) + wire)
        await server.read(b"", received)
        assert server.ended
        assert received.messages == [b"y" * MOST]
        sent = await client.receive_some()
        assert closing(sent) == 1009
        assert sent.endswith(b"[api] max_request_bytes allows 1000 bytes")


async def test_pings_are_answered_and_a_close_is_closed() -> None:
    messages, sent = await conversation(masked(PING, b"?") + masked(CLOSE, b"\x03\xe9bye") + masked(TEXT, b"late"))
    assert (messages, sent) == ([], frame(PONG, b"?") + frame(CLOSE, b"\x03\xe9bye"))


async def test_nothing_follows_a_close_frame() -> None:
    async with websocket() as (server, client):
        server.ping()
        server.end(1008, "ä" * 100)
        server.end(1001, "another")
        server.ping()
        sent = await client.receive_some()
    assert sent == frame(PING, b"") + frame(CLOSE, b"\x03\xf0" + "ä".encode() * 61)  # as many as a frame holds


async def test_a_client_that_has_sent_more_reads_why_it_is_closed() -> None:
    """Over TCP, where bytes that nobody has read turn the end of a connection into a reset."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(WITHIN):
        async with listener, await trio.open_tcp_stream("127.0.0.1", port) as client, await listener.accept() as stream:
            server = WebSocket(stream.socket, Outbox(stream.socket), MOST, Arriving(Room(MOST), "us"))
            await client.send_all(masked(TEXT, b"unread") * 1000)
            server.end(1008, "the token was revoked")

            async def leave() -> None:
                await server.leave(linger=True)
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                sent = b""
                while data := await client.receive_some():
                    sent += data
                await client.aclose()
    assert closing(sent) == 1008
