"""Tokens for some protocols and peers only: what they may name, and what they are told. Real daemons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.functional.asking import STRANGER
from tests.functional.test_streams_http import upgraded
from tests.functional.test_tokens import token
from tests.harness import Ipc, Json, Process, asked_until, daemon, ipc, process, ws


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    with process() as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


async def status(running: Process) -> Json:
    async with ipc(running) as connection:
        told: Json = await connection.call("status")
        return told


async def test_a_token_for_some_protocols_and_peers(shared: Process) -> None:
    """What its calls name decides, before anything else does: no peer is dialled, no protocol is looked for."""
    given = await token(shared, "scoped", "admin", protocols=["/acme/*"], peers=[STRANGER])
    own, address = (await status(shared))["peerId"], f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"
    may_not_use = [
        ("request", {"peerId": STRANGER, "protocol": "/other/1", "data": ""}),
        ("protocol.handle", {"protocol": "/other/1", "mode": "stream"}),
        ("protocol.handle", {"protocol": "/acm"}),
        ("protocol.unhandle", {"protocol": "/other/1"}),
        ("stream.open", {"peerId": STRANGER, "protocol": ["/acme/1", "/other/1"]}),
        ("tunnel.forward", {"peerId": STRANGER, "protocol": "/other/1", "listen": "127.0.0.1:0"}),
        ("sendMessage", {"peerId": STRANGER, "message": {}}),
    ]
    may_not_reach = [
        ("connect", {"address": own}),
        ("connect", {"address": "/dnsaddr/example.invalid"}),
        ("connect", {"address": f"/ip4/127.0.0.1/tcp/1/p2p/{own}/p2p-circuit/p2p/{STRANGER}"}),
        ("disconnect", {"peerId": own}),
        ("request", {"peerId": own, "protocol": "/acme/1", "data": ""}),
        ("stream.open", {"peerId": own, "protocol": "/acme/1"}),
        ("peer.keep", {"address": f"/ip4/127.0.0.1/tcp/1/p2p/{own}"}),
        ("peer.ban", {"cidr": "10.0.0.0/8"}),
        ("peer.ban", {"target": "10.0.0.1"}),
        ("peer.explain", {"target": own}),
        ("tunnel.listen", {"protocol": "/acme/1", "target": "127.0.0.1:22"}),
        ("tunnel.listen", {"protocol": "/acme/1", "target": "127.0.0.1:22", "peers": [STRANGER, own]}),
        ("start", {"config": {"bootstrapNodes": [f"/ip4/127.0.0.1/tcp/1/p2p/{own}"]}}),
        ("dht.find_peer", {"peerId": own}),
    ]
    async with ws(shared, given) as connection:
        for key, asked, allowed_ones in (("protocols", may_not_use, ["/acme/*"]), ("peers", may_not_reach, [STRANGER])):
            for method, params in asked:
                refused = await connection.error(method, params)
                assert (refused["code"], refused["data"].get(key)) == (-32008, allowed_ones), (method, params, refused)
                assert 'the token "scoped" may not' in refused["message"]
                assert allowed_ones[0] in refused["message"]
        assert (await connection.call("protocol.handle", {"protocol": "/acme/1", "mode": "stream"}))["mode"] == "stream"
        assert (await connection.call("peer.explain", {"target": STRANGER}))["peerId"] == STRANGER
        assert (await connection.error("disconnect", {"peerId": STRANGER}))["code"] == -32004
        assert (await connection.error("connect", {"address": address}))["code"] in (-32006, -32002)
    query = f"peerId={STRANGER}&protocol=/other/1"
    async with upgraded(shared, query, Authorization=f"Bearer {given}") as refused_stream:
        assert (refused_stream.status, (await refused_stream.refusal())["protocols"]) == (403, ["/acme/*"])
    async with ipc(shared) as connection:
        (listed,) = await connection.call("token.list")
        assert (listed["protocols"], listed["peers"]) == (["/acme/*"], [STRANGER])
        (entry,) = [
            one
            for one in (await connection.call("audit"))["entries"]
            if one["method"] == "token.create" and one["params"]["name"] == "scoped"
        ][-1:]
    assert (entry["params"]["protocols"], entry["params"]["peers"]) == (["/acme/*"], [STRANGER])


async def test_what_a_scoped_token_handles_is_told_of_its_peers_only(shared: Process) -> None:
    """A peer outside of its scope is refused, as a tunnel refuses one; one inside is answered."""
    async with daemon() as running:
        await running.started()
        async with ipc(running) as peer:
            own = await status(shared)
            peer_id = (await status(running))["peerId"]
            await peer.call("connect", [own["listenAddresses"][0]])
            narrow = await token(shared, "narrow", "write", protocols=["/acme/*"], peers=[STRANGER])
            wide = await token(shared, "wide", "write", protocols=["/acme/*"], peers=[peer_id])
            for given, allowed in ((narrow, False), (wide, True)):
                async with ws(shared, given) as connection:
                    await connection.call("protocol.handle", {"protocol": "/acme/in"})
                    async with trio.open_nursery() as nursery:
                        if allowed:
                            nursery.start_soon(answer, connection, peer_id)
                        asked = {"peerId": own["peerId"], "protocol": "/acme/in", "data": "aGk="}
                        told = await peer.answer("request", asked)
                    if allowed:
                        assert told["result"]["data"] == "eW8="
                    else:
                        assert told["error"]["data"]["reason"] == "refused", told
                    await connection.call("protocol.handle", {"protocol": "/acme/stream", "mode": "stream"})
                    # Only whom the handler takes is told of; the others' stream is reset before anybody is
                    async with await trio.open_unix_socket(running.api["ipc"]) as socket:
                        stream = Ipc(socket)
                        opened = await stream.answer(
                            "stream.open", {"peerId": own["peerId"], "protocol": "/acme/stream"}
                        )
                        if allowed:
                            assert (await connection.notification("stream.incoming"))["params"]["peerId"] == peer_id
                        elif "result" in opened:
                            assert await stream.receive_text() is None
                            assert connection.notifications == []
                async with ipc(shared) as asking:  # until its end has been seen: the next one handles the same
                    await asked_until(
                        lambda asking=asking: asking.call("version"),
                        lambda told: not {"/acme/in", "/acme/stream"} & set(told["protocols"]),
                    )


async def answer(connection: Ipc, peer_id: str) -> None:
    told = (await connection.notification("protocol.request"))["params"]
    assert told["peerId"] == peer_id
    await connection.call("protocol.respond", {"requestId": told["requestId"], "data": "eW8="})


async def test_a_scope_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with process(data_dir=data_dir) as first:
        await first.ready()
        given = await token(first, "ci", "write", protocols=["/acme/*"], peers=[STRANGER])
        first.kill()
    async with daemon(data_dir=data_dir) as again, ws(again, given) as connection:
        refused = await connection.error("protocol.handle", {"protocol": "/other/1"})
        assert refused["data"]["protocols"] == ["/acme/*"]
