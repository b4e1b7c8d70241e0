"""Random bytes wherever a stranger can send some: nothing in the log above debug, nobody else disturbed, nothing kept.

Hypothesis chooses the bytes. What it chooses from is shaped a little like the real thing, to get past the first check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import strategies as st

from fabstir_client.api.errors import DialFailed
from fabstird.p2p.transport.proxied import SIGNATURE
from tests.faults.chance import each
from tests.faults.fuzz import HOP
from tests.faults.test_strangers import endpoint
from tests.harness import TASK_TREE, Daemon, fabstird
from tests.support.holding import released, settled
from tests.support.minipeer import IDENTIFY, Identity, MiniPeer, Stage, Stream, mini_peers
from tests.support.wire import MULTISTREAM, lines, varint
from tests.support.yamux import StreamReset

PATIENCE = 40.0  # seconds in which the daemon must be done with one attempt

WEB_SOCKET = (
    b"GET / HTTP/1.1\r\nHost: fabstird\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
NO_TEXT = b"\x05\xff\xfe\xfd\xfc\n"  # where multistream-select has a protocol's name in UTF-8
GARBAGE = st.binary(max_size=600)
PREFIXED = st.builds(lambda data: varint(len(data)) + data, GARBAGE)
LINE = st.builds(lambda data: varint(len(data) + 1) + data + b"\n", GARBAGE)
ANY = st.one_of(GARBAGE, PREFIXED, LINE, st.builds(lambda data: data * 400, st.binary(min_size=1, max_size=200)))


@asynccontextmanager
async def undisturbed(more: Mapping[str, Any] | None = None, **node: Any) -> AsyncIterator[tuple[Daemon, MiniPeer]]:
    """A daemon, and a peer to attack it with. Another peer stays connected; at the end nothing is left."""
    # No attempt may end by the deadline for handshakes only; it is beyond PATIENCE
    settings = {"connections.handshake_timeout": 60000, "connections.max_per_ip": 200, **(more or {})}
    async with mini_peers(2) as [friend, attacker], fabstird(settings=settings, **node) as daemon:
        link = await friend.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=friend.peer_id)
        before, spoken = await settled(daemon), len(daemon.said)
        yield daemon, attacker
        for connection in list(attacker.connections):
            await connection.aclose()
        await released(daemon, before)
        assert not link.closed.is_set(), link.end_reason
        assert await link.ping() < 20
        assert len(daemon.found("peer:disconnect", peerId=friend.peer_id)) == 0
        asked_for = (TASK_TREE, "call")  # by these tests
        told = [entry for entry in daemon.said[spoken:] if entry["event"] not in asked_for]
        assert not told, "\n".join(map(str, told))


async def until_closed(stream: trio.SocketStream) -> None:
    """Returns when the daemon has ended the connection; what it said on the way is of no interest."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass  # reset, which is an end too


def shout(daemon: Daemon, transport: str, before: bytes) -> Callable[[bytes], Awaitable[None]]:
    async def once(data: bytes) -> None:
        """`before` and `data`, then nothing more from here: the daemon ends the connection."""
        with trio.fail_after(PATIENCE):
            stream = await trio.open_tcp_stream(*endpoint(daemon, transport))
            async with stream:
                try:
                    await stream.send_all(before + data)
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    pass  # it did not listen to the end
                await until_closed(stream)

    return once


@pytest.mark.parametrize(
    "before",
    [b"", lines(MULTISTREAM), lines(MULTISTREAM, "/noise"), lines(MULTISTREAM, "/noise") + b"\0\x20" + bytes(32)],
    ids=["first", "multistream", "noise", "in noise"],
)
async def test_random_bytes_at_the_tcp_port(before: bytes) -> None:
    async with undisturbed() as (daemon, _):
        await each(ANY, shout(daemon, "tcp", before), examples=200)


def frame(opcode: int, data: bytes) -> bytes:
    """A WebSocket frame as a client sends it; masked with zeros, which changes nothing."""
    assert len(data) < 65536
    size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + size + bytes(4) + data


FRAMES = st.lists(st.builds(frame, st.sampled_from((0, 1, 2, 2, 2, 3, 8, 9, 10, 15)), GARBAGE), max_size=4).map(
    b"".join
)


@pytest.mark.parametrize(
    ("before", "data"),
    [(b"", ANY), (b"GET / HTTP/1.1\r\n", ANY), (WEB_SOCKET, ANY), (WEB_SOCKET, FRAMES)],
    ids=["first", "headers", "upgraded", "frames"],
)
async def test_random_bytes_at_the_ws_port(before: bytes, data: st.SearchStrategy[bytes]) -> None:
    async with undisturbed() as (daemon, _):
        await each(data, shout(daemon, "ws", before), examples=200)


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_random_bytes_of_a_trusted_proxy(transport: str) -> None:
    """Whoever came to it may have written most of them."""
    line, long = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n", SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12)
    told = b"GET / HTTP/1.1\r\nX-Forwarded-For: "
    begun = st.sampled_from(
        [line, line[:20], b"PROXY ", long, long[:14], SIGNATURE, told, told + b"203.0.113.9\r\n\r\n"]
    )
    async with undisturbed({"proxy.trusted": ["127.0.0.0/8"]}) as (daemon, _):
        await each(st.builds(bytes.__add__, begun, ANY), shout(daemon, transport, b""), examples=100)


YAMUX = st.builds(
    lambda kind, flags, number, length, data: bytes((0, kind)) + flags + number + length + data,
    st.integers(0, 4),
    st.sampled_from((0, 1, 2, 4, 8, 3, 5, 9, 15, 255)).map(lambda value: value.to_bytes(2, "big")),
    st.sampled_from((0, 1, 2, 3, 5, 2**32 - 1)).map(lambda value: value.to_bytes(4, "big")),
    st.one_of(st.integers(0, 64), st.sampled_from((2**18, 2**18 + 1, 2**32 - 1))).map(
        lambda value: value.to_bytes(4, "big")
    ),
    st.binary(max_size=64),
)


@pytest.mark.parametrize(
    ("stage", "data"),
    [(Stage.SECURED, ANY), (Stage.UP, ANY), (Stage.UP, st.lists(YAMUX, max_size=8).map(b"".join))],
    ids=["before yamux", "in yamux", "frames of yamux"],
)
async def test_random_bytes_inside_noise(stage: Stage, data: st.SearchStrategy[bytes]) -> None:
    async with undisturbed() as (daemon, attacker):

        async def once(example: bytes) -> None:
            """These bytes and nothing more, and the daemon ends the connection."""
            attacker.identity = Identity()
            with trio.fail_after(PATIENCE):
                connection = await attacker.dial(daemon.address("tcp"), hold=stage)
                try:
                    await connection.inject(example)
                    await connection.end_sending()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the daemon has ended it half-way
                await connection.closed.wait()

        await each(data, once, examples=150)


async def test_random_bytes_below_noise() -> None:
    """Messages that are no cipher text end the connection; that is no defect of the daemon's."""
    async with undisturbed() as (daemon, attacker):

        async def once(data: bytes) -> None:
            attacker.identity = Identity()
            with trio.fail_after(PATIENCE):
                connection = await attacker.dial(daemon.address("tcp"))
                await connection.forge(data)
                await connection.closed.wait()

        await each(st.binary(max_size=300), once, examples=20, known=[b"", bytes(16)])


async def test_random_bytes_on_every_advertised_protocol() -> None:
    async with undisturbed({"relay.serve": True}, enable_dht=True) as (daemon, attacker):
        link = await attacker.dial(daemon.address("tcp"))
        told = await link.identify()
        advertised = sorted({*told.protocols, *(await daemon.call("version"))["protocols"]})
        assert len(advertised) >= 3, advertised
        assert HOP in advertised
        print("advertised:", *advertised)
        for protocol in (None, *advertised):

            async def once(data: bytes, protocol: str | None = protocol) -> None:
                with trio.fail_after(PATIENCE):
                    stream = await link.open_stream(protocol)
                    try:
                        await stream.send_all(data)
                        await stream.close()
                        await stream.receive_all()
                    except StreamReset:
                        pass  # its way of saying that it does not understand

            try:
                await each(ANY, once, examples=100, known=[NO_TEXT])
            except BaseException as error:
                error.add_note(
                    f"on {protocol or 'a stream without protocol'}; the connection: {link.end_reason or 'up'}"
                )
                raise
            assert not link.closed.is_set(), f"{protocol}: {link.end_reason}"
            assert await link.ping() < 20


async def test_random_bytes_as_the_answer_to_identify() -> None:
    """The daemon asks each new peer who it is; one that talks nonsense stays connected, as one that does not answer."""
    async with undisturbed() as (daemon, attacker):

        async def once(data: bytes) -> None:
            async def answer(stream: Stream) -> None:
                try:
                    await stream.send_all(data)
                finally:  # the daemon may have had enough of it before its end
                    answered.set()

            answered = trio.Event()
            attacker.identity = Identity()
            attacker.handle(IDENTIFY, answer)
            with trio.fail_after(PATIENCE):
                link = await attacker.dial(daemon.address("tcp"))
                await answered.wait()
                assert await link.ping() < 20
                await link.aclose()

        await each(ANY, once, examples=100)


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_random_bytes_as_the_answer_to_a_dial(transport: str) -> None:
    answer = b""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive_some()
                await stream.send_all(answer)
                await stream.send_eof()
                await until_closed(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the daemon has heard enough

    async with undisturbed() as (daemon, attacker), trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        middle = "/ws" if transport == "ws" else ""
        target = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}{middle}/p2p/{attacker.peer_id}"

        async def once(data: bytes) -> None:
            nonlocal answer
            answer = data
            with trio.fail_after(PATIENCE), pytest.raises(DialFailed) as raised:
                await daemon.call("connect", address=target)
            words = raised.value.data["errors"][target]
            assert words, "a failed dial says why"
            assert "Error(" not in words, f"in words, not as Python writes it: {words}"

        multistream = st.builds(lambda data: lines(MULTISTREAM) + data, ANY)
        noise = st.builds(lambda data: lines(MULTISTREAM, "/noise") + data, ANY)
        upgraded = st.builds(lambda data: b"HTTP/1.1 101 Switching Protocols\r\n" + data, ANY)
        await each(st.one_of(ANY, multistream, noise, upgraded), once, examples=150)
        nursery.cancel_scope.cancel()
