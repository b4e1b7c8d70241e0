"""What a peer says of itself: in several messages, in part, and without an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from fabstird.p2p.host.identify_message import MAX_PARTS, IdentifyError, PeerInfo, decode, read
from fabstird.p2p.wire.errors import EndOfStream, PeerError
from fabstird.p2p.wire.frames import FrameTooLarge, frame
from fabstird.p2p.wire.protobuf import Identify


class Said:
    """A stream with these bytes in it; after them its end, or silence."""

    def __init__(self, data: bytes, *, ended: bool = True) -> None:
        self._data = data
        self._ended = ended

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._data:
            if not self._ended:
                await trio.sleep_forever()
            raise EndOfStream("ended")
        taken, self._data = (self._data, b"") if n is None else (self._data[:n], self._data[n:])
        return taken


def messages(*parts: Identify) -> bytes:
    return b"".join(frame(part.SerializeToString(), "uvarint") for part in parts)


WHOLE = Identify(agent_version="a/1", protocol_version="p/1", protocols=["/x/1"])


async def test_all_messages_are_read_and_merged() -> None:
    rest = [Identify(protocols=[f"/y/{number}"]) for number in range(3)]
    info = await read(Said(messages(WHOLE, *rest)))
    assert (info.agent_version, info.protocols) == ("a/1", ("/x/1", "/y/0", "/y/1", "/y/2"))


@pytest.mark.parametrize(
    "data",
    [
        messages(WHOLE),
        messages(WHOLE, *[Identify(protocols=[f"/y/{number}"]) for number in range(2 * MAX_PARTS)]),
        messages(WHOLE, Identify(agent_version="x" * 60000), Identify(agent_version="x" * 60000)),
        messages(WHOLE)[:-1],
        messages(WHOLE) + b"\x80",
        b"\xff" * 20,
        b"\x03\xff\xff\xff",
        b"",
    ],
    ids=["whole", "many", "large", "cut", "cut length", "no length", "no message", "nothing"],
)
async def test_what_has_arrived_whole_is_judged_as_what_is_read(data: bytes) -> None:
    async def outcome(call: Callable[[], Awaitable[PeerInfo]]) -> PeerInfo | type[PeerError]:
        try:
            return await call()
        except PeerError as error:
            return type(error)

    async def decoded() -> PeerInfo:
        return decode(data)

    assert await outcome(decoded) == await outcome(lambda: read(Said(data)))


async def test_a_partial_push_leaves_the_rest_as_it_was() -> None:
    known = await read(Said(messages(WHOLE)))
    info = await read(Said(messages(Identify(protocols=["/z/1"]))), known)
    assert (info.agent_version, info.protocol_version, info.protocols) == ("a/1", "p/1", ("/z/1",))
    info = await read(Said(messages(Identify(agent_version="a/2"))), known)
    assert (info.agent_version, info.protocols) == ("a/2", ("/x/1",))


async def test_a_peer_that_does_not_end_its_side_has_said_who_it_is(autojump_clock: trio.testing.MockClock) -> None:
    info = await read(Said(messages(WHOLE), ended=False))
    assert info.agent_version == "a/1"


async def test_what_is_read_is_bounded() -> None:
    many = [Identify(protocols=[f"/y/{number}"]) for number in range(3 * MAX_PARTS)]
    assert len((await read(Said(messages(*many)))).protocols) == MAX_PARTS
    large = Identify(agent_version="x" * 40000)
    with pytest.raises(FrameTooLarge):
        await read(Said(messages(large, large)))
    with pytest.raises(IdentifyError):
        await read(Said(b""))
