"""What servers of AutoNAT make a daemon believe of an address of its own: what they show, and not what they say."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from tests.harness import Daemon, Json, asked_until, fabstird
from tests.support.autonat import (
    DIAL_BACK,
    DIAL_REQUEST,
    V2_DIAL_ERROR,
    V2_DIALLED,
    V2_OK,
    V2_REFUSED,
    framed,
    received,
)
from tests.support.minipeer import Connection, ConnectionLost, MiniPeer, mini_peers
from tests.support.wire import field, fields, varint
from tests.support.yamux import Stream, StreamReset

ADDRESS = "/ip4/8.8.8.8/tcp/4001"  # nothing is ever dialled there
PATIENCE = 60.0
DEBUG = {"log.level": "debug"}


class Server:
    """A peer that is asked to dial. ``link`` is its connection to the daemon."""

    def __init__(self, peer: MiniPeer, daemon: Daemon, source: str) -> None:
        self.peer = peer
        self.daemon = daemon
        self.source = source
        self.link: Connection | None = None
        self.data = 0  # bytes of dial data that came

    def serve(self, kind: Answering) -> None:
        """Answer questions in this way."""

        async def answer(stream: Stream) -> None:
            try:
                dialled = await kind(self, stream, nonce_in(await received(stream)))
            except (ConnectionLost, StreamReset, OSError):
                return  # the daemon has gone meanwhile: the test has seen what it wanted
            status = varint(V2_OK if dialled else V2_REFUSED)
            await stream.send_all(framed(field(2, b"\x08" + status + b"\x18" + varint(dialled))))

        self.peer.handle(DIAL_REQUEST, answer)

    async def bring(self, link: Connection, nonce: int) -> bool:
        """A dial back over this connection; whether it was taken."""
        stream = await link.open_stream(DIAL_BACK)
        try:
            await stream.send_all(framed(b"\x09" + struct.pack("<Q", nonce)))
            return await received(stream) == b""
        except (StreamReset, EOFError):
            return False

    async def dialled(self) -> Connection:
        return await self.peer.dial(self.daemon.address("tcp"), source=self.source)

    async def collect(self, stream: Stream, size: int) -> None:
        await stream.send_all(framed(field(3, b"\x10" + varint(size))))
        while self.data < size:
            (piece,) = fields(await received(stream))[4]
            (data,) = fields(piece)[1]
            assert len(data) <= 4096
            self.data += len(data)


Answering = Callable[[Server, Stream, int], Awaitable[int]]  # returns the status of the dial; 0 for none that was made


async def honest(server: Server, _: Stream, nonce: int) -> int:
    assert await server.bring(await server.dialled(), nonce)
    return V2_DIALLED


async def greedy(server: Server, stream: Stream, nonce: int) -> int:
    await server.collect(stream, 100_000)
    return await honest(server, stream, nonce)


async def too_greedy(server: Server, stream: Stream, nonce: int) -> int:
    await server.collect(stream, 100_001)
    return await honest(server, stream, nonce)


async def silent(_: Server, __: Stream, ___: int) -> int:
    return V2_DIALLED


async def wrong(server: Server, _: Stream, nonce: int) -> int:
    assert not await server.bring(await server.dialled(), nonce ^ 1)
    return V2_DIALLED


async def lazy(server: Server, _: Stream, nonce: int) -> int:
    """It has dialled nothing: it brings the nonce on the connection that there is."""
    assert server.link is not None
    assert not await server.bring(server.link, nonce)
    return V2_DIALLED


async def failing(_: Server, __: Stream, ___: int) -> int:
    return V2_DIAL_ERROR


async def refusing(_: Server, __: Stream, ___: int) -> int:
    return 0


@asynccontextmanager
async def servers(*kinds: Answering) -> AsyncIterator[tuple[Daemon, list[Server]]]:
    """A daemon that announces `ADDRESS`, and servers, each at an IP address of its own."""
    async with mini_peers(len(kinds)) as peers, fabstird(settings=DEBUG, announce_addresses=[ADDRESS]) as daemon:
        made = [Server(peer, daemon, f"127.0.0.{number}") for number, peer in enumerate(peers, start=2)]
        for server, kind in zip(made, kinds, strict=True):
            server.serve(kind)
            server.link = await server.dialled()
        yield daemon, made


def nonce_in(question: bytes) -> int:
    (request,) = fields(question)[1]
    assert request[-9] == 0x11
    (nonce,) = struct.unpack("<Q", request[-8:])
    return int(nonce)


async def entry(daemon: Daemon) -> Json:
    (found,) = [one for one in (await daemon.call("addresses"))["reachability"] if one["address"].startswith(ADDRESS)]
    return dict(found)


async def outcomes(daemon: Daemon, made: list[Server]) -> list[str]:
    """What came of the question to each of these servers, once all are answered."""
    found: dict[str, str] = {}
    with trio.fail_after(PATIENCE):
        while not {server.peer.peer_id for server in made} <= found.keys():
            for line in daemon.entries:
                if line["event"] == "dialled back":
                    found.setdefault(line["server"], line["outcome"])
            await trio.sleep(0.05)
    return [found[server.peer.peer_id] for server in made]


async def test_only_who_brings_the_nonce_on_a_connection_of_its_own_confirms_an_address() -> None:
    kinds = (silent, wrong, lazy, refusing, too_greedy, honest, greedy)
    async with servers(*kinds) as (daemon, made):
        found = await asked_until(lambda: entry(daemon), lambda one: one["confirmedBy"] == 2, within=PATIENCE)
        assert (found["reachable"], found["state"], found["from"]) == ("reachable", "reachable", ["announced"])
        assert [server.data for server in made] == [0, 0, 0, 0, 0, 0, 100_000]
        claims = ["unproven", "unproven", "unproven", "refused", "error", "reached", "reached"]
        assert await outcomes(daemon, made) == claims
        assert (await entry(daemon))["confirmedBy"] == 2
        assert daemon.errors == []


async def test_an_address_is_unreachable_once_two_have_failed_whatever_others_claim() -> None:
    async with servers(silent, failing, wrong) as (daemon, _):
        await asked_until(lambda: entry(daemon), lambda one: "checkedAt" in one, within=PATIENCE)
        assert (await entry(daemon))["reachable"] == "unknown", "one server's word is not enough"
        async with mini_peers(1) as [peer]:
            server = Server(peer, daemon, "127.0.0.9")
            server.serve(failing)
            await server.dialled()
            found = await asked_until(
                lambda: entry(daemon), lambda one: one["reachable"] == "unreachable", within=PATIENCE
            )
            assert (found["state"], found["confirmedBy"]) == ("unknown", 0)
            assert ADDRESS in str((await daemon.call("addresses"))["announced"]), "the operator has named it"
