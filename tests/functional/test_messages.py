"""Messages over protocols of the user's own, between real daemons, and with peers that misbehave."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import (
    DeadlineExceeded,
    InvalidParams,
    InvalidState,
    MethodNotFound,
    PeerNotFound,
    TooLarge,
)
from tests.harness import Daemon, asked_until, daemon, environment, fabstird, ipc, pair, post, process, ws
from tests.support.minipeer import MiniPeer, Stream, mini_peer, mini_peers
from tests.support.wire import varint
from tests.support.yamux import StreamReset

JOB = "/fabstir/job/1.0.0"
MIB = 1024 * 1024
BUSY = 0x1002  # libp2p's error code for a limit
WIDE = {"api.max_request_bytes": 4 * MIB}  # room for a message of 1 MiB in base64


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wide(**settings: object) -> AbstractAsyncContextManager[tuple[Daemon, Daemon]]:
    """Two daemons that are connected: the one that asks, and the one that is asked."""
    return pair({**WIDE, **settings}, dialling=WIDE)


async def answer(daemon: Daemon, data: bytes, count: int = 1) -> dict[str, object]:
    """Answer the `count`th request; returns its event."""
    request = await daemon.wait_event("protocol.request", count=count)
    await daemon.call("protocol.respond", requestId=request["requestId"], data=b64(data))
    return request


@pytest.mark.parametrize("framing", ["u32be", "uvarint", "none"])
async def test_a_request_reaches_who_handles_the_protocol_and_its_answer_comes_back(framing: str) -> None:
    claim, ack = b'{"JobClaim":{"job_id":7}}', b'{"JobClaimAck":{"job_id":7,"accepted":true}}'
    async with wide() as (asking, asked):
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
        ended = await asked.wait_event("protocol.ended", requestId=told["requestId"])
        assert ended["outcome"] == "ended"


async def test_a_mebibyte_goes_both_ways_and_a_byte_more_is_too_large() -> None:
    data = os.urandom(MIB)
    async with wide() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB, framing="u32be")

        async def ask() -> None:
            result = await asking.call(
                "request", peerId=asked.peer_id, protocol=JOB, data=b64(data), framing="u32be", timeout=60000
            )
            assert result["data"] == b64(data[::-1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            told = await asked.wait_event("protocol.request")
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
    async with wide() as (asking, asked):
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
    async with wide() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB)
        await asking.call("disconnect", peerId=asked.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, asked, b"yes")
            result = await asking.call("request", peerId=asked.peer_id, protocol=JOB, data=b64(b"?"))
        assert base64.b64decode(result["data"]) == b"yes"


async def refused(asking: Daemon, asked: Daemon) -> None:
    with pytest.raises(InvalidState):
        await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="")


async def test_a_request_that_nobody_answers_expires_on_both_sides() -> None:
    async with wide() as (asking, asked):
        await asked.call("protocol.handle", protocol=JOB, deadline=2000)  # by then it has been told of
        with pytest.raises(InvalidState, match="stream"):
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="")
        told = await asked.wait_event("protocol.ended", outcome="timeout")
        with pytest.raises(InvalidState, match="no request"):
            await asked.call("protocol.respond", requestId=told["requestId"], data="")
        await asked.call("protocol.handle", protocol=JOB, deadline=60000)
        with pytest.raises(DeadlineExceeded, match="within 2000 ms"):  # by then the other side has it
            await asking.call("request", peerId=asked.peer_id, protocol=JOB, data="", timeout=2000)
        await asked.wait_event("protocol.ended", outcome="peer_reset", timeout=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, asking, asked)
            await asked.wait_event("protocol.request", count=3)
            await asked.call("protocol.unhandle", protocol=JOB)
        await asked.wait_event("protocol.ended", outcome="reset")
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
            assert {event["data"]["data"] for event in asked.found("protocol.request")} == {b64(b"what?")}


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
        for stream in [await conn.open_stream(JOB) for _ in range(8)]:
            await stream.send_all(varint(3) + b"job")
        with pytest.raises(StreamReset) as caught:
            await conn.open_stream(JOB)
        assert caught.value.code == BUSY
        await daemon.wait_event("protocol.request", count=8, peerId=peer.peer_id)
        bounds = (await daemon.call("metrics"))["bounds"]
        assert bounds["waitingRequests"] == {"current": 8, "limit": 64}
        conn.drop()
        await daemon.wait_event("protocol.ended", count=8, outcome="peer_gone")
        await asked_until(
            lambda: daemon.call("metrics"), lambda told: told["bounds"]["waitingRequests"]["current"] == 0
        )


async def test_peers_share_the_places_of_requests() -> None:
    """Eight peers with eight requests each shut everybody else out until their deadlines."""
    settings = {"streams.max_waiting": 3}
    async with fabstird(settings=settings) as daemon, mini_peer() as greedy, mini_peer() as one, mini_peer() as two:
        await daemon.call("protocol.handle", protocol=JOB, framing="uvarint", deadline=60000)
        conn = await greedy.dial(daemon.address("tcp"))
        held = []
        for number, data in enumerate((b"job", b"job", b"j"), 1):
            held.append(await conn.send_bytes(JOB, varint(3) + data))
            await asked_until(
                lambda: daemon.call("metrics"),
                lambda told, number=number: told["bounds"]["waitingRequests"]["current"] == number,
            )
            if len(data) == 3:
                await daemon.wait_event("protocol.request", count=number, peerId=greedy.peer_id)
        honest = []
        for peer, lost in ((one, held[2]), (two, held[1])):  # one that is being read, and one that waits
            stream = await (await peer.dial(daemon.address("tcp"))).send_bytes(JOB, varint(3) + b"job")
            honest.append((stream, await daemon.wait_event("protocol.request", peerId=peer.peer_id)))
            with trio.fail_after(60), pytest.raises(StreamReset) as caught:
                await lost.receive_all()
            assert caught.value.code == BUSY
        for stream, request in honest:
            await daemon.call("protocol.respond", requestId=request["requestId"], data=b64(b"yes"))
            with trio.fail_after(60):
                assert await stream.receive_all() == varint(3) + b"yes"
        ended = await daemon.wait_event("protocol.ended", outcome="limit")
        assert ended["requestId"] == daemon.found("protocol.request")[1]["data"]["requestId"]


async def test_a_network_with_many_peer_ids_keeps_no_request_out() -> None:
    """Peer ids cost nothing: as many as there were places, with one request each, had all of them."""
    settings = {"streams.max_waiting": 3}
    async with fabstird(settings=settings) as daemon, mini_peers(4) as (honest, *strangers):
        await daemon.call("protocol.handle", protocol=JOB, framing="uvarint", deadline=60000)
        for number, peer in enumerate(strangers, 1):
            conn = await peer.dial(daemon.address("tcp"), source=f"127.9.9.{number}")
            await conn.send_bytes(JOB, varint(3) + b"job")
        await daemon.wait_event("protocol.request", count=3)
        conn = await honest.dial(daemon.address("tcp"))
        stream = await conn.send_bytes(JOB, varint(3) + b"job")
        request = await daemon.wait_event("protocol.request", peerId=honest.peer_id)
        await daemon.call("protocol.respond", requestId=request["requestId"], data=b64(b"yes"))
        with trio.fail_after(60):
            assert await stream.receive_all() == varint(3) + b"yes"
        await daemon.wait_event("protocol.ended", outcome="limit")


async def test_a_request_that_comes_when_nobody_handles_it_any_more_is_cut_at_once() -> None:
    """It was told to nobody, and waited for its deadline."""
    async with fabstird() as daemon, mini_peer() as peer:
        await daemon.call("protocol.handle", protocol=JOB, framing="uvarint", deadline=60000)
        stream = await (await peer.dial(daemon.address("tcp"))).send_bytes(JOB, varint(3) + b"jo")
        await asked_until(
            lambda: daemon.call("metrics"), lambda told: told["bounds"]["waitingRequests"]["current"] == 1
        )
        await daemon.call("protocol.unhandle", protocol=JOB)
        with trio.fail_after(60):
            with suppress(StreamReset):  # it may know already
                await stream.send_all(b"b")
            with pytest.raises(StreamReset):
                await stream.receive_all()


async def test_a_request_is_for_its_owner_alone() -> None:
    """Any caller answered it, and read it: what a stranger to it had written reached the peer."""
    async with daemon() as asked, fabstird() as asking, ipc(asked) as admin:
        await asking.call("connect", address=(await admin.call("start"))["listenAddresses"][0])
        one, two = [
            (await admin.call("token.create", {"name": name, "access": "write"}))["token"] for name in ("one", "two")
        ]
        async with ws(asked, one) as owner, ws(asked, two) as other:
            await owner.call("protocol.handle", {"protocol": JOB, "framing": "u32be"})
            peer_id = (await owner.call("status"))["peerId"]
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    said = await asking.call(
                        "request", peerId=peer_id, protocol=JOB, data=b64(b"prompt"), framing="u32be"
                    )
                    assert base64.b64decode(said["data"]) == b"answer"

                nursery.start_soon(ask)
                wanted = {"requestId": (await owner.notification("protocol.request"))["params"]["requestId"]}
                for method, more in (("protocol.read", {}), ("protocol.respond", {"data": b64(b"FORGED")})):
                    refused = await other.error(method, wanted | more)
                    assert (refused["data"]["code"], refused["data"]["needed"]) == ("FORBIDDEN", "admin"), method
                await owner.call("protocol.respond", {**wanted, "data": b64(b"answer")})
