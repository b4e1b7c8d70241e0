"""Two hosts of ours on loopback: who is at the other end, and what a stream between them can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fabstird.p2p.host.host import Host, Link, ProtocolUnsupported
from fabstird.p2p.host.host import StreamError as OpenError
from fabstird.p2p.net import links
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.errors import EndOfStream, StreamClosed, StreamReset
from tests.harness import until
from tests.support.minipeer import mini_peer
from tests.traps.ours import PROTOCOL, Peer, Record, our_host


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Host, Peer, Link]]:
    async with our_host(handshake_timeout=60) as host, our_host(handshake_timeout=60) as other:
        peer = Peer(other)
        with trio.fail_after(60):
            link = await host.dial(other.listen_addresses()[0], timeout=60)
            yield host, peer, link
            peer.done.set()


async def test_each_side_knows_the_peer_and_its_own_key() -> None:
    async with pair() as (host, peer, link):
        (theirs,) = peer.host.links(host.peer_id)
        assert (link.peer_id, link.direction, link.key_type) == (peer.host.peer_id, "outbound", "Ed25519")
        assert (theirs.peer_id, theirs.direction, theirs.key_type) == (host.peer_id, "inbound", "Ed25519")


async def test_half_a_stream_is_closed_and_the_other_half_goes_on() -> None:
    async with pair() as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        await stream.write(b"question")
        await stream.close_write()
        with pytest.raises(StreamClosed):
            await stream.write(b"more")
        await peer.came.wait()
        (theirs,) = peer.streams
        assert (theirs.peer_id, theirs.protocol) == (host.peer_id, PROTOCOL)
        assert await theirs.read() == b"question"
        with pytest.raises(EndOfStream):
            await theirs.read(1)
        assert await theirs.receive_some(1) == b""
        await theirs.write_last(b"answer")
        assert await stream.read(3) == b"ans"
        assert stream.buffered == 3
        assert await stream.receive_some(100) == b"wer"
        assert await stream.receive_some(100) == b""
        assert stream.done
        assert theirs.done


async def test_a_reset_tells_its_code_and_is_seen_by_who_reads_and_who_writes() -> None:
    async def cut(host: Host, peer: Peer) -> None:
        async with host.stream(peer.host.peer_id, PROTOCOL) as stream:
            await stream.write(b"x")
            await peer.came.wait()
            (theirs,) = peer.streams
            assert await theirs.read() == b"x"
            await theirs.reset(4711)
            with pytest.raises(StreamReset):
                await stream.read()
            assert (stream.reset_code, theirs.reset_code) == (4711, None)
            await stream.write(b"y")

    async with pair() as (host, peer, _):
        with pytest.raises(OpenError, match="reset"):
            await cut(host, peer)


async def test_what_a_peer_takes_now_is_known() -> None:
    async with pair() as (host, peer, _), host.stream(peer.host.peer_id, PROTOCOL) as stream:
        whole = stream.writable
        await stream.write(bytes(1000))
        assert stream.writable == whole - 1000
        await peer.came.wait()
        await stream.write(bytes(stream.writable))
        with trio.move_on_after(0.05) as waiting:
            await stream.write(b"x")
        assert waiting.cancelled_caught
        assert stream.writable == 0


async def test_the_table_of_handlers_is_what_a_peer_can_ask_for() -> None:
    async with pair() as (host, peer, link):
        assert PROTOCOL in peer.host.protocols()
        peer.host.remove_stream_handler(PROTOCOL)
        with pytest.raises(ProtocolUnsupported):
            async with host.stream(peer.host.peer_id, PROTOCOL):
                pass
        assert not [stream for stream in link.streams if stream.protocol == PROTOCOL]
        assert await host.ping(peer.host.peer_id) > 0


async def test_a_peer_that_is_asked_again_is_known_as_it_is_now() -> None:
    async with pair() as (host, peer, link):
        for name in ("/one/1", "/two/1", "/two/1"):
            peer.host.streams.handle(name, peer.serve)
            await host.identify_again(link)
            await host.identify_again(link)
            info = host.info(peer.host.peer_id)
            assert info is not None
            assert name in info.protocols
        peer.host.streams.unhandle("/one/1")
        await host.identify_again(link)
        info = host.info(peer.host.peer_id)
        assert info is not None
        assert "/one/1" not in info.protocols


async def test_a_host_whose_goodbyes_take_too_long_closes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Record()
    monkeypatch.setattr(links, "CLOSING", 0.0)
    async with our_host() as other:
        async with our_host(record=own) as host:
            for _ in range(3):
                await host.dial(other.listen_addresses()[0], timeout=60)
            host.part_as("stopped")
        await until(lambda: not other.links())
    assert [link.reason for link in own.went] == ["stopped"] * 3
    assert all(link.gone.is_set() for link in own.came)


async def test_a_host_that_closes_says_goodbye_on_each_connection() -> None:
    heard, own = Record(), Record()
    async with our_host(record=heard) as other:
        async with our_host(record=own) as host:
            for _ in range(3):
                await host.dial(other.listen_addresses()[0], timeout=60)
            await until(lambda: len(other.links()) == 3)
            host.part_as("stopped")
        await until(lambda: len(heard.went) == 3)
    assert {link.reason for link in own.went} == {"stopped"}
    assert {link.reason for link in heard.went} == {"closed_by_peer"}
    assert all(link.has_left for link in own.came)


async def test_who_dials_is_answered_whatever_a_peer_has_named_as_its_own_address() -> None:
    """A peer with which a hole is punched names somebody else's address: whoever dialled from there was taken for it,
    which waits for us to begin."""
    async with our_host() as host, mini_peer() as peer:
        with trio.fail_after(60), trio.socket.socket() as silent, trio.socket.socket() as dialling:
            address = host.listen_addresses()[0]
            endpoint = parse(address).host, parse(address).port
            named = []
            for sock in (silent, dialling):
                await sock.bind(("127.0.0.1", 0))
                named.append(parse(f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}"))
            with host.swarm.inbound.awaiting(named):
                for sock in (silent, dialling):
                    await sock.connect(endpoint)
                conn = await peer.begin(trio.SocketStream(dialling), address)
                assert await conn.ping() > 0
                assert [link.direction for link in host.links(peer.peer_id)] == ["inbound"]
                said = b""
                while not said.endswith(b"/noise\n"):
                    said += await silent.recv(100)
                assert said.startswith(b"\x13/multistream/1.0.0\n"), "whoever waits is asked"
