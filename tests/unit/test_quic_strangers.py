"""QUIC and strangers: datagrams that mean nothing, floods, forged sources, and certificates wrong in each way."""

from __future__ import annotations

import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from aioquic import tls
from aioquic.quic.packet import QuicProtocolVersion

from fabstird.p2p.host.host import DialError, Host
from fabstird.p2p.quic.endpoint import UNPROVEN, Endpoint
from fabstird.p2p.quic.engine import MAX_HANDSHAKE
from fabstird.p2p.quic.stateless import AT_ONCE, RATE, Answers, Tokens, is_reset
from fabstird.p2p.wire.addresses import parse
from tests.support.certificates import certificate, rsa_key
from tests.support.quic import Stranger, is_up
from tests.support.wire import Identity
from tests.traps.ours import address, our_host
from tests.unit.test_quic import QUIC, until
from tests.unit.test_tls import WRONG, Hostile

WHO = Identity()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Host, int, Endpoint]]:
    async with our_host(QUIC, handshake_timeout=60) as host:
        with trio.fail_after(120):
            (endpoint,) = host.swarm.quic._datagrams._endpoints  # type: ignore[union-attr]
            yield host, parse(address(host)).port, endpoint


async def can_be_dialled(host: Host) -> None:
    async with our_host((), handshake_timeout=60) as other:
        await other.dial(address(host), timeout=60)
        assert await other.ping(host.peer_id) > 0


async def test_datagrams_that_mean_nothing_are_dropped_and_answered_with_less() -> None:
    rng = random.Random(9)
    async with listening() as (host, port, endpoint), Stranger() as stranger:
        for size in (0, 1, 4, 20, 21, 22, 100, 1200, 1500, 9000):
            for first in (0x00, 0x40, 0x80, 0xC0, 0xE0, 0xFF):
                data = bytes([first]) + rng.randbytes(size)
                await stranger.send(data[:size], port)
        await until(lambda: endpoint.dropped >= 30)
        assert await stranger.hears(0.3) < stranger.sent / 3
        assert len(endpoint) == endpoint.newcomers
        await can_be_dialled(host)


async def test_another_version_is_told_ours_and_gets_less_than_it_sent() -> None:
    async with listening() as (host, port, endpoint), Stranger(version=QuicProtocolVersion.VERSION_2) as stranger:
        await stranger.dial(port)
        with trio.fail_after(60):
            data = await stranger.sock.recv(65536)
        assert data[1:5] == bytes(4), "a version negotiation packet"
        assert data.endswith(b"\0\0\0\1")
        assert len(data) < 100
        assert len(endpoint) == 0
        await stranger.send(data + bytes(1200), port)  # which is never answered by another
        await until(lambda: endpoint.dropped >= 2)
        await can_be_dialled(host)


async def test_a_source_that_may_be_forged_gets_no_more_than_three_times_what_came() -> None:
    """It sends its first flight, and says nothing to what it is answered."""
    async with listening() as (_, port, endpoint), Stranger() as stranger:
        await stranger.dial(port)
        await until(lambda: endpoint.newcomers == 1)
        heard = await stranger.hears(3)
        assert 0 < heard <= 3 * stranger.sent


async def test_when_many_come_at_once_each_shows_first_that_its_address_is_its_own() -> None:
    async with listening() as (host, port, endpoint), AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(Stranger()) for _ in range(3 * UNPROVEN)]
        for one in silent:
            await one.dial(port)
        await until(lambda: endpoint.newcomers + endpoint.retries >= len(silent))
        assert endpoint.newcomers == UNPROVEN
        assert endpoint.retries >= 2 * UNPROVEN
        for one in silent[UNPROVEN:]:
            assert await one.hears(0.01) < one.sent / 3
        await can_be_dialled(host)  # through a Retry
        assert endpoint.newcomers == UNPROVEN


async def test_a_token_counts_for_its_address_and_its_time_alone() -> None:
    """And one that is made up is refused, without anything being kept."""
    async with listening() as (_, port, endpoint), AsyncExitStack() as stack:
        for _ in range(UNPROVEN):
            await (await stack.enter_async_context(Stranger())).dial(port)
        await until(lambda: endpoint.newcomers == UNPROVEN)
        stranger = await stack.enter_async_context(Stranger())
        stranger.configuration.token = b"made up"
        await stranger.dial(port)
        await stranger.go_on(is_up)
        assert stranger.engine is not None
        assert stranger.engine._close_event.error_code == 0xB  # type: ignore[union-attr]  # INVALID_TOKEN
        assert endpoint.newcomers == UNPROVEN


async def test_initials_that_cannot_be_read_hold_no_place() -> None:
    async with listening() as (host, port, endpoint), Stranger() as stranger:
        for _ in range(2 * UNPROVEN):
            cid = os.urandom(8)
            head = b"\xc0\0\0\0\1\x08" + cid + b"\x08" + cid + b"\0\x44\xca"
            await stranger.send((head + os.urandom(1300))[:1252], port)
        inbound = host.swarm.inbound
        await until(lambda: inbound.handshakes_failed + inbound.refused + endpoint.retries >= 2 * UNPROVEN)
        await until(lambda: endpoint.newcomers == 0)
        assert await stranger.hears(0.2) < stranger.sent
        await can_be_dialled(host)


async def test_answers_that_keep_nothing_are_so_many_a_second() -> None:
    answers = Answers(Tokens(b"secret"))
    given = sum(answers.reset(os.urandom(8), 100, 5.0) is not None for _ in range(1000))
    assert given == AT_ONCE
    assert answers.reset(os.urandom(8), 100, 5.0) is None
    assert answers.reset(os.urandom(8), 100, 5.0 + 2 / RATE) is not None


def test_a_stateless_reset_is_shorter_than_its_cause_and_known_by_its_token() -> None:
    tokens, cid = Tokens(b"secret"), b"12345678"
    again = Tokens(b"secret")  # another run of the same node
    assert again.of(cid) == tokens.of(cid) != Tokens(b"another").of(cid)
    answers = Answers(tokens)
    for size in range(64):
        answer = answers.reset(cid, size, 100.0 + size)
        assert answer is None if size <= 21 else answer is not None and len(answer) < size
        if answer is not None:
            assert answer[0] & 0xC0 == 0x40
            assert is_reset(answer, [b"x" * 16, again.of(cid)])
            assert not is_reset(answer, [b"x" * 16])
    assert not is_reset(tokens.of(cid), [tokens.of(cid)]), "shorter than any"


@pytest.mark.parametrize("name", [name for name in WRONG if name != "twice as long"])  # which the engine cannot send
async def test_a_certificate_that_is_wrong_ends_the_handshake(name: str) -> None:
    hostile, words = WRONG[name]
    await refused_as_client(hostile)
    await refused_as_server(hostile, words)


async def refused_as_client(hostile: Hostile) -> None:
    async with listening() as (host, port, endpoint):
        shown, key = hostile()
        async with Stranger([shown], key) as stranger:
            await stranger.dial(port)
            await stranger.go_on(lambda engine: False)
            assert stranger.engine._close_event.error_code & 0x100  # type: ignore[union-attr]  # an alert of TLS
        await until(lambda: host.swarm.inbound.handshakes_failed == 1)
        assert host.links() == []
        await until(lambda: endpoint.newcomers == 0)


async def refused_as_server(hostile: Hostile, words: str) -> None:
    shown, key = hostile()
    async with Stranger([shown], key, is_client=False) as stranger, our_host((), handshake_timeout=60) as host:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.go_on, lambda engine: False)
                target = f"/ip4/127.0.0.1/udp/{stranger.port}/quic-v1/p2p/{WHO.peer_id}"
                with pytest.raises(DialError) as raised:
                    await host.dial(target, timeout=30)
                nursery.cancel_scope.cancel()
        assert re.search(f"{words}|QUIC error 0x1", str(raised.value)), raised.value
        assert host.links() == []


async def test_another_peer_than_the_one_that_was_dialled_is_not_taken() -> None:
    shown, key = certificate(WHO)
    async with Stranger([shown], key, is_client=False) as stranger, our_host((), handshake_timeout=60) as host:
        other = Identity()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.go_on, lambda engine: False)
                with pytest.raises(DialError, match="another peer answers there"):
                    await host.dial(f"/ip4/127.0.0.1/udp/{stranger.port}/quic-v1/p2p/{other.peer_id}", timeout=30)
                nursery.cancel_scope.cancel()


async def test_who_shows_no_certificate_is_not_taken() -> None:
    async with listening() as (host, port, _), Stranger() as stranger:
        await stranger.dial(port)
        await stranger.go_on(lambda engine: False)
        assert stranger.engine._close_event.error_code == 0x100 + 116  # type: ignore[union-attr]
        await until(lambda: host.swarm.inbound.handshakes_failed == 1)
        assert host.links() == []


async def test_who_speaks_something_else_inside_is_not_taken() -> None:
    shown, key = certificate(WHO)
    async with listening() as (host, port, _), Stranger([shown], key, alpn="h3") as stranger:
        await stranger.dial(port)
        await stranger.go_on(is_up)
        assert stranger.engine._close_event.error_code == 0x100 + 120  # type: ignore[union-attr]
        await until(lambda: host.swarm.inbound.handshakes_failed == 1)


async def test_a_handshake_has_a_bound() -> None:
    """The engine would keep 512 KiB of somebody who has shown nothing yet: bytes beyond ours end the connection."""
    shown, key = certificate(WHO)
    async with listening() as (host, port, _), Stranger([shown], key) as stranger:
        await stranger.dial(port)
        await stranger.go_on(is_up)
        assert stranger.engine is not None
        stream = stranger.engine._crypto_streams[tls.Epoch.ONE_RTT]  # its messages are bounded as those before them
        stream.sender.write(bytes(MAX_HANDSHAKE + 1))
        stream.sender._pending.subtract(0, MAX_HANDSHAKE)
        await stranger.flush()
        await stranger.go_on(lambda engine: False)
        assert stranger.engine._close_event.error_code == 0xD  # type: ignore[union-attr]  # CRYPTO_BUFFER_EXCEEDED
        await until(lambda: host.links() == [])


async def test_a_stranger_with_an_rsa_key_is_welcome() -> None:
    shown, key = certificate(WHO, rsa_key())
    async with listening() as (host, port, _), Stranger([shown], key) as stranger:
        await stranger.dial(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger.go_on, lambda engine: False)
            await until(lambda: [link.peer_id for link in host.links()] == [WHO.peer_id])
            nursery.cancel_scope.cancel()


async def test_uni_streams_and_too_many_streams_end_the_connection() -> None:
    shown, key = certificate(WHO)
    async with listening() as (host, port, _), Stranger([shown], key) as stranger:
        await stranger.dial(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger.go_on, lambda engine: False)
            await until(lambda: stranger.engine is not None and is_up(stranger.engine))
            assert stranger.engine is not None
            stranger.engine._remote_max_streams_uni = 1
            stranger.engine.send_stream_data(2, b"x")
            await until(lambda: stranger.engine._close_event is not None)  # type: ignore[union-attr]
            assert stranger.engine._close_event.error_code == 4  # type: ignore[union-attr]  # STREAM_LIMIT_ERROR
            nursery.cancel_scope.cancel()
        await until(lambda: host.links() == [])


async def test_more_than_a_window_ends_the_connection() -> None:
    shown, key = certificate(WHO)
    async with listening() as (host, port, _), Stranger([shown], key) as stranger:
        await stranger.dial(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger.go_on, lambda engine: False)
            await until(lambda: host.links())
            assert stranger.engine is not None
            stranger.engine.send_stream_data(0, bytes(300_000))
            stream = stranger.engine._streams[0]
            stream.max_stream_data_remote = 1 << 40
            stream.sender._pending.subtract(0, 299_990)
            await until(lambda: stranger.engine._close_event is not None)  # type: ignore[union-attr]
            assert stranger.engine._close_event.error_code == 3  # type: ignore[union-attr]  # FLOW_CONTROL_ERROR
            nursery.cancel_scope.cancel()
        await until(lambda: host.links() == [])
