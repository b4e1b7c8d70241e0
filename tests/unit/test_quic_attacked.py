"""QUIC and peers whose connection is up, or nearly: what they may say, and what is kept of them."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicErrorCode, pull_quic_transport_parameters
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import ExtensionType

from fabstird.log.logger import set_level
from fabstird.p2p.host.host import DialError, Host, Link
from fabstird.p2p.quic.connection import Connection
from fabstird.p2p.quic.endpoint import TRUST_AT_ONCE
from fabstird.p2p.quic.engine import MAX_PIECES, MIN_IDLE
from fabstird.p2p.quic.halves import _Ranges
from fabstird.p2p.quic.probing import LARGEST
from fabstird.p2p.quic.stateless import Bucket
from fabstird.p2p.wire.addresses import parse
from tests.support.certificates import certificate
from tests.support.quic import LOOPBACK, Stranger, initial
from tests.support.quic_attacks import connected
from tests.support.wire import Identity
from tests.traps.ours import address, our_host
from tests.unit.test_quic import QUIC, until
from tests.unit.test_quic_strangers import can_be_dialled, listening

WHO = Identity()


@asynccontextmanager
async def dialled(stranger: Stranger) -> AsyncIterator[tuple[Host, Link]]:
    """A host of ours that has dialled a stranger."""
    async with stranger, our_host((), handshake_timeout=60) as host:
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.go_on, lambda engine: False)
                target = f"/ip4/127.0.0.1/udp/{stranger.port}/quic-v1/p2p/{WHO.peer_id}"
                yield host, await host.dial(target, timeout=60)
                nursery.cancel_scope.cancel()


def of(link: Link) -> Connection:
    assert isinstance(link.pipe, Connection)
    return link.pipe


# --------------------------------------------------------------------------------------------------------------------
# Who has not said yet who it is


def test_ranges_are_those_of_aioquic() -> None:
    rng = random.Random(1)
    for _ in range(100):
        theirs, ours = RangeSet(), _Ranges()
        for _ in range(100):
            start, size = rng.randrange(300), rng.randint(1, 8)
            for one in (theirs, ours):
                one.add(start, start + size)
            assert list(theirs) == list(ours)


async def test_a_handshake_in_too_many_pieces_is_ended() -> None:
    """Every other byte of it: what aioquic does with each grows with those before."""
    async with listening() as (host, port, endpoint), Stranger() as stranger:
        frames = b"".join(b"\6" + (0x4000 | offset).to_bytes(2, "big") + b"\1x" for offset in range(1, 400, 2))
        await stranger.send(initial(frames, os.urandom(8), b"12345678"), port)
        with trio.fail_after(50):  # before it would end for being slow
            await until(lambda: host.swarm.inbound.handshakes_failed == 1)
        await until(lambda: len(endpoint) == 0)


async def test_a_connection_id_that_anybody_may_guess_begins_nothing() -> None:
    async with listening() as (_, port, endpoint), Stranger() as stranger:
        for size in range(8):
            await stranger.send(initial(b"\6\0\1x", bytes(size)), port)
        await until(lambda: endpoint.dropped >= 8)
        assert len(endpoint) == 0


async def test_a_datagram_longer_than_we_take_is_not_taken_apart_and_peers_are_told() -> None:
    async with listening() as (_, port, endpoint), connected(port) as stranger:
        assert stranger.engine is not None
        extensions = dict(stranger.engine.tls.received_extensions or ())
        told = pull_quic_transport_parameters(Buffer(data=extensions[ExtensionType.QUIC_TRANSPORT_PARAMETERS]))
        assert told.max_udp_payload_size == LARGEST
        (one,) = endpoint._connections
        before = one.bytes_received
        await stranger.send(b"\x40" + stranger.engine._peer_cid.cid + bytes(LARGEST), port)
        await until(lambda: endpoint.dropped == 1)
        assert one.bytes_received - before < LARGEST


async def test_handshakes_that_end_at_once_are_taken_on_trust_so_often_a_second() -> None:
    """Each made a connection: as many as a machine can do, in anybody's name."""
    async with listening() as (host, port, endpoint), Stranger() as stranger:
        endpoint._trust = Bucket(1e-9, TRUST_AT_ONCE)  # no more come back meanwhile, however long this takes
        many = int(3 * TRUST_AT_ONCE)
        for _ in range(many):
            await stranger.send(initial(b"\6\0\4\2\0\0\0", os.urandom(8), b"12345678"), port)
            await trio.sleep(0.001)
        await until(lambda: host.swarm.inbound.handshakes_failed + len(endpoint) + endpoint.retries >= many)
        assert endpoint.retries >= TRUST_AT_ONCE
        await can_be_dialled(host)


async def test_who_sends_in_the_name_of_another_does_not_keep_it_out() -> None:
    """Its address was counted before it had shown that it was its own."""
    async with our_host(QUIC) as host:
        host.swarm.links.limits.max_new_per_ip = 1
        victim = parse("/ip4/192.0.2.1/udp/4001/quic-v1")
        for _ in range(1000):
            assert host.swarm.inbound.admits(victim, "198.51.100.1", proven=False)
        assert host.swarm.inbound.admits(victim, "198.51.100.1", proven=True)
        assert host.swarm.inbound.throttled == 0


async def test_who_comes_too_often_is_counted_once_it_has_shown_its_address() -> None:
    async with listening() as (host, port, endpoint):
        asked: list[bool] = []

        def admits(remote: object, local: str, *, proven: bool) -> bool:
            asked.append(proven)
            return not proven

        endpoint._owner.admits = admits  # type: ignore[method-assign]
        shown, key = certificate(WHO)
        async with Stranger([shown], key) as stranger:
            await stranger.dial(port)
            await stranger.go_on(lambda engine: False)
            assert stranger.engine is not None
            assert stranger.engine._close_event is not None
        await until(lambda: host.swarm.inbound.handshakes_failed == 1)
        assert asked == [False, True]
        assert host.links() == []


async def test_who_finds_no_place_is_told() -> None:
    async with our_host(QUIC, most=1, handshake_timeout=60) as host, Stranger() as stranger:
        with trio.fail_after(60):
            assert host.swarm.links.places.dial(1)  # the one place is taken
            await stranger.dial(parse(address(host)).port)
            await stranger.go_on(lambda engine: False)
            assert stranger.engine is not None
            assert stranger.engine._close_event is not None
            assert stranger.engine._close_event.error_code == QuicErrorCode.CONNECTION_REFUSED
            assert stranger.received < stranger.sent / 3
            host.swarm.links.places.leave()


async def test_one_socket_does_not_tell_how_a_connection_of_another_is_reset() -> None:
    async with our_host((*QUIC, *QUIC), handshake_timeout=60) as host, Stranger() as stranger:
        with trio.fail_after(60):
            one, other = (parse(text).port for text in host.listen_addresses())
            async with connected(one) as client:
                assert client.engine is not None
                cid = client.engine._peer_cid.cid
                await stranger.send(b"\x40" + cid + bytes(60), other)
                answer = await stranger.sock.recv(2000)
                assert len(answer) == 42
                tokens = [client.engine._peer_cid, *client.engine._peer_cid_available]
                assert answer[-16:] not in [token.stateless_reset_token for token in tokens]


# --------------------------------------------------------------------------------------------------------------------
# Who is up


async def test_a_peer_cannot_have_us_send_elsewhere() -> None:
    """A server's preferred address is none that we were asked to dial (RFC 9000, 9.6)."""
    shown, key = certificate(WHO)
    async with Stranger() as victim:
        where = bytes((127, 0, 0, 1)) + victim.port.to_bytes(2, "big") + bytes(18) + b"\x08" + bytes(8) + bytes(16)
        stranger = Stranger([shown], key, is_client=False, parameters=b"\x0d" + bytes((len(where),)) + where)
        async with dialled(stranger) as (_, link):
            for _ in range(3):
                assert stranger.engine is not None
                stranger.engine.send_ping(1)
                await stranger.flush()
                await trio.sleep(0.1)
            assert not link.is_closed
            assert await victim.hears(0.2) == 0


@pytest.mark.parametrize("milliseconds", [b"\0", b"\1"], ids=["none", "one millisecond"])
async def test_who_says_that_it_bears_no_silence_is_not_pinged_all_the_time(milliseconds: bytes) -> None:
    shown, key = certificate(WHO)
    stranger = Stranger([shown], key, is_client=False, parameters=b"\x01\1" + milliseconds)
    stranger.configuration.idle_timeout = 60
    async with dialled(stranger) as (_, link):
        engine = of(link).engine
        assert engine.idle >= MIN_IDLE
        if milliseconds == b"\0":
            assert engine.idle >= 30, "it has said nothing"


async def test_what_aioquic_does_not_foresee_is_the_peers_fault() -> None:
    """A connection id that is kept for another path, and is all that is left: it was told as a defect of ours."""
    async with listening() as (host, port, _), connected(port) as stranger, Stranger() as elsewhere:
        await until(host.links)
        (link,) = host.links()
        engine = of(link).engine
        await until(lambda: engine._peer_cid_available)
        number = engine._peer_cid_available[0].sequence_number
        await stranger.say(b"\x1a" + bytes(8), by=elsewhere)
        await until(lambda: number not in [one.sequence_number for one in engine._peer_cid_available])
        engine._peer_cid_available.clear()  # as if it had named no other
        await stranger.say(b"\x18" + bytes((number, number, 8)) + bytes(24))
        await link.gone.wait()
        assert link.reason == "error"
        assert host.swarm.links.fence.caught["connection"] == 0


async def test_why_a_peer_says_it_closed_does_not_count_as_silence() -> None:
    async with listening() as (host, port, _), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        assert stranger.engine is not None
        stranger.engine.close(reason_phrase="Idle timeout")
        await stranger.flush()
        await link.gone.wait()
        assert link.reason == "closed_by_peer"


async def test_streams_with_more_gaps_than_packets_on_their_way_end_the_connection() -> None:
    async with listening() as (host, port, _), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        for start in range(1, 2 * MAX_PIECES + 560, 280):
            offsets = ((0x80000000 | offset).to_bytes(4, "big") for offset in range(start, start + 280, 2))
            await stranger.say(b"".join(b"\x0e\0" + offset + b"\1x" for offset in offsets))
            await trio.sleep(0.002)
        await link.gone.wait()
        assert link.reason == "error"
        assert host.swarm.links.fence.caught["connection"] == 0


async def test_nothing_is_kept_of_a_connection_that_has_ended() -> None:
    """It is part of a circle, which stays until somebody collects it: so did the bytes that had come."""
    async with listening() as (host, port, _), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        engine = of(link).engine
        await stranger.say(b"\x0e\0" + (0x80000000 | 200_000).to_bytes(4, "big") + b"\1x")
        await until(lambda: engine.stream(0) is not None)
        half = engine.stream(0)
        assert half is not None
        assert len(half.receiver._buffer) > 200_000
        link.end("test")
        await link.gone.wait()
        assert len(half.receiver._buffer) == 0
        assert engine.streams_left == 0


async def test_a_stream_that_the_peer_has_not_allowed_yet_is_not_told_of_when_it_ends() -> None:
    """The peer would end the connection: it counts the streams that it hears of."""
    shown, key = certificate(WHO)
    stranger = Stranger([shown], key, is_client=False, streams=1)
    async with dialled(stranger) as (_, link):
        streams = [link.open_stream() for _ in range(3)]
        for stream in streams:
            stream.muxed.cut_off(7)  # type: ignore[attr-defined]
            stream.release()
        for _ in range(10):
            of(link).send_soon()
            await trio.sleep(0.05)
        assert stranger.engine is not None
        assert stranger.engine._close_event is None
        assert not link.is_closed
        stranger.engine._local_max_streams_bidi.value = 10
        await until(lambda: of(link).engine.stream(8) is None or of(link).engine.stream(8).sender.is_finished)  # type: ignore[union-attr]
        assert stranger.engine._close_event is None


async def test_while_the_kernel_takes_nothing_a_connection_does_not_turn_in_circles() -> None:
    async with listening() as (host, port, endpoint), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        turns = 0
        due = of(link).engine.due

        def counted() -> float | None:
            nonlocal turns
            turns += 1
            return due()

        of(link).engine.due = counted  # type: ignore[method-assign]
        endpoint.is_blocked = lambda: True  # type: ignore[method-assign]
        await stranger.say(b"\1")
        turns = 0
        await trio.sleep(0.5)
        assert turns < 100
        del endpoint.is_blocked


def test_what_a_server_offers_is_no_error_in_our_log() -> None:
    set_level("info")
    assert not logging.getLogger("quic").isEnabledFor(logging.ERROR)


async def test_a_server_that_speaks_another_version_is_a_dial_that_fails() -> None:
    async with Stranger() as stranger, our_host((), handshake_timeout=60) as host:

        async def answer() -> None:
            data, source = await stranger.sock.recvfrom(2000)
            theirs, ours = data[6:14], data[15:23]
            await stranger.sock.sendto(b"\x80\0\0\0\0\x08" + ours + b"\x08" + theirs + b"\x1a\x2a\x3a\x4a", source)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                with pytest.raises(DialError, match="version"):
                    await host.dial(f"/ip4/{LOOPBACK}/udp/{stranger.port}/quic-v1/p2p/{WHO.peer_id}", timeout=30)


async def test_retries_and_datagrams_of_nobody_are_counted_for_metrics() -> None:
    async with listening() as (host, port, endpoint), Stranger() as stranger:
        await stranger.send(b"\x40" + bytes(60), port)
        await until(lambda: host.totals().quic_dropped == 1)
        endpoint.retries = 3
        assert host.totals().quic_retries == 3
