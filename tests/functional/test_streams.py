"""Streams byte for byte: between programs at two real daemons, and with peers that misbehave."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter

import pytest
import trio

from fabstir_client.api.errors import InvalidState
from tests.functional.local_streams import ECHO, Local, listed, local, opened, outcome, telling
from tests.harness import asked_until, fabstird, pair
from tests.support.minipeer import Stream, mini_peer
from tests.support.yamux import StreamReset

BUSY = 0x1002  # libp2p's error code for a limit
MIB = 1024 * 1024
WINDOW = 256 * 1024


async def test_bytes_go_both_ways_and_each_side_ends_by_itself() -> None:
    async with pair() as (opening, taking):
        handled = await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        assert handled == {"protocol": ECHO, "mode": "stream", "backlog": 16, "acceptTimeout": 10000}
        async with local(opening.path) as here, local(taking.path) as there:
            params = {"peerId": taking.peer_id, "protocol": ["/echo/9.0.0", ECHO]}
            result = await here.call("stream.open", params, behind=b"said before the answer")
            assert (result["peerId"], result["protocol"], result["direction"]) == (taking.peer_id, ECHO, "outbound")
            told = await taking.wait_event("stream.incoming", peerId=opening.peer_id, protocol=ECHO)
            assert told["deadline"] > time.time() * 1000
            assert told["address"].endswith(f"/p2p/{opening.peer_id}")
            accepted = await there.call("stream.accept", {"streamId": told["streamId"]})
            assert (accepted["peerId"], accepted["direction"]) == (opening.peer_id, "inbound")
            assert await there.exactly(22) == b"said before the answer"
            await there.send(b"an answer")
            assert await here.exactly(9) == b"an answer"
            await here.end()
            assert await there.rest() == b""
            await there.send(b"more, after the other side has ended")
            assert await here.exactly(36) == b"more, after the other side has ended"
            entry = await listed(opening, here.id)
            assert (entry["state"], entry["bytesIn"], entry["bytesOut"]) == ("open", 45, 22)
            await there.end()
            assert await here.rest() == b""
        closed = await taking.wait_event("stream.closed", streamId=told["streamId"])
        assert closed == {"streamId": told["streamId"], "outcome": "ended", "bytesIn": 22, "bytesOut": 45}
        assert await outcome(opening, here.id) == "ended"
        assert await outcome(taking, told["streamId"]) == "ended"


async def test_what_the_peer_says_first_comes_right_behind_the_answer() -> None:
    async def greet(stream: Stream) -> None:
        await stream.send_all(b"220 ready\n")
        await stream.receive_all()

    async with fabstird() as daemon, mini_peer() as peer:
        peer.handle("/greeting/1", greet)
        await daemon.call("connect", address=await peer.listen())
        async with local(daemon.path) as here:
            await here.call("stream.open", {"peerId": peer.peer_id, "protocol": "/greeting/1"})
            assert await here.exactly(10) == b"220 ready\n"


async def test_what_nobody_reads_is_bounded_and_the_stream_that_goes_over_says_so() -> None:
    async def pour(stream: Stream) -> None:
        await stream.send_all(bytes(2 * MIB))

    async with fabstird() as daemon, mini_peer() as peer, contextlib.AsyncExitStack() as stack:
        peer.handle("/pouring/1", pour)
        await daemon.call("connect", address=await peer.listen())
        wanted = {"peerId": peer.peer_id, "protocol": "/pouring/1"}
        refused: list[str] = []
        for _ in range(100):  # each has 128 KiB at least that wait; 12 MiB may
            here = await stack.enter_async_context(local(daemon.path))
            answer = await here.answer("stream.open", wanted)
            if "error" in answer:
                refused.append(answer["error"]["data"]["reason"])
        assert set(refused) <= {"busy"}

        async def outcomes() -> Counter[str | None]:
            return Counter(entry.get("outcome") for entry in await daemon.call("stream.list"))

        told = await asked_until(outcomes, lambda told: told["limit"] or refused)
        assert set(told) <= {None, "limit"}, "nothing else has happened to any"
        assert told[None] >= 40


async def test_an_error_leaves_an_ordinary_connection_and_a_used_one_becomes_no_stream() -> None:
    async with pair() as (opening, taking):
        wanted = {"peerId": taking.peer_id, "protocol": ECHO}
        async with local(opening.path) as here:
            failed = await here.error("stream.open", wanted)
            assert (failed["code"], failed["reason"]) == ("STREAM_FAILED", "unsupported")
            assert (failed["peerId"], failed["protocol"]) == (taking.peer_id, ECHO)
            assert (await here.call("status", {}))["state"] == "started"
            assert (await here.error("stream.open", wanted))["code"] == "INVALID_STATE"
            assert (await here.error("stream.accept", {"streamId": "cafe"}))["code"] == "INVALID_STATE"
        for params, code in (
            ({"peerId": "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "protocol": ECHO}, "PEER_NOT_FOUND"),
            ({"peerId": taking.peer_id, "protocol": "no slash"}, "INVALID_PARAMS"),
            ({"peerId": taking.peer_id, "protocol": []}, "INVALID_PARAMS"),
            ({"peerId": taking.peer_id}, "INVALID_PARAMS"),
            ({**wanted, "timeout": 0}, "INVALID_PARAMS"),
        ):
            async with local(opening.path) as here:
                assert (await here.error("stream.open", params))["code"] == code
                assert (await here.call("version", {}))["python"]
        async with local(opening.path) as here:
            assert (await here.error("stream.accept", {"streamId": "cafe"}))["code"] == "INVALID_STATE"
        async with await trio.open_unix_socket(str(opening.path)) as stream:
            await stream.send_all(b'[{"jsonrpc":"2.0","id":1,"method":"stream.open","params":["x","/y"]}]\n')
            assert b'"INVALID_STATE"' in await stream.receive_some()
        await opening.call("stop")
        async with local(opening.path) as here:
            assert (await here.error("stream.open", wanted))["code"] == "NODE_NOT_RUNNING"


async def test_a_known_peer_is_dialled() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        await opening.call("disconnect", peerId=taking.peer_id)
        async with opened(opening, taking, ECHO) as (here, there):
            await here.send(b"?")
            assert await there.exactly(1) == b"?"


# --------------------------------------------------------------------------------------------------------------------
# Ends


async def test_a_reset_is_told_as_one_on_both_sides() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        for resetting, other in ((opening, taking), (taking, opening)):
            async with opened(opening, taking, ECHO) as (here, there):
                ends = {opening: here, taking: there}
                assert await resetting.call("stream.reset", streamId=ends[resetting].id) == {
                    "streamId": ends[resetting].id,
                    "reset": True,
                }
                assert await here.rest() == b""
                assert await there.rest() == b""
                assert await outcome(resetting, ends[resetting].id) == "reset"
                assert await outcome(other, ends[other].id) == "peer_reset"
                closed = await taking.wait_event("stream.closed", streamId=there.id)
                assert closed["outcome"] == ("reset" if resetting is taking else "peer_reset")
                assert not (await resetting.call("stream.reset", streamId=ends[resetting].id))["reset"]
        with pytest.raises(InvalidState, match="no stream"):
            await opening.call("stream.reset", streamId="cafe")


async def test_a_program_that_goes_while_the_peer_sends_resets_the_stream() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):
            await there.send(b"token")
            await here.exactly(5)
            await here.stream.aclose()
            assert await there.rest() == b"", "our side has ended in order"
            await there.send(b"another one")
            assert await outcome(opening, here.id) == "reset"
            assert await outcome(taking, there.id) == "peer_reset"


async def test_what_a_program_has_sent_before_it_goes_arrives() -> None:
    data = os.urandom(3 * MIB)
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):

            async def send() -> None:
                await here.send(data)
                await here.stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await there.rest() == data
            await there.end()
            assert await outcome(opening, here.id) == "ended"
            assert await outcome(taking, there.id) == "ended"


async def test_the_end_of_the_node_and_of_the_peer_are_told_apart() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):
            await taking.call("stop")
            assert await there.rest() == await here.rest() == b""
            assert await outcome(taking, there.id) == "stopped"
            assert await outcome(opening, here.id) == "peer_gone"
        await taking.call("start")
        await opening.call("connect", address=(await taking.call("status"))["listenAddresses"][0])
        async with opened(opening, taking, ECHO) as (here, there):
            taking.process.kill()
            assert await outcome(opening, here.id) == "peer_gone"
            assert await here.rest() == b""
            await taking.process.wait()


async def test_a_daemon_that_is_told_to_stop_says_so_before_it_goes() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):
            await taking.call("shutdown")
            assert (await taking.wait_event("stream.closed", streamId=there.id))["outcome"] == "shutdown"
            assert await there.rest() == b""
            assert await outcome(opening, here.id) == "peer_gone"


# --------------------------------------------------------------------------------------------------------------------
# Back-pressure


async def push(end: Local, most: int) -> int:
    """How many bytes are taken from a program while nobody reads at the other end; it must be fewer than `most`."""
    end.shrink()
    sent = 0
    while sent < most:
        with trio.move_on_after(2) as scope:
            await trio.lowlevel.wait_writable(end.stream.socket)
        if scope.cancelled_caught:
            return sent
        sent += os.write(end.stream.socket.fileno(), bytes(4096))
    raise AssertionError(f"{sent} bytes were taken, and nobody reads")


async def test_what_nobody_reads_is_not_taken_and_then_all_of_it_arrives() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):
            for sender, reader, at, other in ((here, there, opening, taking), (there, here, taking, opening)):
                sent = await push(sender, 2 * MIB)
                before = (await listed(at, sender.id))["bytesOut"]
                assert before <= sent
                assert before - (await listed(other, reader.id))["bytesIn"] <= WINDOW
                assert len(await reader.exactly(sent)) == sent
                await sender.send(b"and on it goes")
                assert await reader.exactly(14) == b"and on it goes"


async def test_a_reader_that_was_quick_and_stops_is_not_sent_more_than_a_window() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):

            async def flood() -> None:
                with trio.CancelScope() as scope:
                    scopes.append(scope)
                    while True:
                        await here.send(bytes(65536))

            scopes: list[trio.CancelScope] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                await there.exactly(16 * MIB)
                await trio.sleep(1)  # it fills whatever there is
                sent = (await listed(opening, here.id))["bytesOut"]
                taken = (await listed(taking, there.id))["bytesIn"]
                scopes[0].cancel()
            assert sent - taken <= WINDOW


async def test_sixteen_mebibytes_both_ways_at_once() -> None:
    one, two = os.urandom(16 * MIB), os.urandom(16 * MIB)
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        async with opened(opening, taking, ECHO) as (here, there):

            async def send(end: Local, data: bytes) -> None:
                await end.send(data)
                await end.end()

            found: dict[Local, bytes] = {}

            async def read(end: Local) -> None:
                found[end] = await end.rest()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, here, one)
                nursery.start_soon(send, there, two)
                nursery.start_soon(read, here)
                nursery.start_soon(read, there)
            assert found == {there: one, here: two}
        assert await outcome(taking, there.id) == "ended"


# --------------------------------------------------------------------------------------------------------------------
# Peers that misbehave


async def test_error_codes_are_sent_and_read() -> None:
    async def too_many(stream: Stream) -> None:
        await stream.receive_exactly(1)
        await stream.reset(BUSY)

    async with fabstird() as daemon, mini_peer() as peer:
        conn = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:connect")
        peer.handle("/busy/1", too_many)
        async with local(daemon.path) as here:
            await here.call("stream.open", {"peerId": peer.peer_id, "protocol": "/busy/1"}, behind=b"?")
            assert await outcome(daemon, here.id) == "peer_reset"
        await daemon.call("protocol.handle", protocol=ECHO, mode="stream", backlog=1)
        await conn.open_stream(ECHO)
        with pytest.raises(StreamReset) as caught:
            await conn.open_stream(ECHO)
        assert caught.value.code == BUSY


async def test_a_peer_that_resets_what_waits_and_one_that_goes() -> None:
    async with fabstird() as daemon, mini_peer() as peer:
        await daemon.call("protocol.handle", protocol=ECHO, mode="stream", acceptTimeout=60000)
        conn = await peer.dial(daemon.address("tcp"))
        stream = await conn.open_stream(ECHO)
        told = await daemon.wait_event("stream.incoming")
        await stream.reset()
        assert (await daemon.wait_event("stream.closed", streamId=told["streamId"]))["outcome"] == "peer_reset"
        await conn.open_stream(ECHO)
        await daemon.wait_event("stream.incoming", count=2)
        conn.drop()
        assert (await daemon.wait_event("stream.closed", count=2))["outcome"] == "peer_gone"
        await asked_until(lambda: daemon.call("metrics"), lambda found: found["bounds"]["streams"]["current"] == 0)


async def test_an_id_serves_once_and_what_a_dead_handler_leaves_is_reset() -> None:
    async with fabstird() as opening, fabstird() as taking, mini_peer() as stranger:
        await opening.call("connect", address=taking.address("tcp"))
        conn = await stranger.dial(taking.address("tcp"))
        wanted = {"peerId": taking.peer_id, "protocol": ECHO}
        async with local(opening.path) as first, local(opening.path) as second, local(taking.path) as there:
            async with telling(taking.path) as owner:
                await owner.call("protocol.handle", {"protocol": ECHO, "mode": "stream", "acceptTimeout": 60000})
                await first.call("stream.open", wanted)
                taken = (await owner.told("stream.incoming"))["streamId"]
                await there.call("stream.accept", {"streamId": taken})
                async with local(taking.path) as again:
                    twice = await again.error("stream.accept", {"streamId": taken})
                    assert (twice["code"], twice["streamId"]) == ("INVALID_STATE", taken)
                await second.call("stream.open", wanted)
                waiting = (await owner.told("stream.incoming"))["streamId"]
                for _ in range(15):  # a stranger fills what is left of the backlog, and floods
                    await conn.open_stream(ECHO)
                for _ in range(40):
                    with pytest.raises(StreamReset) as caught:
                        await conn.open_stream(ECHO)
                    assert caught.value.code == BUSY
                await first.send(b"still here")
                assert await there.exactly(10) == b"still here"
            assert await outcome(taking, waiting) == "reset"
            assert await outcome(opening, second.id) == "peer_reset"
            await first.send(b"an open stream outlives its handler")
            assert await there.exactly(35) == b"an open stream outlives its handler"
            async with local(opening.path) as third:
                assert (await third.error("stream.open", wanted))["reason"] == "unsupported"
            await asked_until(lambda: taking.call("metrics"), lambda found: found["bounds"]["streams"]["current"] == 1)


async def test_a_caller_that_goes_while_a_peer_does_not_answer_leaves_nothing() -> None:
    async with fabstird() as daemon, mini_peer() as peer:
        conn = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:connect")
        conn.freeze()
        async with await trio.open_unix_socket(str(daemon.path)) as stream:
            line = '{"jsonrpc":"2.0","id":1,"method":"stream.open","params":{"peerId":"%s","protocol":"/slow/1"}}\n'
            await stream.send_all((line % peer.peer_id).encode())
            await asked_until(lambda: daemon.call("metrics"), lambda found: found["bounds"]["streams"]["current"])
        await asked_until(lambda: daemon.call("metrics"), lambda found: not found["bounds"]["streams"]["current"])
        async with local(daemon.path) as here:
            slow = {"peerId": peer.peer_id, "protocol": "/slow/1", "timeout": 200}
            assert (await here.error("stream.open", slow))["code"] == "TIMEOUT"


async def test_a_hundred_streams_come_and_go_and_nothing_stays() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        before = (await taking.call("metrics"))["bounds"]["fileDescriptors"]["current"]
        for _ in range(100):
            async with opened(opening, taking, ECHO) as (here, there):
                await here.send(b"x")
                assert await there.exactly(1) == b"x"
        await asked_until(lambda: taking.call("metrics"), lambda found: not found["bounds"]["streams"]["current"])
        await asked_until(
            lambda: taking.call("metrics"),
            lambda found: found["bounds"]["fileDescriptors"]["current"] <= before + 5,
        )
        assert len((await taking.call("debug.tasks"))["tasks"]) < 200
