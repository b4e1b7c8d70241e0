"""QUIC and peers that acknowledge what was not sent, or not yet (RFC 9000, 21.4)."""

from __future__ import annotations

import hashlib
import os

import pytest
import trio
from aioquic.buffer import encode_uint_var as number
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.rangeset import RangeSet

from fabstird.p2p.quic import recovery
from fabstird.p2p.quic.recovery import LONGEST_PERIOD, PERIOD, REMEMBERED, Skips
from tests.support.quic_attacks import connected
from tests.unit.test_quic import MIB, PROTOCOL, connection, pair, until
from tests.unit.test_quic_strangers import listening


def test_numbers_are_left_out_now_and_then_and_few_are_remembered() -> None:
    skips = Skips()
    following, gaps = 0, []
    for _ in range(200_000):
        number = skips.number(following)
        assert number - following in (0, 1)
        if number > following:
            gaps.append(following)
            assert following in skips.skipped
        following = number + 1
    assert 2 <= len(gaps) <= 60
    assert gaps[0] <= 2 * PERIOD
    assert len(skips.skipped) <= REMEMBERED
    for _ in range(100):
        skips.number(skips.due)
    assert len(skips.skipped) == REMEMBERED
    assert skips.period == LONGEST_PERIOD


def test_nobody_knows_which_number_comes_next() -> None:
    assert len({Skips().due for _ in range(50)}) > 10


async def test_who_acknowledges_what_was_not_sent_yet_is_let_go() -> None:
    async with listening() as (host, port, _), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        engine = connection(link).engine
        ahead = engine._packet_number + 1000
        await stranger.say(b"\2" + number(ahead) + b"\0\0" + number(ahead))
        await link.gone.wait()
        assert link.reason == "error"
        assert engine.closed_with is not None
        assert engine.closed_with[0] == QuicErrorCode.PROTOCOL_VIOLATION
        assert host.swarm.links.fence.caught["connection"] == 0
        assert stranger.engine is not None
        await until(lambda: stranger.engine is not None and stranger.engine._close_event is not None)
        assert stranger.engine._close_event is not None
        assert stranger.engine._close_event.error_code == QuicErrorCode.PROTOCOL_VIOLATION


async def test_who_acknowledges_a_number_that_was_left_out_is_let_go() -> None:
    async with listening() as (host, port, _), connected(port) as stranger:
        await until(host.links)
        (link,) = host.links()
        engine = connection(link).engine
        await until(lambda: engine._handshake_confirmed)
        engine._loss.skips.due = engine._packet_number
        await stranger.say(b"\1")  # which we acknowledge
        await until(lambda: engine._loss.skips.skipped)
        await until(lambda: engine._packet_number > engine._loss.skips.skipped[0] + 1)
        left_out = engine._loss.skips.skipped[0]
        await stranger.say(b"\2" + number(left_out) + b"\0\0\0")
        await link.gone.wait()
        assert link.reason == "error"
        assert engine.closed_with is not None
        assert engine.closed_with[0] == QuicErrorCode.PROTOCOL_VIOLATION


async def test_honest_peers_do_not_mind_the_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PERIOD", 1)
    monkeypatch.setattr(recovery, "LONGEST_PERIOD", 1)
    data = os.urandom(MIB // 2)
    async with (
        pair(way=True, loss=0.02) as (host, peer, link),
        host.stream(peer.host.peer_id, PROTOCOL) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.write_last, data)
        await peer.came.wait()
        (theirs,) = peer.streams
        came = bytearray()
        while part := await theirs.receive_some(65536):
            came += part
        assert hashlib.sha256(came).digest() == hashlib.sha256(data).digest()
        assert len(connection(link).engine._loss.skips.skipped) == REMEMBERED
        assert not link.is_closed


async def test_what_was_never_sent_is_no_acknowledgement_of_a_handshake_either() -> None:
    """Whoever answers a first datagram cannot say that it has had others."""
    loss = recovery.Recovery(
        lambda: 3,
        congestion_control_algorithm="reno",
        initial_rtt=0.1,
        max_datagram_size=1200,
        peer_completed_address_validation=False,
        send_probe=lambda: None,
    )
    with pytest.raises(recovery.QuicConnectionError, match="before it was sent"):
        loss.on_ack_received(
            ack_rangeset=RangeSet([range(4)]), ack_delay=0.0, now=1.0, space=recovery.QuicPacketSpace()
        )
