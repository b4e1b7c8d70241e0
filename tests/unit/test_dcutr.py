"""Hole punching without a NAT: what is told and believed, who may ask for it, and from which port a dial begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

import pytest
import trio
from multiaddr import Multiaddr

from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host, Link, Stream, StreamError
from fabstird.p2p.nat import dcutr
from fabstird.p2p.nat.dcutr import ADDRESSES, DCUTR, MAX_MESSAGE, Outside, outside
from fabstird.p2p.nat.punching import TRIES, Punching, _Session
from fabstird.p2p.peers.dial_policy import BURST, Source, peer_at
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.frames import frame, read_protobuf
from fabstird.p2p.wire.protobuf import HolePunch
from tests.harness import until
from tests.traps.ours import our_host

HERE = "/ip4/45.32.1.2/tcp/4001"
THERE = "/ip4/45.32.1.3/tcp/4001"


def test_what_most_peers_see_comes_first_and_only_public_tcp_counts() -> None:
    seen = [
        ("/ip4/45.32.1.2/tcp/5000", "45.32.9.1"),
        (HERE, "45.32.9.2"),
        (HERE, "45.32.9.3"),
        ("/ip4/10.0.0.2/tcp/4001", "45.32.9.4"),
        ("/ip4/127.0.0.1/tcp/4001", "127.0.0.1"),
        ("/ip4/45.32.1.2/tcp/80/ws", "45.32.9.5"),
        ("/dns4/example.com/tcp/4001", "45.32.9.6"),
        ("/ip4/45.32.1.2/udp/4001/quic-v1", "45.32.9.7"),
    ]
    told = outside(seen, ["/ip4/192.168.1.2/tcp/4001", "/ip6/2600::1/tcp/4001"])
    assert told.addresses == (HERE, "/ip4/45.32.1.2/tcp/5000", "/ip6/2600::1/tcp/4001")
    assert not told.changing


@pytest.mark.parametrize(
    ("ports", "changing"),
    [([4001], False), ([4001, 4001], False), ([4001, 5000], True), ([4001, 5000, 6000], True), ([1, 2, 2], False)],
)
def test_a_nat_that_shows_each_peer_another_port_is_known(ports: list[int], changing: bool) -> None:
    seen = [(f"/ip4/45.32.1.2/tcp/{port}", f"45.32.9.{number}") for number, port in enumerate(ports)]
    assert outside(seen, []).changing is changing


def test_one_liar_of_one_network_is_one_observer() -> None:
    lies = [(f"/ip4/45.40.0.{number}/tcp/1", "45.32.9.1") for number in range(20)]
    told = outside([*lies, (HERE, "45.32.9.2"), (HERE, "45.32.9.3")], [])
    assert told.addresses[0] == HERE
    assert len(told.addresses) == ADDRESSES


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Host, Host]]:
    async with our_host(handshake_timeout=60) as host, our_host(handshake_timeout=60) as other:
        with trio.fail_after(60):
            await host.dial(other.listen_addresses()[0], timeout=60)
            yield host, other


def message(kind: HolePunch.Type.ValueType, *addresses: str) -> bytes:
    packed = [Multiaddr(text).to_bytes() for text in addresses]
    return frame(HolePunch(type=kind, ObsAddrs=packed).SerializeToString(), "uvarint")


async def test_each_side_learns_where_the_other_is() -> None:
    answered: list[list[str]] = []
    ready = trio.Event()

    async def answer(stream: Stream) -> None:
        answered.append(await dcutr.answer(stream, [THERE]))
        await stream.close_write()
        ready.set()

    async with pair() as (host, other):
        other.set_stream_handler(DCUTR, answer)
        async with host.stream(other.peer_id, DCUTR) as stream:
            addresses, took = await dcutr.ask(stream, [HERE])
        await ready.wait()
    assert (addresses, answered) == ([THERE], [[HERE]])
    assert 0 < took < 30


FOREIGN = ["/ip4/10.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/22", "/ip6/::1/tcp/22", "/ip4/192.168.1.1/tcp/80"]
ODD = ["/dns4/example.com/tcp/443", "/ip4/45.32.1.9/udp/1/quic-v1", "/ip4/169.254.1.1/tcp/1", "/ip4/224.0.0.1/tcp/1"]
MANY = [f"/ip4/45.32.2.{number}/tcp/1" for number in range(100)]


@pytest.mark.parametrize(
    ("told", "believed"),
    [([*FOREIGN, THERE], [THERE]), ([*ODD, THERE], [THERE]), (MANY, MANY[:ADDRESSES])],
    ids=["private", "odd", "many"],
)
async def test_of_what_a_peer_names_public_tcp_addresses_are_taken_and_few(
    told: list[str], believed: list[str]
) -> None:
    async def answer(stream: Stream) -> None:
        await stream.write(message(HolePunch.CONNECT, *told))
        while await stream.receive_some(MAX_MESSAGE):
            pass

    async with pair() as (host, other):
        other.set_stream_handler(DCUTR, answer)
        async with host.stream(other.peer_id, DCUTR) as stream:
            addresses, _ = await dcutr.ask(stream, [HERE])
    assert addresses == believed


@pytest.mark.parametrize(
    "said",
    [
        message(HolePunch.SYNC),
        message(HolePunch.CONNECT),
        message(HolePunch.CONNECT, *FOREIGN),
        frame(b"\xff" * 40, "uvarint"),
        frame(b"", "uvarint"),
        b"\xff" * 20,
        frame(bytes(MAX_MESSAGE + 1), "uvarint"),
        message(HolePunch.CONNECT, THERE)[:-3],
    ],
    ids=["sync first", "nowhere", "private", "no message", "empty", "no length", "too long", "cut off"],
)
async def test_garbage_ends_the_stream_alone(said: bytes) -> None:
    async def answer(stream: Stream) -> None:
        await stream.write(said)
        await stream.close_write()

    async with pair() as (host, other):
        other.set_stream_handler(DCUTR, answer)
        with pytest.raises(StreamError):
            async with host.stream(other.peer_id, DCUTR) as stream:
                await dcutr.ask(stream, [HERE])
        assert await host.ping(other.peer_id) > 0


async def test_a_peer_with_a_direct_connection_may_not_ask_for_it() -> None:
    async with pair() as (host, other):
        counters = Counters()
        punching = Punching(other, cast(Connections, None), counters, History())
        other.set_stream_handler(DCUTR, punching._asked)  # which it does itself only beyond loopback
        with pytest.raises(StreamError):
            async with host.stream(other.peer_id, DCUTR) as stream:
                await dcutr.ask(stream, [HERE])
        assert counters.punches["refused"] == 1
        assert punching.bounds()["holePunches"][0] == 0


async def test_who_has_many_begin_at_once_gets_no_more_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tries were counted when a stream came, not when it had come to its end: whoever kept streams back there had
    its addresses dialled once for each."""
    async with pair() as (host, other):
        counters = Counters()
        punching = Punching(other, cast(Connections, Behind()), counters, History())
        monkeypatch.setattr(punching, "_outside", lambda: Outside((THERE,), changing=False))
        other.set_stream_handler(DCUTR, punching._asked)
        (link,) = other.links(host.peer_id)
        link.relayed, link.direction = True, "outbound"  # as if it had called through a relay
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(host.stream(other.peer_id, DCUTR)) for _ in range(3 * TRIES)]
            for stream in streams:
                await stream.write(message(HolePunch.CONNECT, HERE))
                assert (await read_protobuf(stream, HolePunch, MAX_MESSAGE)).type == HolePunch.CONNECT
            for stream in streams:
                await stream.write(message(HolePunch.SYNC))
            await until(lambda: counters.punches["tried"] + counters.punches["refused"] == len(streams))
            assert counters.punches["tried"] == TRIES


@pytest.mark.parametrize(
    ("reason", "goes_on"), [("closed", False), ("banned", False), ("limit", True), ("closed_by_peer", True)]
)
async def test_who_is_let_go_is_dialled_no_longer(reason: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `disconnect` in the middle of it was followed by a direct connection a moment later."""
    async with pair() as (host, other), trio.open_nursery() as nursery:
        punching = Punching(other, cast(Connections, Behind()), Counters(), History())
        dials = trio.Event()

        async def dial(*_: object, **__: object) -> Link:
            dials.set()
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(punching, "_dial", dial)
        (link,) = other.links(host.peer_id)
        link.relayed, link.reason = True, reason
        nursery.start_soon(partial(punching._both_dial, link, [HERE], 1, None, initiator=True))
        await dials.wait()
        punching.disconnected(link)
        if not goes_on:
            await until(lambda: not punching.is_under_way(host.peer_id))
        assert punching.is_under_way(host.peer_id) is goes_on
        nursery.cancel_scope.cancel()


async def test_a_node_on_loopback_does_not_offer_it() -> None:
    async with our_host() as host:
        Punching(host, cast(Connections, None), Counters(), History())
        assert DCUTR not in host.protocols()


async def test_a_dial_begins_at_the_port_of_a_listener_and_a_second_one_elsewhere() -> None:
    here = await sockets.listen(parse("/ip4/127.0.0.1/tcp/0"))
    there = await sockets.listen(parse("/ip4/127.0.0.1/tcp/0"))
    async with here.sockets, there.sockets, trio.open_nursery() as nursery:
        with trio.fail_after(60):
            pipes = [await sockets.dial(there.bound, nursery, Traffic(), here) for _ in range(2)]
            came = [await there.sockets.accept() for _ in range(2)]
        assert [pipe.from_own_port for pipe in pipes] == [True, False]
        assert [there.remote_of(one).port == here.bound.port for one in came] == [True, False]
        with pytest.raises(sockets.ListenError):  # what others may not share before, they may not share after
            await sockets.listen(here.bound)
        for pipe in (*pipes, *came):
            await pipe.aclose() if isinstance(pipe, trio.SocketStream) else await pipe.close()


class Behind:
    """Stands for the connection manager, of a peer that is behind a relay."""

    def source(self, _: Link) -> Source:
        return peer_at("45.32.1.1", relayed=True)


async def test_a_relayed_peer_can_have_few_ports_dialled_and_none_that_are_private_or_have_failed() -> None:
    async with our_host() as host:
        (link, *others) = [cast(Link, object()) for _ in range(40)]
        punching = Punching(host, cast(Connections, Behind()), Counters(), History())
        session = _Session()
        assert punching._allowed(session, ["/ip4/10.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/22"], link) == []
        assert "is in a private network" in session.error or "is this machine" in session.error
        ports = [f"/ip4/45.32.1.9/tcp/{port}" for port in range(1, 100)]
        tried = [text for text in ports if punching._allowed(session, [text], link)]
        assert tried == ports[: 2 * ADDRESSES], "of one connection"
        assert punching._allowed(session, tried[:1], link) == tried[:1], "its next try"

        punching._sessions[link] = session
        punching.disconnected(link)
        assert punching._allowed(_Session(), tried, others[0]) == [], "they have failed a moment ago"
        more = [
            text for one, text in zip(others, ports[20:], strict=False) if punching._allowed(_Session(), [text], one)
        ]
        assert len(tried) + len(more) <= BURST + 1, "of one host, whoever names it"
