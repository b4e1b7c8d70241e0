"""Streams of users: who handles a protocol, whose a stream is, and how many there may be."""

from __future__ import annotations

import pytest
import trio

from fabstir_client.api.errors import InvalidParams
from tests.functional.local_streams import ECHO, WAIT, listed, local, outcome, telling
from tests.harness import asked_until, daemon, fabstird, fetch, ipc, pair, post, ws
from tests.support.minipeer import mini_peer
from tests.support.yamux import StreamReset

# --------------------------------------------------------------------------------------------------------------------
# Whoever handles a protocol


async def test_nobody_accepts_in_time_and_too_many_wait() -> None:
    async with pair() as (opening, taking):
        await taking.call("protocol.handle", protocol=ECHO, mode="stream", backlog=1, acceptTimeout=60000)
        wanted = {"peerId": taking.peer_id, "protocol": ECHO}
        async with local(opening.path) as first, local(opening.path) as second:
            await first.call("stream.open", wanted)
            waiting = await taking.wait_event("stream.incoming")
            assert (await listed(taking, waiting["streamId"]))["state"] == "waiting"
            busy = await second.error("stream.open", wanted)
            assert (busy["code"], busy["reason"], busy["retryable"]) == ("STREAM_FAILED", "busy", True)
            await taking.call("protocol.unhandle", protocol=ECHO)
            assert (await taking.wait_event("stream.closed", streamId=waiting["streamId"]))["outcome"] == "reset"
            assert await outcome(opening, first.id) == "peer_reset"
        # Long enough for the answer to get to who opens it: a reset would overtake it
        await taking.call("protocol.handle", protocol=ECHO, mode="stream", acceptTimeout=3000)
        async with local(opening.path) as first, local(taking.path) as there:
            await first.call("stream.open", wanted)
            waiting = await taking.wait_event("stream.incoming", count=2)
            closed = await taking.wait_event("stream.closed", streamId=waiting["streamId"])
            assert closed["outcome"] == "timeout"
            assert await outcome(opening, first.id) == "peer_reset"
            late = await there.error("stream.accept", {"streamId": waiting["streamId"]})
            assert late["code"] == "INVALID_STATE"


async def test_a_peer_that_fills_the_backlog_keeps_nobody_out() -> None:
    async with fabstird() as taking, mini_peer() as greedy, mini_peer() as other:
        await taking.call("protocol.handle", protocol=ECHO, mode="stream", backlog=3, acceptTimeout=60000)
        conn = await greedy.dial(taking.address("tcp"))
        for _ in range(3):
            await conn.open_stream(ECHO)
        newest = await taking.wait_event("stream.incoming", count=3)
        with pytest.raises(StreamReset) as caught:
            await conn.open_stream(ECHO)
        assert caught.value.code == 0x1002
        await (await other.dial(taking.address("tcp"))).open_stream(ECHO)
        assert (await taking.wait_event("stream.incoming", count=4))["peerId"] == other.peer_id
        closed = await taking.wait_event("stream.closed")
        assert (closed["streamId"], closed["outcome"]) == (newest["streamId"], "limit")


async def test_owners_that_share_a_protocol_are_served_in_turn() -> None:
    async with pair() as (opening, taking), telling(taking.path) as one, telling(taking.path) as two:
        handle = {"protocol": ECHO, "mode": "stream", "shared": True}
        await one.call("protocol.handle", handle)
        assert (await two.error("protocol.handle", {**handle, "shared": False}))["code"] == "INVALID_STATE"
        mixed = await two.error("protocol.handle", {"protocol": ECHO, "shared": True})
        assert mixed["code"] == "INVALID_STATE", "one mode for all of them"
        await two.call("protocol.handle", handle)
        for _ in range(2):
            for owner in (one, two):
                async with local(opening.path) as here, local(taking.path) as there:
                    await here.call("stream.open", {"peerId": taking.peer_id, "protocol": ECHO})
                    told = await owner.told("stream.incoming")
                    await there.call("stream.accept", {"streamId": told["streamId"]})
                    await here.send(b"x")
                    assert await there.exactly(1) == b"x"
                assert (await owner.told("stream.closed"))["streamId"] == told["streamId"]
        await one.stream.aclose()
        await asked_until(  # it has seen that: left are the second owner and this test's own
            lambda: taking.call("metrics"), lambda found: found["bounds"]["ipcConnections"]["current"] == 2
        )
        for _ in range(2):
            async with local(opening.path) as here:
                with trio.fail_after(WAIT):
                    await here.call("stream.open", {"peerId": taking.peer_id, "protocol": ECHO})
                    assert (await two.told("stream.incoming"))["protocol"] == ECHO


# --------------------------------------------------------------------------------------------------------------------
# Whose it is, and how many there may be


async def test_a_stream_is_for_its_owner_alone() -> None:
    async with daemon() as taking, fabstird() as opening:
        async with ipc(taking) as admin:
            address = (await admin.call("start"))["listenAddresses"][0]
            tokens = [
                (await admin.call("token.create", {"name": name, "access": "write"}))["token"]
                for name in ("one", "two")
            ]
            await opening.call("connect", address=address)
            async with ws(taking, tokens[0]) as owner, ws(taking, tokens[1]) as other, local(opening.path) as here:
                await owner.call("protocol.handle", {"protocol": ECHO, "mode": "stream"})
                peer_id = (await owner.call("status"))["peerId"]
                await here.call("stream.open", {"peerId": peer_id, "protocol": ECHO})
                stream_id = (await owner.notification("stream.incoming"))["params"]["streamId"]
                assert [one["streamId"] for one in await owner.call("stream.list")] == [stream_id]
                assert await other.call("stream.list") == []
                refused = await other.error("stream.reset", {"streamId": stream_id})
                assert (refused["data"]["code"], refused["data"]["needed"]) == ("FORBIDDEN", "admin")
                assert (await owner.error("stream.accept", {"streamId": stream_id}))["data"][
                    "code"
                ] == "METHOD_NOT_FOUND"
                assert [one["state"] for one in await admin.call("stream.list")] == ["waiting"]
                async with local(taking.api["ipc"]) as there:  # the owner of the daemon may do anything
                    await there.call("stream.accept", {"streamId": stream_id})
                    await here.send(b"hello")
                    assert await there.exactly(5) == b"hello"
                    await here.stream.aclose()
                assert (await owner.notification("stream.closed"))["params"]["outcome"] == "ended"
        message = {"jsonrpc": "2.0", "id": 1, "method": "stream.open", "params": {"peerId": "x", "protocol": ECHO}}
        assert (await post(taking, message)).json["error"]["data"]["code"] == "METHOD_NOT_FOUND"


async def test_over_a_limit_there_is_no_stream_and_the_error_names_the_key() -> None:
    async with fabstird(settings={"streams.max_open_per_peer": 2}) as opening, fabstird() as taking:
        await opening.call("connect", address=taking.address("tcp"))
        await taking.call("protocol.handle", protocol=ECHO, mode="stream")
        wanted = {"peerId": taking.peer_id, "protocol": ECHO}
        async with local(opening.path) as one, local(opening.path) as two, local(opening.path) as three:
            await one.call("stream.open", wanted)
            await two.call("stream.open", wanted)
            over = await three.error("stream.open", wanted)
            assert (over["code"], over["limit"], over["current"]) == ("LIMIT_EXCEEDED", 2, 2)
            assert over["configKey"] == "streams.max_open_per_peer"
            bounds = (await opening.call("metrics"))["bounds"]
            assert (bounds["streams"]["current"], bounds["streamsPerPeer"]) == (2, {"current": 2, "limit": 2})
            await opening.call("protocol.handle", protocol=ECHO, mode="stream")
            async with local(taking.path) as back:
                busy = await back.error("stream.open", {"peerId": opening.peer_id, "protocol": ECHO})
                assert busy["reason"] == "busy", "both directions count"
        async with local(opening.path) as again:
            await asked_until(lambda: opening.call("metrics"), lambda found: not found["bounds"]["streams"]["current"])
            await again.call("stream.open", wanted)


async def test_bytes_are_counted_by_stream_peer_connection_and_protocol() -> None:
    async with daemon() as taking, fabstird() as opening, ipc(taking) as own:
        address = (await own.call("start"))["listenAddresses"][0]
        await opening.call("connect", address=address)
        await own.call("protocol.handle", {"protocol": ECHO, "mode": "stream"})
        peer_id = (await own.call("status"))["peerId"]
        async with local(opening.path) as here, local(taking.api["ipc"]) as there:
            await here.call("stream.open", {"peerId": peer_id, "protocol": ECHO})
            told = (await own.notification("stream.incoming"))["params"]
            assert (await own.call("metrics"))["streams"]["waiting"] == 1
            await there.call("stream.accept", {"streamId": told["streamId"]})
            await here.send(bytes(100_000))
            await there.exactly(100_000)
            await there.send(bytes(5))
            await here.exactly(5)
            counted = (await own.call("metrics"))["streams"]
            assert (counted["open"], counted["waiting"], counted["ended"]) == (1, 0, 0)
            assert (counted["bytesIn"], counted["bytesOut"]) == (100_000, 5)
            (peer,) = await own.call("peers")
            assert peer["bytesIn"] == peer["connections"][0]["bytesIn"] >= 100_000
            assert peer["bytesOut"] >= 5
            await here.end()
            await there.end()
            assert (await own.notification("stream.closed"))["params"]["outcome"] == "ended"
        text = (await fetch(taking, "GET", "/metrics")).body.decode()
        assert f'fabstird_stream_bytes_total{{protocol="{ECHO}",way="in"}} 100000.0' in text
        assert f'fabstird_streams_ended_total{{direction="inbound",outcome="ended",protocol="{ECHO}"}} 1.0' in text
        assert "fabstird_streams_open 0.0" in text


async def test_what_cannot_be_handled_says_why() -> None:
    async with fabstird() as daemon:
        for wrong in (
            {"mode": "bytes"},
            {"mode": "stream", "backlog": 0},
            {"mode": "stream", "backlog": 5000},
            {"mode": "stream", "acceptTimeout": 0},
            {"mode": "stream", "framing": "none"},
            {"mode": "stream", "deadline": 5},
            {"backlog": 4},
            {"acceptTimeout": 5},
        ):
            with pytest.raises(InvalidParams):
                await daemon.call("protocol.handle", protocol=ECHO, **wrong)
        with pytest.raises(InvalidParams, match="belongs to libp2p"):
            await daemon.call("protocol.handle", protocol="/ipfs/id/1.0.0", mode="stream")
        assert ECHO not in (await daemon.call("version"))["protocols"]
