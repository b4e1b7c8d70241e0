"""What ended the daemon once: with one message of a stranger, one call, or none on a busy machine.

Each is done to a real daemon, which must go on as if nothing had been, end with status 0 when it is told to, and have
no ERROR in its log (`tests.harness.fabstird` sees to both).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from fabstir_client.api.errors import InvalidParams, LimitExceeded
from tests import harness
from tests.harness import asked_until, fabstird, until
from tests.support.minipeer import IDENTIFY, Stage, Stream, mini_peer, mini_peers, parse_address
from tests.support.ports import refusing_port
from tests.support.wire import base58_decode, field, fields, varint

AUTONAT = "/libp2p/autonat/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
AUTONAT_DIAL_ERROR = 100
BRIDGE = "/fabstird/message/1.0.0"
HOP = "/libp2p/circuit/relay/0.2.0/hop"
KAD = "/ipfs/kad/1.0.0"
PATIENCE = 60.0
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


async def test_many_due_times_at_once() -> None:
    """64 dead bootstrap nodes whose retries come due all the time."""
    with refusing_port() as port:
        dead = [f"/ip4/127.0.{number}.1/tcp/{port}/p2p/{STRANGER}" for number in range(64)]
        async with fabstird(bootstrap_nodes=dead, retry_delay=1, max_retries=8, keepalive_interval=20) as daemon:
            await asked_until(
                lambda: daemon.call("metrics"), lambda metrics: metrics["failedConnections"] >= 1000, within=120
            )


async def test_texts_in_identify_that_are_no_utf8() -> None:
    """Asked for and pushed."""
    broken = b"\xff\xfe agent \xc3"
    legible = "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} agent \N{REPLACEMENT CHARACTER}"

    async def identify(stream: Stream) -> None:
        told = field(5, broken) + field(6, broken) + field(3, b"/x/\xff")
        await stream.send_all(varint(len(told)) + told)

    async with mini_peer() as peer:
        peer.handle(IDENTIFY, identify)
        async with fabstird() as daemon:
            link = await peer.dial(daemon.address("tcp"))
            told = await daemon.wait_event("peer:identify", peerId=peer.peer_id)
            assert (told["agentVersion"], told["protocolVersion"]) == (legible, legible)
            assert told["protocols"] == ["/x/\N{REPLACEMENT CHARACTER}"]
            pushed = field(6, b"later \xff")
            stream = await link.send_bytes(PUSH, varint(len(pushed)) + pushed)
            await stream.close()
            await daemon.wait_event("peer:identify", agentVersion="later \N{REPLACEMENT CHARACTER}")
            assert await daemon.peer(peer.peer_id)


async def test_text_of_an_autonat_server_that_is_no_utf8() -> None:
    async def say(stream: Stream) -> None:
        await stream.receive_exactly(await stream.reader.varint())
        response = b"\x08" + varint(AUTONAT_DIAL_ERROR) + field(2, b"\xff")
        message = b"\x08\x01" + field(3, response)
        await stream.send_all(varint(len(message)) + message)

    async with mini_peer() as peer:
        peer.handle(AUTONAT, say)
        async with fabstird(announce_addresses=["/ip4/8.8.8.8/tcp/4001"]) as daemon:
            await peer.dial(daemon.address("tcp"))
            await asked_until(
                lambda: daemon.call("addresses"),
                lambda told: any(one.get("checkedAt") for one in told["reachability"]),
                within=PATIENCE,
            )


async def test_a_peer_behind_a_relay_that_is_known_by_a_name() -> None:
    """Its address has the relay's name where others have an IP address: dialled by a call, with and without a ban on a
    network, as a bootstrap node, and where the DHT tells of it."""

    async def answer(stream: Stream) -> None:
        """Of the DHT: ``hidden`` is closer to whatever is asked for."""
        while True:
            asked = await stream.receive_exactly(await stream.reader.varint())
            told = asked[:2] + field(8, field(1, base58_decode(hidden.peer_id)) + field(2, Multiaddr(path).to_bytes()))
            await stream.send_all(varint(len(told)) + told)

    async with mini_peers(3) as [relay, hidden, node]:
        behind = await hidden.listen()
        relay.handle(HOP, lambda stream: bring(stream, behind))
        port = parse_address(await relay.listen())[1]
        path = f"/dns4/localhost/tcp/{port}/p2p/{relay.peer_id}/p2p-circuit"
        address = f"{path}/p2p/{hidden.peer_id}"
        for peer in (hidden, node):
            peer.handle(KAD, answer)

        async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
            await daemon.call("connect", address=address)
            await daemon.wait_event("peer:identify", peerId=hidden.peer_id)
            await daemon.call("peer.ban", target="10.0.0.0/8")
            await daemon.call("peer.ban", target="2001:db8::/32")
            await daemon.call("disconnect", peerId=hidden.peer_id)
            await daemon.call("connect", address=address)
            await daemon.call("disconnect", peerId=hidden.peer_id)

            # The DHT tells of it too, and a name that a stranger tells leads nowhere
            await daemon.call("connect", address=await node.listen())
            await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"])
            await daemon.call("dht.get_value", key="x")
            assert hidden.peer_id not in [one["peerId"] for one in await daemon.call("peers")]

        async with fabstird(enable_dht=True, bootstrap_nodes=[address]) as daemon:
            await daemon.wait_event("peer:identify", peerId=hidden.peer_id)


async def bring(stream: Stream, address: str) -> None:
    """As a relay does: connect whoever asks on ``stream`` to the peer there."""
    await stream.receive_exactly(await stream.reader.varint())
    answer = b"\x08\x02" + b"\x28\x64"  # STATUS, OK
    await stream.send_all(varint(len(answer)) + answer)
    host, port, _ = parse_address(address)
    try:
        async with await trio.open_tcp_stream(host, port) as behind, trio.open_nursery() as nursery:

            async def back() -> None:
                async for data in behind:
                    await stream.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(back)
            while data := await stream.receive_some():
                await behind.send_all(data)
            nursery.cancel_scope.cancel()
    except* trio.BrokenResourceError:
        pass  # the peer there has gone, and the other side sees it by the end of its stream


async def test_metadata_that_cannot_be_told_on() -> None:
    """In the DHT, found by the user's own call: half of a surrogate pair, and a nest that is as deep as parsers go."""
    metadata = {
        b'{"models":["m"],"x":"\\ud800"}': "half a character",
        b'{"models":["m"],"x":' + b"[" * 960 + b"]" * 960 + b"}": "deep",
    }
    async with mini_peer() as peer, mini_peer() as other:
        providers = dict(zip((peer.peer_id, other.peer_id), metadata, strict=True))

        async def answer(stream: Stream) -> None:
            while True:
                asked = await stream.receive_exactly(await stream.reader.varint())
                key = fields(asked).get(2, [b""])[0]
                if key.startswith(b"metadata:"):
                    told = field(3, field(1, key) + field(2, providers[key.removeprefix(b"metadata:").decode()]))
                else:
                    told = b"".join(field(9, field(1, base58_decode(one))) for one in providers)
                await stream.send_all(varint(len(asked[:2] + told)) + asked[:2] + told)

        for one in (peer, other):
            one.handle(KAD, answer)
        async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
            for one in (peer, other):
                await daemon.call("connect", address=await one.listen())
            await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] == 2)
            found = await daemon.call("fabstir.discover", model="m")
            assert (found["nodes"], found["malformed"]) == ([], 2)


async def test_messages_to_the_bridge_that_are_nested_deep() -> None:
    """At one depth, 988 in the first version, a message could be read, and not be written again."""
    async with mini_peer() as peer, fabstird(settings={"api.bridge": True}) as daemon:
        link = await peer.dial(daemon.address("tcp"))
        answers: list[Any] = []
        for levels in (*range(980, 1000), 70):
            message = b"[" * levels + b"]" * levels
            stream = await link.send_bytes(BRIDGE, len(message).to_bytes(4, "big") + message)
            size = int.from_bytes(await stream.receive_exactly(4), "big")
            answers.append(json.loads(await stream.receive_exactly(size)))
        assert all(answer["delivered"] == 0 and "deep" in answer["error"] for answer in answers), answers
        with pytest.raises(InvalidParams, match="deep"):
            await daemon.call("sendMessage", peerId=peer.peer_id, message=json.loads(b"[" * 70 + b"]" * 70))


async def test_a_bootstrap_node_whose_text_is_no_text() -> None:
    """Python makes halves of surrogate pairs of arguments that are no UTF-8: they are refused, in words."""
    arguments = ("--set", f'node.bootstrap_nodes=["/dns/\udcff/tcp/1/p2p/{STRANGER}"]', "--set", "node.max_retries=0")
    with harness.process(arguments=arguments) as daemon:
        assert await daemon.exited(within=60) == 2
        assert "invalid bootstrap node" in daemon.text()


async def test_a_search_too_many_says_so_and_public_keys_have_any_size() -> None:
    key = b"/pk/\x12\x20" + bytes(32)

    async def answer(stream: Stream) -> None:
        """Whoever asks for the key gets a long value that is none; everybody else nothing, for ever."""
        asked = await stream.receive_exactly(await stream.reader.varint())
        if fields(asked)[2] != [key]:
            await trio.sleep_forever()
        told = asked[:2] + field(3, field(1, key) + field(2, bytes(300)))
        await stream.send_all(varint(len(told)) + told)

    async with mini_peer() as peer:
        peer.handle(KAD, answer)
        async with fabstird(settings={"dht.mode": "server", "api.max_calls": 200}, enable_dht=True) as daemon:
            await daemon.call("connect", address=await peer.listen())
            await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] == 1)
            found = await daemon.call("dht.get_value", key=base64.b64encode(key).decode(), encoding="base64")
            assert (found["found"], found["asked"]) == (False, 1)
            refused: list[str] = []

            async def search(name: str) -> None:
                while True:  # for ever: whoever has not found it makes room for another
                    try:
                        await daemon.call("dht.get_value", key=name, timeout=30000)
                    except LimitExceeded:
                        refused.append(name)
                        await trio.sleep(0.1)

            async def discover() -> None:
                while True:  # it may get a place between two of them
                    await daemon.call("fabstir.discover", model="m", timeout=100)

            async with trio.open_nursery() as nursery:
                for number in range(80):
                    nursery.start_soon(search, f"k{number}")
                await until(lambda: refused)
                with trio.fail_after(PATIENCE), pytest.raises(LimitExceeded, match="searches are under way"):
                    await discover()
                nursery.cancel_scope.cancel()


async def test_an_address_that_is_forgotten_and_kept_while_it_is_dialled() -> None:
    """Both in one read of the daemon's, so that the dial does not end in between."""
    async with mini_peer() as peer, harness.daemon() as daemon, harness.ipc(daemon) as connection:
        await daemon.started()
        address = await peer.listen(hold=Stage.TCP)
        await connection.call("peer.keep", [address])
        dialled = await peer.accepted()
        texts = [{"jsonrpc": "2.0", "id": m, "method": m, "params": [address]} for m in ("peer.forget", "peer.keep")]
        for _ in range(10):  # the two calls are carried out in either order
            await connection.stream.send_all(b"".join(json.dumps(text).encode() + b"\n" for text in texts))
            for _ in texts:
                assert "result" in json.loads(await connection.receive_text() or b"")
            await connection.call("peer.keep", [address])
            with trio.fail_after(PATIENCE):
                await dialled.closed.wait()
                dialled = await peer.accepted()
        await dialled.resume()
        await asked_until(lambda: connection.call("peers"), lambda peers: [one["peerId"] for one in peers])
