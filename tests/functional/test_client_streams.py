"""Streams and messages through the Python client, between two real daemons: trio, asyncio, and blocking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import trio

import fabstir_client
from fabstir_client import StreamBroken
from fabstir_client.api.errors import InvalidState, StreamFailed, StreamReset
from tests.harness import Process, daemon, ipc

ECHO = "/echo/1.0.0"
MIB = 1024 * 1024
PATIENCE = 60.0  # seconds, on a busy machine


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Process, Process, str]]:
    """Two daemons, the first connected to the second, and the second one's peer id."""
    async with daemon() as one, daemon() as other:
        await one.started()
        await other.started()
        async with ipc(one) as here, ipc(other) as there:
            status = await there.call("status")
            await here.call("connect", {"address": status["listenAddresses"][0]})
        yield one, other, status["peerId"]


@asynccontextmanager
async def clients() -> AsyncIterator[tuple[fabstir_client.Client, fabstir_client.Client, str]]:
    """A client of each of such a pair, and the second one's peer id."""
    async with pair() as (one, other, peer_id), client_of(one) as here, client_of(other) as there:
        yield here, there, peer_id


def client_of(running: Process) -> fabstir_client.Client:
    return fabstir_client.connect(data_dir=running.data_dir)


async def echo(stream: fabstir_client.Stream) -> None:
    async for data in stream:
        await stream.send(data)
    await stream.send_eof()


async def read_all(stream: anyio.abc.ByteStream) -> bytes:
    parts = []
    async for data in stream:
        parts.append(data)
    return b"".join(parts)


async def test_a_mebibyte_comes_back_and_both_sides_end_well() -> None:
    sent = bytes(range(256)) * (MIB // 256)
    async with clients() as (here, there, peer_id), there.listen(ECHO) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, echo)
        async with here.open_stream(peer_id, ["/echo/2.0.0", ECHO]) as stream, trio.open_nursery() as sending:
            assert isinstance(stream, anyio.abc.ByteStream)
            assert (stream.peer_id, stream.protocol) == (peer_id, ECHO)

            async def send() -> None:
                await stream.send(sent)
                await stream.send_eof()

            sending.start_soon(send)
            with trio.fail_after(PATIENCE):
                assert await read_all(stream) == sent
        listener.close()
        assert {one.outcome for one in await here.streams()} <= {"ended", None}


async def test_a_handler_that_fails_resets_its_stream_and_serves_the_next() -> None:
    calls = 0

    async def fail_once(stream: fabstir_client.Stream) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await stream.receive()  # before that, the reset might overtake the answer to the other side
            raise RuntimeError("on purpose")
        await echo(stream)

    async def read_one() -> None:
        async with here.open_stream(peer_id, ECHO) as stream:
            await stream.send(b"x")
            await read_all(stream)

    async with clients() as (here, there, peer_id), there.listen(ECHO) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, fail_once)
        with trio.fail_after(PATIENCE):
            with pytest.raises(StreamBroken) as broken:
                await read_one()
            assert isinstance(broken.value, anyio.BrokenResourceError)
            assert broken.value.data["outcome"] == "peer_reset"
            async with here.open_stream(peer_id, ECHO) as stream:
                await stream.send(b"again")
                assert await stream.receive() == b"again"
        listener.close()


async def test_leaving_by_an_exception_resets() -> None:
    async with clients() as (here, there, peer_id), there.listen(ECHO) as listener:
        taken = None
        with trio.fail_after(PATIENCE):
            try:
                async with here.open_stream(peer_id, ECHO) as stream:
                    await stream.send(b"x")
                    taken = await listener.accept()
                    assert await taken.receive() == b"x"
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            assert taken is not None
            with pytest.raises(StreamBroken) as broken:
                await taken.receive()
            assert broken.value.data["outcome"] == "peer_reset"
            await taken.aclose()


async def test_errors_say_why() -> None:
    async with pair() as (one, other, peer_id), client_of(one) as here, client_of(other) as there:
        with pytest.raises(StreamFailed) as failed:
            await here.open_stream(peer_id, "/nobody/1.0.0").__aenter__()
        assert failed.value.data["reason"] == "unsupported"
        async with there.listen(ECHO), client_of(other) as second:
            with pytest.raises(InvalidState):
                await second.listen(ECHO).__aenter__()


async def test_messages_are_answered() -> None:
    async with (
        clients() as (here, there, peer_id),
        there.requests("/job/1.0.0") as requests,
        trio.open_nursery() as nursery,
    ):

        async def answer() -> None:
            async for request in requests:
                await request.respond(request.data.upper())

        nursery.start_soon(answer)
        for message in (b"hello", b"x" * 20000):  # a small one comes with its notification
            result = await here.request(peer_id, "/job/1.0.0", message)
            assert result.size == len(message)
        requests.close()


async def test_a_listener_handles_again_after_a_lost_connection() -> None:
    async with clients() as (here, there, peer_id), there.listen(ECHO) as listener, trio.open_nursery() as nursery:
        assert listener._link is not None
        listener._link.wake()  # as a lost connection looks
        nursery.start_soon(listener.serve, echo)

        async def ask() -> bool:
            try:
                async with here.open_stream(peer_id, ECHO) as stream:
                    await stream.send(b"back")
                    return await stream.receive() == b"back"
            except (StreamFailed, StreamBroken):
                return False  # not yet

        with trio.fail_after(PATIENCE):
            while not await ask():
                pass
        listener.close()


async def test_asyncio_and_threads_have_the_same() -> None:
    async with pair() as (one, other, peer_id):
        ready = threading.Event()
        listeners = []

        def serve() -> None:
            with fabstir_client.connect_sync(data_dir=other.data_dir) as client, client.listen(ECHO) as listener:
                listeners.append(listener)
                ready.set()
                for stream in listener:
                    try:
                        for data in stream:
                            stream.write(data)
                        stream.send_eof()
                        stream.close()
                    except StreamReset:
                        pass

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        assert await trio.to_thread.run_sync(ready.wait, PATIENCE)

        async def over_asyncio() -> bytes:
            async with client_of(one) as client, client.open_stream(peer_id, ECHO) as stream:
                await stream.send(b"asyncio")
                await stream.send_eof()
                return await read_all(stream)

        def read_cut(client: fabstir_client.sync.Client) -> None:
            with client.open_stream(peer_id, ECHO) as stream:
                client.reset_stream(stream.stream_id)
                while stream.read():
                    pass

        def blocking() -> bytes:
            with fabstir_client.connect_sync(data_dir=one.data_dir) as client:
                with client.open_stream(peer_id, ECHO) as stream:
                    stream.write(b"threads")
                    stream.send_eof()
                    answer = b"".join(stream)
                with pytest.raises(StreamFailed):
                    client.open_stream(peer_id, "/nobody/1.0.0").__enter__()
                with pytest.raises(StreamReset):
                    read_cut(client)
                return answer

        with trio.fail_after(PATIENCE):
            assert await trio.to_thread.run_sync(lambda: asyncio.run(over_asyncio())) == b"asyncio"
            assert await trio.to_thread.run_sync(blocking) == b"threads"
        listeners[0].close()  # else it would look for its daemon until this process ends
        await trio.to_thread.run_sync(serving.join, PATIENCE)
        assert not serving.is_alive()
