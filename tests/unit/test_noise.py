"""The encrypted connection: what a peer forges ends it, as a mistake of that peer and not as a defect of ours."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import FunctionType, ModuleType

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.security.noise import TURN, Noise, NoiseConn
from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.transport.tcp import TcpPipe
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.errors import PeerError
from tests.support.turns import read_beside_others

NOWHERE = parse("/ip4/127.0.0.1/tcp/1")


@asynccontextmanager
async def secured() -> AsyncIterator[tuple[NoiseConn, NoiseConn, trio.SocketStream]]:
    """Two ends of a connection, the dialler's first, and the socket of the other one."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    async with ours, theirs:
        ends: dict[bool, NoiseConn] = {}

        async def secure(pipe: TcpPipe) -> None:
            ends[pipe.is_initiator] = await Noise(NodeKey(os.urandom(32))).secure(pipe)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(secure, TcpPipe(ours, NOWHERE, Traffic(), initiator=True))
                nursery.start_soon(secure, TcpPipe(theirs, NOWHERE, Traffic(), initiator=False))
            yield ends[True], ends[False], theirs


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 300])
async def test_a_forged_message_ends_the_connection(length: int) -> None:
    """The daemon told of it as of a defect of its own: an ERROR with a traceback."""
    async with secured() as (reader, _, theirs):
        await theirs.send_all(length.to_bytes(2, "big") + bytes(length))
        with pytest.raises(PeerError, match="cannot be decrypted"):
            await reader.read()


async def test_messages_that_have_come_are_read_at_once_and_what_precedes_a_forged_one_is_not_lost() -> None:
    async with secured() as (reader, writer, theirs):
        for part in (b"", b"one, ", bytes(70_000), b"two"):  # an empty write is no message
            await writer.write(part)
        came = b""
        with trio.fail_after(60):
            while len(came) < 70_008:
                came += await reader.read()
        assert came == b"one, " + bytes(70_000) + b"two"
        await writer.write(b"small, ")
        await writer.write(b"and smaller")
        await theirs.send_all((20).to_bytes(2, "big") + bytes(20))
        assert await reader.read() == b"small, and smaller"
        for _ in range(2):
            with pytest.raises(PeerError, match="cannot be decrypted"):
                await reader.read()


@pytest.mark.parametrize("length", [0, 1])
async def test_many_short_messages_leave_other_tasks_their_turns(length: int) -> None:
    """All that had come was decrypted in one turn: 7,000 empty messages in one read from a peer that is known."""
    count = 4 * TURN
    async with secured() as (reader, writer, _):
        sealed = [writer._encrypt(None, bytes(length)) for _ in range(count)]
        flood = b"".join(len(one).to_bytes(2, "big") + one for one in sealed)
        reader._pipe.unread(flood)
        await writer.write(b"last")
        came, turns = await read_beside_others(reader.read, count * length + 4)
        assert came == bytes(count * length) + b"last"
        assert turns >= count // TURN


async def test_no_private_key_outlives_the_handshake() -> None:
    """Whoever reads the memory of a node later could decrypt with it what was recorded before."""
    async with secured() as ends:
        for conn in ends[:2]:
            assert not [thing for thing in held_by(conn) if isinstance(thing, X25519PrivateKey)]
        await ends[0].write(b"still")
        assert await ends[1].read() == b"still"


def held_by(thing: object) -> Iterator[object]:
    """All that it keeps alive, but for what modules and types do."""
    seen, left = {id(thing)}, [thing]
    while left:
        yield (held := left.pop())
        for one in gc.get_referents(held):
            if id(one) not in seen and not isinstance(one, ModuleType | type | FunctionType | trio.lowlevel.Task):
                seen.add(id(one))
                left.append(one)
