"""QUIC between two hosts of ours, over good and bad ways."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from fabstird.p2p.budget import Memory
from fabstird.p2p.host.host import Host, Link, Stream
from fabstird.p2p.muxer.frame import INITIAL_WINDOW
from fabstird.p2p.muxer.pulse import Liveness
from fabstird.p2p.quic.connection import Connection
from fabstird.p2p.quic.engine import MAX_STREAMS
from fabstird.p2p.quic.stream import SEND_BUFFER
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.errors import EndOfStream, StreamClosed, StreamReset
from tests.support.quic import Way, bad_way
from tests.traps.ours import PROTOCOL, Peer, Record, address, our_host

QUIC = ("/ip4/127.0.0.1/udp/0/quic-v1",)
MIB = 1024 * 1024


def connection(link: Link) -> Connection:
    assert isinstance(link.pipe, Connection)
    return link.pipe


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - of many kinds, and few are told of
            await trio.sleep(0.01)


@asynccontextmanager
async def pair(*, way: bool = False, loss: float = 0.0, late: float = 0.0) -> AsyncIterator[tuple[Host, Peer, Link]]:
    async with our_host((), handshake_timeout=60) as host, our_host(QUIC, handshake_timeout=60) as other:
        peer = Peer(other)
        with trio.fail_after(120):
            if not way:
                yield host, peer, await host.dial(address(other), timeout=60)
                peer.done.set()
                return
            at = parse(address(other))
            async with bad_way(at.port, loss=loss, late=late) as between:
                peer.way = between  # type: ignore[attr-defined]
                text = f"/ip4/127.0.0.1/udp/{between.port}/quic-v1/p2p/{other.peer_id}"
                yield host, peer, await host.dial(text, timeout=60)
                peer.done.set()


async def test_each_side_knows_the_peer_and_what_the_connection_is() -> None:
    async with pair() as (host, peer, link):
        await until(lambda: peer.host.links())
        (theirs,) = peer.host.links(host.peer_id)
        assert (link.peer_id, link.direction, link.key_type) == (peer.host.peer_id, "outbound", "Ed25519")
        assert (theirs.peer_id, theirs.direction, theirs.key_type) == (host.peer_id, "inbound", "Ed25519")
        assert (link.transport, link.security, link.muxer) == ("quic-v1", "/tls/1.0.0", "/quic-v1")
        assert await host.ping(peer.host.peer_id) > 0
        assert link.latency is not None
        assert link.bytes_in > 0 < link.bytes_out


async def test_a_stream_ends_one_half_at_a_time() -> None:
    async with pair() as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        await stream.write(b"question")
        await stream.close_write()
        with pytest.raises(StreamClosed):
            await stream.write(b"more")
        await peer.came.wait()
        (theirs,) = peer.streams
        assert await theirs.read() == b"question"
        with pytest.raises(EndOfStream):
            await theirs.read()
        await theirs.write_last(b"answer")
        assert await stream.read() == b"answer"
        with pytest.raises(EndOfStream):
            await stream.read()


async def test_a_reset_is_told_with_its_code_and_wakes_who_waits() -> None:
    async with pair() as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        await stream.write(b"x")
        await peer.came.wait()
        (theirs,) = peer.streams
        assert await theirs.read() == b"x"
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(StreamReset):
                    await theirs.read()

            nursery.start_soon(read)
            await stream.reset(0x1234)
        assert theirs.reset_code == 0x1234
        with pytest.raises(StreamReset):
            await theirs.write(b"y")


async def test_what_nobody_reads_is_not_sent_and_goes_on_once_it_is_read() -> None:
    data = random.Random(3).randbytes(3 * MIB)
    async with pair() as (host, peer, link), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        written = trio.Event()

        async def write() -> None:
            await stream.write(data)
            await stream.close_write()
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await peer.came.wait()
            (theirs,) = peer.streams
            held = connection(theirs.link)
            await until(lambda: held.buffered >= INITIAL_WINDOW - 65536)
            await trio.sleep(0.3)
            assert held.buffered <= INITIAL_WINDOW, "the window follows the reader"
            assert not written.is_set()
            assert connection(link).engine.owed() <= SEND_BUFFER
            came = bytearray()
            while part := await theirs.receive_some(65536):
                came += part
        assert hashlib.sha256(came).digest() == hashlib.sha256(data).digest()
        assert held.buffered == 0


@pytest.mark.parametrize(("loss", "late"), [(0.0, 0.0), (0.05, 0.2)], ids=["a good way", "loss and disorder"])
async def test_every_byte_arrives_in_order_at_a_reader_that_dawdles(loss: float, late: float) -> None:
    """What the stock transport gets wrong (tests/traps, 20)."""
    rng = random.Random(20)
    data = rng.randbytes(MIB)
    async with pair(way=True, loss=loss, late=late) as (host, peer, _):
        way: Way = peer.way  # type: ignore[attr-defined]
        async with host.stream(peer.host.peer_id, PROTOCOL) as stream:
            came = {True: bytearray(), False: bytearray()}

            async def write(one: Stream) -> None:
                await one.write(data)
                await one.close_write()

            async def read(one: Stream, *, ours: bool) -> None:
                while part := await one.receive_some(rng.choice((1000, 30_000, 65536))):
                    came[ours] += part
                    if rng.random() < 0.2:
                        await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, stream)
                await peer.came.wait()
                (theirs,) = peer.streams
                nursery.start_soon(write, theirs)
                nursery.start_soon(lambda: read(stream, ours=True))
                nursery.start_soon(lambda: read(theirs, ours=False))
            expected = hashlib.sha256(data).digest()
            assert [hashlib.sha256(one).digest() for one in came.values()] == [expected, expected]
            assert (way.lost > 0) is (loss > 0)


async def test_many_streams_at_once_and_a_limit_for_them() -> None:
    async with pair() as (host, peer, link):

        async def echo(stream: Stream) -> None:
            await stream.write_last(await stream.read())

        peer.host.set_stream_handler("/echo/1", echo)
        answers: list[bytes] = []

        async def one(number: int) -> None:
            async with host.stream(peer.host.peer_id, "/echo/1") as stream:
                await stream.write_last(b"%d" % number)
                answers.append(await stream.read())

        for _ in range(2):  # more than the peer may open at first: each that ends gives it another
            async with trio.open_nursery() as nursery:
                for number in range(MAX_STREAMS - 16):
                    nursery.start_soon(one, number)
        assert len(answers) == 2 * (MAX_STREAMS - 16)
        await until(lambda: connection(link).engine.streams_left <= 2)
        await until(lambda: not link.streams)


async def test_no_more_is_kept_than_there_is_memory_for() -> None:
    async with pair() as (host, peer, _):
        await until(lambda: peer.host.links())
        (theirs,) = peer.host.links()
        scope = connection(theirs)._memory
        assert scope is not None
        scope.limit = 100_000
        async with host.stream(peer.host.peer_id, PROTOCOL) as stream:
            with pytest.raises(StreamReset):
                await stream.write(bytes(2 * MIB))
            await peer.came.wait()
            assert peer.streams[0].no_room
            assert scope.used <= scope.limit
            await until(lambda: stream.reset_code == 0x1002)
        assert await host.ping(peer.host.peer_id) > 0, "the connection goes on"
        await until(lambda: scope.used == 0)


async def test_bytes_with_a_gap_before_them_count_as_well() -> None:
    """The engine makes room for what lies between."""
    async with pair() as (host, peer, link), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        await peer.came.wait()
        (theirs,) = peer.host.links()
        before = connection(theirs).buffered
        sender = stream.muxed.half.sender  # type: ignore[attr-defined]
        sender.write(bytes(100_000))
        sender._pending.subtract(0, sender._buffer_stop - 10)  # its beginning is never sent
        connection(link).send_soon()
        await until(lambda: connection(theirs).buffered > before)
        assert connection(theirs).buffered - before >= 90_000
        await peer.streams[0].reset()
        await until(lambda: connection(theirs).buffered == 0)


async def test_a_hundred_connections_leave_nothing_behind() -> None:
    async with our_host((), handshake_timeout=60) as host, our_host(QUIC, handshake_timeout=60) as other:
        record = Record()
        other.observe(record)
        await cycle(host, other)
        descriptors = len(os.listdir("/proc/self/fd"))
        with trio.fail_after(120):
            for _ in range(100):
                await cycle(host, other)
        await until(lambda: len(record.went) == 101)
        for link in record.went:
            await link.gone.wait()

        def kept(one: Host) -> list[object]:
            (endpoint,) = one.swarm.quic._datagrams._endpoints  # type: ignore[union-attr]
            links = one.swarm.links
            counts = [len(endpoint), endpoint.newcomers, links.memory.process.used, links.places.taken]
            counts.append(one.swarm.quic.bounds()["unacknowledgedBytes"][0])
            return [kind for kind in (*counts, *endpoint._routes, *endpoint._sources) if kind]

        for one in (host, other):
            await until(lambda one=one: not kept(one))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert {link.reason for link in record.went} == {"closed_by_peer"}


async def cycle(host: Host, other: Host) -> None:
    await host.dial(address(other), timeout=60)
    assert await host.ping(other.peer_id) > 0
    await host.close_peer(other.peer_id)


async def test_what_was_written_before_a_close_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "goodbye", 60.0)  # on a busy machine an acknowledgement takes its time
    data = random.Random(5).randbytes(200_000)
    async with pair() as (host, peer, _):
        came = bytearray()
        whole = trio.Event()

        async def read(stream: Stream) -> None:
            try:
                while part := await stream.receive_some(65536):
                    came.extend(part)
            finally:
                whole.set()

        peer.host.set_stream_handler("/last/1", read)
        async with host.stream(peer.host.peer_id, "/last/1") as stream:
            await stream.write_last(data)
        await host.close_peer(peer.host.peer_id)
        await whole.wait()
        assert bytes(came) == data


@asynccontextmanager
async def by_a_way() -> AsyncIterator[tuple[Way, Stream, Stream]]:
    """A stream over a way that may change, at both its ends; something has come."""
    async with pair(way=True) as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        await stream.write(b"before")
        await peer.came.wait()
        (theirs,) = peer.streams
        assert await theirs.read() == b"before"
        yield peer.way, stream, theirs  # type: ignore[attr-defined]


async def test_a_peer_that_moves_is_followed() -> None:
    async with by_a_way() as (way, stream, theirs):
        old = theirs.link.pipe.remote
        await way.move(way.nursery)  # type: ignore[attr-defined]
        await stream.write(b"after")
        assert await theirs.read() == b"after"
        await until(lambda: theirs.link.pipe.remote != old)
        await theirs.write(b"answer")
        assert await stream.read() == b"answer"


async def test_a_peer_is_not_where_it_only_says_that_it_is() -> None:
    """Else it would have this node dial somebody else back, and be counted there."""
    async with by_a_way() as (way, stream, theirs):
        there = theirs.link.pipe.remote
        await way.forge()
        await stream.write(b"after")
        assert await theirs.read() == b"after", "it is still the peer that sends"
        assert theirs.link.pipe.remote == there


async def test_a_peer_that_moves_to_a_banned_address_is_let_go() -> None:
    async with pair(way=True) as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        way: Way = peer.way  # type: ignore[attr-defined]
        await stream.write(b"x")
        await peer.came.wait()
        (link,) = peer.host.links()
        peer.host.swarm.quic.refusal = lambda host: "banned"
        await way.move(way.nursery)  # type: ignore[attr-defined]
        await stream.write(b"y")
        with trio.fail_after(60):
            await link.gone.wait()


async def test_silence_is_noticed() -> None:
    async with pair(way=True) as (_, peer, link):
        way: Way = peer.way  # type: ignore[attr-defined]
        await until(lambda: peer.host.links())
        (theirs,) = peer.host.links()
        for host in (link._owner, theirs._owner):
            host.limits.liveness = Liveness(0.2, 1.0)  # type: ignore[attr-defined]
        way.cut = True
        for one in (link, theirs):
            one.check()
        with trio.fail_after(60):
            await link.gone.wait()
            await theirs.gone.wait()
        assert {link.reason, theirs.reason} == {"dead"}


async def test_who_has_forgotten_a_connection_says_so_and_it_ends_at_once() -> None:
    """As after a restart: the token of a stateless reset is the same in each run."""
    async with pair() as (_, peer, link):
        await until(lambda: peer.host.links())
        (theirs,) = peer.host.links()
        connection(theirs)._end()  # without a word
        link.check()
        with trio.fail_after(60):
            await link.gone.wait()
        assert link.reason == "reset"


async def test_memory_scopes_are_those_of_other_connections() -> None:
    async with pair() as (_, peer, _link):
        memory: Memory = peer.host.swarm.links.memory
        await until(lambda: "127.0.0.1" in memory._by_ip)
        assert memory._by_ip["127.0.0.1"].connections == 1
