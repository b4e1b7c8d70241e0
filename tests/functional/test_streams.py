"""Messages over protocols of the user's own, between real daemons, and with peers that misbehave."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from fabstir_client.errors import (
    DeadlineExceeded,
    InvalidParams,
    InvalidState,
    MethodNotFound,
    PeerNotFound,
    TooLarge,
)
from tests.functional.running import ipc, post, process
from tests.interop.daemon import Daemon, environment, fabstird
from tests.support.minipeer import MiniPeer, Stream, mini_peer
from tests.support.waiting import asked_until
from tests.support.wire import varint

JOB = "/fabstir/job/1.0.0"
MIB = 1024 * 1024
WIDE = {"api.max_request_bytes": 4 * MIB}  # room for a message of 1 MiB in base64


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@asynccontextmanager
async def pair(**settings: object) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two daemons that are connected: the one that asks, and the one that is asked."""
    async with fabstird(settings={**WIDE, **settings}) as asked, fabstird(settings=WIDE) as asking:
        await asking.call("connect", address=asked.address("tcp"))
        await asked.wait_event("peer:identify", peerId=asking.peer_id)
        yield asking, asked


async def answer(daemon: Daemon, data: bytes, count: int = 1) -> dict[str, object]:
    """Answer the `count`th request; returns its event."""
    request = await daemon.wait_event("stream:request", count=count)
    await daemon.call("protocol.respond", requestId=request["requestId"], data=b64(data))
    return request


@pytest.mark.parametrize("framing", ["u32be", "uvarint", "none"])
async def test_a_request_reaches_who_handles_the_protocol_and_its_answer_comes_back(framing: str) -> None:
    claim, ack = b'{"JobClaim":{"job_id":7}}', b'{"JobClaimAck":{"job_id":7,"accepted":true}}'
    async with pair() as (asking, asked):
        handled = await asked.call("protocol.handle", protocol=JOB, framing=framing, deadline=30000)
        assert handled == {"protocol": JOB, "framing": framing, "deadline": 30000}
        assert JOB in (await asked.call("version"))["protocols"]
        result: dict[str, object] = {}

        async def ask() -> None:
            result.update(
                await asking.call("request", peerId=asked.peer_id, protocol=JOB, data=b64(claim), framing=framing)
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            told = await answer(asked, ack)
        assert (told["peerId"], told["protocol"], told["size"]) == (asking.peer_id, JOB, len(claim))
        assert told["data"] == b64(claim)
        assert (result["data"], result["size"], result["peerId"]) == (b64(ack), len(ack), asked.peer_id)
        ended = await asked.wait_event("stream:ended", requestId=told["requestId"])
        assert ended["outcome"] == "answered"


async def test_a_mebibyte_goes_both_ways_and_a_byte_more_is_too_large() -> None:
    data = os.urandom(MIB)
    async with pair() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB, framing="u32be")

        async def ask() -> None:
            result = await asking.call(
                "request", peerId=asked.peer_id, protocol=JOB, data=b64(data), framing="u32be", timeout=60000
            )
            assert result["data"] == b64(data[::-1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            told = await asked.wait_event("stream:request")
            assert "data" not in told, "the log would keep it"
            read = await asked.call("protocol.read", requestId=told["requestId"])
            assert base64.b64decode(read["data"]) == data
            with pytest.raises(TooLarge):
                await asked.call("protocol.respond", requestId=told["requestId"], data=b64(data + b"!"))
            await asked.call("protocol.respond", requestId=told["requestId"], data=b64(data[::-1]))
        with pytest.raises(TooLarge) as caught:
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data=b64(data + b"!"))
        assert caught.value.data["limit"] == MIB
        assert caught.value.data["current"] == MIB + 1
        assert caught.value.data["configKey"] == "streams.max_message_bytes"


async def test_what_cannot_be_asked_says_why() -> None:
    async with pair() as (asking, asked):
        for wrong in ("job", "/a b", "/" + "x" * 200, "/\u00e9"):
            with pytest.raises(InvalidParams, match="protocol"):
                await asking.call("request", peerId=asked.peer_id, protocol=wrong, data="")
        with pytest.raises(InvalidParams, match="not standard base64"):
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="%%%")
        with pytest.raises(InvalidParams, match="framing"):
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="", framing="u16")
        with pytest.raises(PeerNotFound):
            await asking.call(
                "request", peerId="12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", protocol=JOB, data=""
            )
        with pytest.raises(InvalidState, match=f"does not speak {JOB}") as caught:
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="")
        assert caught.value.data["reason"] == "protocol"
        with pytest.raises(InvalidParams, match="belongs to libp2p"):
            await asked.call("protocol.handle", protocol="/ipfs/kad/1.0.0")
        with pytest.raises(InvalidState, match="no request"):
            await asked.call("protocol.respond", requestId="cafe", data="")


async def test_a_known_peer_is_dialled_for_a_request() -> None:
    async with pair() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB)
        await asking.call("disconnect", peerId=asked.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, asked, b"yes")
            result = await asking.call("request", peerId=asked.peer_id, protocol=JOB, data=b64(b"?"))
        assert base64.b64decode(result["data"]) == b"yes"


async def test_a_request_that_nobody_answers_expires_on_both_sides() -> None:
    async with pair() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB, deadline=200)
        with pytest.raises(InvalidState, match="stream"):
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="")
        told = await asked.wait_event("stream:ended", outcome="expired")
        with pytest.raises(InvalidState, match="no request"):
            await asked.call("protocol.respond", requestId=told["requestId"], data="")
        await asked.call("protocol.handle", protocol=JOB, deadline=60000)
        with pytest.raises(DeadlineExceeded, match="within 100 ms"):
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="", timeout=100)
        await asked.call("protocol.unhandle", protocol=JOB)
        await asked.wait_event("stream:ended", outcome="unhandled")
        assert JOB not in (await asked.call("version"))["protocols"]


async def test_a_protocol_ends_with_the_connection_that_handles_it_and_outlives_the_node() -> None:
    with process() as daemon:
        await daemon.started()
        async with ipc(daemon) as first, ipc(daemon) as second:
            assert (await first.call("protocol.handle", {"protocol": JOB}))["framing"] == "uvarint"
            taken = await second.error("protocol.handle", {"protocol": JOB})
            assert taken["data"]["code"] == "INVALID_STATE"
            assert not (await second.call("protocol.unhandle", {"protocol": JOB}))["handled"]
            await second.call("stop")
            await second.call("start")
            assert JOB in (await second.call("version"))["protocols"]
        async with ipc(daemon) as third:
            # until it has seen the first one's end
            await asked_until(lambda: third.call("version"), lambda version: JOB not in version["protocols"])
        message = {"jsonrpc": "2.0", "id": 1, "method": "protocol.handle", "params": {"protocol": JOB}}
        assert (await post(daemon, message)).json["error"]["code"] == MethodNotFound.rpc_code


async def test_the_command_sends_a_message_and_prints_the_answer() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        async with fabstird(Path(folder)) as asking, fabstird() as asked:
            await asking.call("connect", address=asked.address("tcp"))
            await asked.call("protocol.handle", protocol=JOB, framing="u32be")
            command = [sys.executable, "-m", "fabstir_client", "--data-dir", folder, "request", asked.peer_id, JOB]
            for words, stdin in (("what?",), b""), ((), b"what?"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(answer, asked, b"that\n\x1b[2J", 1 if words else 2)
                    done = await trio.run_process(
                        [*command, *words, "--framing", "u32be"], stdin=stdin, capture_stdout=True, env=environment()
                    )
                assert done.stdout == b"that\n\\x1b[2J\n", "what a stranger sends does not steer the terminal"
            assert {event["data"]["data"] for event in asked.found("stream:request")} == {b64(b"what?")}


# --------------------------------------------------------------------------------------------------------------------
# Peers that misbehave


@asynccontextmanager
async def handled_by(peer: MiniPeer, daemon: Daemon) -> AsyncIterator[None]:
    address = await peer.listen()
    await daemon.call("connect", address=address)
    yield


async def test_an_answer_over_the_limit_is_not_read() -> None:
    async def boast(stream: Stream) -> None:
        await stream.send_all((2 * MIB).to_bytes(4, "big") + bytes(1000))

    async with fabstird(settings=WIDE) as daemon, mini_peer() as peer:
        peer.handle(JOB, boast)
        async with handled_by(peer, daemon):
            with pytest.raises(TooLarge) as caught:
                await daemon.call("request", peerId=peer.peer_id, protocol=JOB, data="", framing="u32be")
            assert (caught.value.data["limit"], caught.value.data["current"]) == (MIB, 2 * MIB)


async def test_half_an_answer_and_none_are_errors_that_say_so() -> None:
    async def half(stream: Stream) -> None:
        await stream.send_all((8).to_bytes(4, "big") + b"123")

    async def nothing(stream: Stream) -> None:
        await stream.receive_exactly(4)
        await trio.sleep_forever()

    async with fabstird(settings=WIDE) as daemon, mini_peer() as peer:
        peer.handle("/half/1", half)
        peer.handle("/never/1", nothing)
        async with handled_by(peer, daemon):
            with pytest.raises(InvalidState, match="after 3 of 8 bytes"):
                await daemon.call("request", peerId=peer.peer_id, protocol="/half/1", data="", framing="u32be")
            with pytest.raises(DeadlineExceeded):
                await daemon.call(
                    "request", peerId=peer.peer_id, protocol="/never/1", data="", framing="u32be", timeout=300
                )
            assert await daemon.peer(peer.peer_id), "a stream that failed is not the connection's end"


async def test_requests_of_one_peer_are_bounded_and_go_with_it() -> None:
    async with fabstird() as daemon, mini_peer() as peer:
        await daemon.call("protocol.handle", protocol=JOB, framing="uvarint", deadline=60000)
        conn = await peer.dial(daemon.address("tcp"))
        streams = [await conn.open_stream(JOB) for _ in range(9)]
        for stream in streams[:8]:
            await stream.send_all(varint(3) + b"job")
        await daemon.wait_event("stream:request", count=8, peerId=peer.peer_id)
        bounds = (await daemon.call("metrics"))["bounds"]
        assert bounds["waitingRequests"] == {"current": 8, "limit": 64}
        conn.drop()
        await daemon.wait_event("stream:ended", count=8, outcome="failed")
        assert (await daemon.call("metrics"))["bounds"]["waitingRequests"]["current"] == 0
