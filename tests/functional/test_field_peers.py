"""What users of comparable daemons have met with their peers: names, announcements, news that nobody was told."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from fabstir_client.api.errors import DialFailed
from fabstird.p2p.wire.addresses import pack
from tests.harness import ANSWER, Ipc, daemon, fabstird, ipc
from tests.support.minipeer import IDENTIFY, Stream, mini_peer
from tests.support.wire import field, varint

NOBODY = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"


async def test_a_websocket_that_was_reached_by_a_name_is_asked_for_under_it() -> None:
    """Virtual hosts and proxies that end TLS go by the Host."""
    heads: list[bytes] = []

    async def keep_head(stream: trio.SocketStream) -> None:
        head = b""
        async with stream:
            while b"\r\n\r\n" not in head and (data := await stream.receive_some()):
                head += data
        heads.append(head)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, keep_head, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with fabstird() as running:
            for host in ("dns4/localhost", "ip4/127.0.0.1"):
                with pytest.raises(DialFailed):
                    await running.call("connect", address=f"/{host}/tcp/{port}/ws/p2p/{NOBODY}")
        nursery.cancel_scope.cancel()
    hosts = [line for head in heads for line in head.lower().split(b"\r\n") if line.startswith(b"host:")]
    assert hosts == [b"host: localhost:%d" % port, b"host: 127.0.0.1:%d" % port]


async def test_whatever_can_be_announced_may_be() -> None:
    announced = ["/dns4/node.example/tcp/443/tls/ws", "/dns4/node.example/tcp/443/wss", "/ip4/192.0.2.1/udp/1/quic-v1"]
    async with fabstird(announce_addresses=announced) as other, fabstird() as running:
        assert (await other.call("addresses"))["announced"] == [f"{one}/p2p/{other.peer_id}" for one in announced]
        await running.call("connect", address=other.address("tcp"))
        told = await running.wait_event("peer:identify", peerId=other.peer_id)
        assert len(told["addresses"]) == len(announced)
        assert told["addresses"][0].startswith("/dns4/node.example/tcp/443/tls/ws")


async def test_what_a_peer_says_of_itself_is_read_to_its_end_and_merged() -> None:
    """In two messages, with twenty addresses first that nobody here can dial; then a push that has one field alone."""
    async with mini_peer() as peer, fabstird() as running:
        heard = await peer.listen()
        undialable = [pack(f"/ip4/192.0.2.{number}/udp/4001/quic-v1") for number in range(1, 21)]
        addresses = b"".join(field(2, one) for one in (*undialable, pack(heard.rpartition("/p2p/")[0])))
        parts = (field(6, b"split/1") + field(5, b"p/1") + addresses, field(3, b"/one/1") + field(3, b"/two/1"))

        async def answer(stream: Stream) -> None:
            for part in parts:
                await stream.send_all(varint(len(part)) + part)

        peer.handle(IDENTIFY, answer)
        link = await peer.dial(running.address("tcp"))
        told = await running.wait_event("peer:identify", peerId=peer.peer_id)
        assert (told["agentVersion"], told["protocolVersion"], told["protocols"]) == (
            "split/1",
            "p/1",
            ["/one/1", "/two/1"],
        )
        pushed = field(3, b"/three/1")
        await link.send_bytes("/ipfs/id/push/1.0.0", varint(len(pushed)) + pushed)
        told = await running.wait_event("peer:identify", peerId=peer.peer_id, count=2)
        assert (told["agentVersion"], told["protocolVersion"]) == ("split/1", "p/1")
        assert told["protocols"] == ["/three/1"]
        await link.aclose()
        await running.wait_event("peer:disconnect", peerId=peer.peer_id)
        found = await running.call("connect", address=peer.peer_id)  # by what it has told
        assert found["address"] == heard


async def test_a_direct_address_is_dialled_though_a_relay_connects_already() -> None:
    """And is what is spoken over from then on; both connections stay."""
    here = ["/ip4/127.0.0.1/tcp/0"]
    settings = {"nat.hole_punching": False}
    async with fabstird(settings={"relay.serve": True}, listen_addresses=here) as relay:
        nodes = {**settings, "relay.nodes": [relay.address("tcp")]}
        async with fabstird(settings=nodes, listen_addresses=here) as other, fabstird(settings=settings) as one:
            relayed, direct = await other.circuit(relay), other.address("tcp")
            assert (await one.call("connect", address=relayed))["address"] == relayed
            found = await one.call("connect", address=direct)
            assert (found["address"], found["alreadyConnected"]) == (direct, False)
            entry = await one.peer(other.peer_id)
            assert entry is not None
            assert {link["transport"] for link in entry["connections"]} == {"tcp", "p2p-circuit"}
            again = await one.call("connect", address=relayed)
            assert (again["address"], again["alreadyConnected"]) == (direct, True)


async def test_peers_are_told_what_is_answered_and_what_no_longer_is() -> None:
    async with daemon() as one, daemon() as other:
        await one.started()
        await other.started()
        async with ipc(one) as asked, ipc(other) as follower, ipc(other) as owner:
            await asked.call("subscribe", {"types": ["peer:identify"]})
            address = (await follower.call("status"))["listenAddresses"][0]
            await asked.call("connect", {"address": address})
            await identified(asked, "/news/1.0.0", there=False)
            await owner.call("protocol.handle", {"protocol": "/news/1.0.0"})
            await identified(asked, "/news/1.0.0", there=True)
            await owner.call("protocol.unhandle", {"protocol": "/news/1.0.0"})
            await identified(asked, "/news/1.0.0", there=False)


async def identified(connection: Ipc, protocol: str, *, there: bool) -> None:
    """The next event that says so."""
    with trio.fail_after(ANSWER):
        while True:
            told = (await connection.notification("event"))["params"]["data"]
            if (protocol in told["protocols"]) == there:
                return
