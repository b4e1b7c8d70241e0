"""The writing side of yamux: what goes out at once, without a task, and what waits for others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
from trio.testing import wait_all_tasks_blocked

from fabstird.p2p.muxer.frame import ACK, FIN, HEADER, PING, SYN, WINDOW_UPDATE
from fabstird.p2p.muxer.writer import MAX_PONGS, Writer
from fabstird.p2p.wire.errors import ConnectionLost


class Conn:
    """The connection below: what was written, in the order in which it went out."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.at_once = 0
        self.writes_now = True
        self.owing = False
        self.gone = False
        self.open = trio.Event()
        self.open.set()

    def write_now(self, data: bytes) -> None:
        if self.gone:
            raise ConnectionLost("gone")
        self.at_once += 1
        self.sent.append(bytes(data))

    async def write(self, data: bytes) -> None:
        await self.open.wait()
        self.owing = False
        self.sent.append(data)

    @property
    def frames(self) -> list[tuple[int, ...]]:
        data = b"".join(self.sent)
        return [HEADER.unpack_from(data, at) for at in range(0, len(data), HEADER.size)]


@asynccontextmanager
async def writing(conn: Conn) -> AsyncIterator[Writer]:
    writer = Writer(cast(Any, conn), lambda: None)
    async with trio.open_nursery() as nursery:
        writer.tasks = nursery
        yield writer
        nursery.cancel_scope.cancel()


def ping(number: int, flags: int = SYN) -> tuple[int, ...]:
    return 0, PING, flags, 0, number


async def test_a_ping_goes_at_once_with_all_that_waits_and_without_a_task() -> None:
    conn = Conn()
    async with writing(conn) as writer:
        writer.pong(7)
        assert conn.sent == [], "until the reader has read everything"
        writer.queue(PING, SYN, 0, 1, now=True)
        assert conn.frames == [ping(7, ACK), ping(1)]
        assert conn.at_once == len(conn.sent) == 1
        assert writer.bytes_sent == 2 * HEADER.size
        assert not writer.waiting
        assert writer.tasks is not None
        assert not writer.tasks.child_tasks
        writer.flush()
        assert len(conn.sent) == 1


async def test_what_is_queued_waits_for_the_next_turn() -> None:
    conn = Conn()
    async with writing(conn) as writer:
        writer.queue(WINDOW_UPDATE, 0, 1, 5)
        writer.queue(WINDOW_UPDATE, FIN, 1, 0, now=True)
        assert conn.sent == [], "a task is about to send both, in their order"
        await wait_all_tasks_blocked()
        assert conn.frames == [(0, WINDOW_UPDATE, 0, 1, 5), (0, WINDOW_UPDATE, FIN, 1, 0)]


async def test_while_somebody_writes_it_waits_its_turn() -> None:
    conn = Conn()
    conn.open = trio.Event()
    async with writing(conn) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(writer.send, WINDOW_UPDATE, 0, 3, 9)
        await wait_all_tasks_blocked()
        assert not writer.is_free
        writer.queue(PING, SYN, 0, 1, now=True)
        assert conn.at_once == 0
        conn.open.set()
        await wait_all_tasks_blocked()
        assert conn.frames == [(0, WINDOW_UPDATE, 0, 3, 9), ping(1)]
        assert writer.is_free


async def test_what_the_kernel_did_not_take_is_followed_up() -> None:
    conn = Conn()
    async with writing(conn) as writer:
        conn.owing = True
        writer.queue(PING, SYN, 0, 1, now=True)
        assert not writer.is_free
        await wait_all_tasks_blocked()
        assert not conn.owing
        assert conn.frames == [ping(1)]


async def test_a_connection_that_cannot_write_at_once_has_a_task_for_it() -> None:
    conn = Conn()
    conn.writes_now = False
    async with writing(conn) as writer:
        writer.queue(PING, SYN, 0, 1, now=True)
        assert conn.sent == []
        await wait_all_tasks_blocked()
        assert conn.frames == [ping(1)]


async def test_one_that_has_gone_is_the_readers_business() -> None:
    conn = Conn()
    conn.gone = True
    async with writing(conn) as writer:
        writer.queue(PING, SYN, 0, 1, now=True)
        assert writer.tasks is not None
        assert not writer.tasks.child_tasks


async def test_pongs_have_a_bound() -> None:
    conn = Conn()
    async with writing(conn) as writer:
        for value in range(3 * MAX_PONGS):
            writer.pong(value)
        writer.flush()
        assert len(conn.frames) == MAX_PONGS
        writer.pong(1)
        writer.flush()
        assert len(conn.frames) == MAX_PONGS + 1
