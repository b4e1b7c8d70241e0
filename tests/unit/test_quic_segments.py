"""Datagrams that are sent in one call."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fabstird.p2p.quic import segments
from fabstird.p2p.quic.segments import runs, send_together
from tests.unit.test_quic import connection, pair

HERE, THERE = ("127.0.0.1", 1), ("127.0.0.1", 2)


def test_those_of_one_size_to_one_target_go_together_and_the_last_may_be_shorter() -> None:
    sizes = [(1200, HERE), (1472, HERE), (1472, HERE), (80, HERE), (80, HERE), (80, THERE), (90, THERE)]
    found = [[(len(data), target) for data, target in run] for run in runs([(bytes(n), at) for n, at in sizes])]
    assert found == [
        [(1200, HERE)],
        [(1472, HERE), (1472, HERE), (80, HERE)],
        [(80, HERE)],
        [(80, THERE)],
        [(90, THERE)],
    ]


def test_none_is_left_out_and_no_call_is_too_large() -> None:
    rng = random.Random(2)
    for _ in range(300):
        sizes = rng.choices((30, 1200, 1472), k=rng.randrange(200))
        datagrams = [(bytes((at % 256,)) * size, HERE) for at, size in enumerate(sizes)]
        found = list(runs(datagrams))
        assert [one for run in found for one in run] == datagrams
        assert all(1 <= len(run) <= 64 and sum(len(data) for data, _ in run) <= 65_000 for run in found)


@contextmanager
def sockets(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        other.bind((host, 0))
        other.settimeout(60)
        yield one, other


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_each_arrives_by_itself(family: socket.AddressFamily) -> None:
    with sockets(family) as (one, other):
        run = [(bytes((at,)) * (1200 if at < 9 else 7), other.getsockname()) for at in range(10)]
        assert send_together(one, run, [])
        assert [other.recv(65536) for _ in run] == [data for data, _ in run]


def test_what_the_kernel_does_not_take_like_that_is_said() -> None:
    with sockets(socket.AF_INET) as (one, other):
        other.settimeout(0)
        assert not send_together(one, [(bytes(40_000), other.getsockname())] * 2, [])
        with pytest.raises(BlockingIOError):
            other.recv(65536)


async def test_a_kernel_that_cannot_send_together_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_UDP_SEGMENT", 9999)  # which no kernel knows
    async with pair() as (host, peer, link), host.stream(peer.host.peer_id, "/test/1") as stream:
        await stream.write(b"x" * 100_000)
        await peer.came.wait()
        left = 100_000
        while left:
            part = await peer.streams[0].receive_some(left)
            assert part.strip(b"x") == b""
            left -= len(part)
        assert connection(link).engine.is_up
