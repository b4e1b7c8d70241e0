"""A TCP connection below the encryption: what is read ahead, what is given back, and whose turn it is to write."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.transport.tcp import BULK, IN_A_ROW, LEAST, READ_AHEAD, TcpPipe
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import ConnectionLost

NOWHERE = Address("ip4", "127.0.0.1", 1, "tcp", None)


@asynccontextmanager
async def pipes() -> AsyncIterator[tuple[TcpPipe, TcpPipe]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        here = await trio.testing.open_stream_to_socket_listener(listener)
        there = await listener.accept()
    async with here, there:
        yield tuple(TcpPipe(one, NOWHERE, Traffic(), initiator=one is here) for one in (here, there))  # type: ignore[misc]


async def exactly(pipe: TcpPipe, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await pipe.read(size - len(data))
    return data


def fill(pipe: TcpPipe) -> int:
    """Write until the kernel takes no more; returns how much it was."""
    size = 0
    while pipe.writes_now:
        pipe.write_now(bytes(1000))
        size += 1000
    return size


async def test_what_the_kernel_does_not_take_at_once_goes_first_with_the_next_write() -> None:
    async with pipes() as (here, there), trio.open_nursery() as nursery:
        size = fill(here)
        assert here.owing
        came = bytearray()
        nursery.start_soon(until_it_ends_well, there, came)
        await here.write(b"last")
        assert not here.owing
        assert here.writes_now
        here.write_now(b"!")
        here.finish_now()
        assert not here.writes_now
    assert bytes(came) == bytes(size) + b"last!"
    assert here.traffic.sent == len(came)


async def test_what_is_owed_keeps_the_end_back_and_nothing_is_written_to_what_is_closed() -> None:
    async with pipes() as (here, there):
        fill(here)
        await here.finish()
        with trio.move_on_after(0.2) as reading:
            await until_it_ends_well(there, bytearray())
        assert reading.cancelled_caught, "it must not end without its last bytes"
        await here.close()
        with pytest.raises(ConnectionLost):
            here.write_now(b"x")


async def until_it_ends_well(pipe: TcpPipe, came: bytearray) -> None:
    try:
        await until_it_ends(pipe, came)
    except ConnectionLost:
        pass


async def until_it_ends(pipe: TcpPipe, came: bytearray) -> None:
    while True:
        came += await pipe.read()


async def until_nobody_takes_it(pipe: TcpPipe) -> None:
    while True:
        await pipe.write(bytes(1024))
        await trio.sleep(0.001)


async def test_what_is_read_is_what_was_written_whatever_the_sizes() -> None:
    data = os.urandom(2_000_000)
    async with pipes() as (here, there), trio.open_nursery() as nursery:
        there.trusted()
        nursery.start_soon(here.write, data)
        found, at = b"", 0
        for size in (1, 2, 65535, 3, READ_AHEAD, BULK, 100_000):
            part = await exactly(there, size)
            assert part == data[at : at + size]
            at += size
            if at % 2 and size > 2:
                there.unread(part[-2:])
                at -= 2
        while at + len(found) < len(data):
            found += await there.read()
        assert found == data[at:]


async def test_a_stranger_is_read_little_by_little() -> None:
    async with pipes() as (here, there), trio.open_nursery() as nursery:
        nursery.start_soon(here.write, bytes(1_000_000))
        for _ in range(8):
            assert len(await there.read()) <= READ_AHEAD
        there.trusted()
        left, most = 1_000_000 - 8 * READ_AHEAD, 0
        while left > 0:
            size = len(await there.read())
            left, most = left - size, max(most, size)
            assert size <= BULK
        assert most > READ_AHEAD


@pytest.mark.parametrize("size", [1, 64 * 1024])
async def test_who_writes_without_end_gives_others_a_turn(size: int) -> None:
    async with pipes() as (here, there), trio.open_nursery() as nursery:
        turns = 0

        async def read() -> None:
            nonlocal turns
            while True:
                await there.read()
                turns += 1

        nursery.start_soon(read)
        while turns < 3:  # else the reader never has its turn, and the test's time runs out
            for _ in range(2 * IN_A_ROW // max(size, LEAST)):
                await here.write(bytes(size))
        nursery.cancel_scope.cancel()


async def test_a_writer_that_waits_is_woken_and_a_cancelled_one_has_written_a_beginning() -> None:
    data = os.urandom(3_000_000)
    async with pipes() as (here, there):
        here.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.write, data)
            await trio.testing.wait_all_tasks_blocked()  # nobody reads, so it waits
            with pytest.raises(ConnectionLost):  # nothing comes between its bytes
                await here.write(b"in between")
            assert await exactly(there, len(data)) == data

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.write, data)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await here.finish()
        came = bytearray()
        with pytest.raises(ConnectionLost):
            await until_it_ends(there, came)
        assert 0 < len(came) < len(data)
        assert data.startswith(came)


async def test_a_write_that_the_kernel_takes_is_done_though_its_writer_is_cancelled() -> None:
    async with pipes() as (here, there):
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(2 * IN_A_ROW // LEAST):  # some of them give others a turn
                await here.write(b"all")
        assert not scope.cancelled_caught
        assert await exactly(there, 3 * (2 * IN_A_ROW // LEAST)) == b"all" * (2 * IN_A_ROW // LEAST)


async def test_a_reset_is_told_to_who_writes_and_to_who_reads() -> None:
    async with pipes() as (here, there):
        await there.write(b"unread")
        await here.read(1)
        await there.write(b"unread")
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(here.stream.socket)
        await here.close()  # with bytes that nobody has read, so it is a reset
        with pytest.raises(ConnectionLost):
            await until_nobody_takes_it(there)
        assert there.ended == "reset"


async def test_after_its_end_nothing_is_written_and_no_reset_is_told() -> None:
    async with pipes() as (here, there):
        await here.finish()
        with pytest.raises(ConnectionLost):
            await here.write(b"late")
        assert here.ended is None
        with pytest.raises(ConnectionLost):
            await there.read()
        assert there.ended == "closed_by_peer"
        await there.close()
        with pytest.raises(ConnectionLost):
            await there.write(b"later")
        with pytest.raises(ConnectionLost):
            await there.read()
        assert there.ended == "closed_by_peer"
