"""Connections that wait to be accepted."""

from __future__ import annotations

import socket

import trio

from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.sockets import AT_ONCE, Listener
from fabstird.p2p.wire.addresses import parse


class Turns(trio.abc.Instrument):
    """Counts those of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.count += 1


async def test_peers_that_have_come_together_are_taken_several_in_a_turn() -> None:
    """One of them was taken in each turn of the loop, which is long while the others shake hands."""
    port = await sockets.listen(parse("/ip4/127.0.0.1/tcp/0"))
    assert isinstance(port, Listener)
    where = "127.0.0.1", port.bound.port
    many = 4 * AT_ONCE
    callers = [socket.create_connection(where) for _ in range(many)]
    turns = Turns()
    async with port.sockets:
        trio.lowlevel.add_instrument(turns)
        taken = [await port.sockets.accept() for _ in range(many)]
        trio.lowlevel.remove_instrument(turns)
        assert {stream.socket.getpeername() for stream in taken} == {caller.getsockname() for caller in callers}
        assert turns.count < many / 2
        late = socket.create_connection(where)
        with trio.fail_after(60):
            taken.append(await port.sockets.accept())
    for one in (*callers, late, *(stream.socket for stream in taken)):
        one.close()


async def test_who_was_taken_and_not_handed_on_is_closed_with_the_listener() -> None:
    port = await sockets.listen(parse("/ip4/127.0.0.1/tcp/0"))
    assert isinstance(port, Listener)
    callers = [socket.create_connection(("127.0.0.1", port.bound.port), timeout=30) for _ in range(2)]
    async with port.sockets:
        first = await port.sockets.accept()
        assert first.socket.getpeername() == callers[0].getsockname()
    assert callers[1].recv(1) == b""
    for one in (*callers, first.socket):
        one.close()
