"""What is written to connections: bytes whole and in order, frames, and events to everybody at their own pace."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from fabstir_client.api.types import NodeStopped, PeerConnected
from fabstird.api.fanout import CHUNK_BYTES, Fanout, Subscription
from fabstird.api.sockets import Outbox, receive
from fabstird.api.wire_format import Framing, frames, lines
from fabstird.events import EventLog, Gap

SILENCE = 15.0


@pytest.fixture
async def pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    left, right = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    yield left, right
    left.socket.close()
    right.socket.close()


async def everything(stream: trio.SocketStream, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        data = await stream.receive_some()
        assert data, "it was closed"
        received += data
    return bytes(received)


# --------------------------------------------------------------------------------------------------------------------
# The outbox


async def test_what_a_socket_takes_is_sent_at_once(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    left, right = pair
    outbox = Outbox(left.socket)
    outbox.write(b"one")
    outbox.write(b"two")
    assert outbox.clear
    assert await right.receive_some() == b"onetwo"
    await outbox.flush()


async def test_what_it_does_not_take_follows_in_order(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    left, right = pair
    outbox = Outbox(left.socket)
    pieces = [bytes([65 + number]) * 300_000 for number in range(10)]
    for piece in pieces:
        outbox.write(piece)
    assert not outbox.clear
    assert outbox.waiting < sum(map(len, pieces))
    async with trio.open_nursery() as nursery:
        for _ in range(3):  # several tasks may wait for it
            nursery.start_soon(outbox.flush)
        assert await everything(right, 3_000_000) == b"".join(pieces)
    assert outbox.clear
    outbox.write(b"after")
    assert await right.receive_some() == b"after"


async def test_a_flush_that_is_cancelled_loses_nothing(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    left, right = pair
    outbox = Outbox(left.socket)
    outbox.write(bytes(1_000_000))
    with trio.move_on_after(0):
        await outbox.flush()
    outbox.write(b"x" * 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.flush)
        assert await everything(right, 1_000_005) == bytes(1_000_000) + b"xxxxx"


async def test_a_connection_that_is_gone_says_so(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    left, right = pair
    outbox = Outbox(left.socket)
    right.socket.close()
    with pytest.raises(trio.BrokenResourceError):
        outbox.write(b"x")
    left.socket.close()
    with pytest.raises(trio.ClosedResourceError):
        outbox.write(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await receive(left.socket)


async def test_nothing_follows_the_end(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    left, right = pair
    outbox = Outbox(left.socket)
    outbox.write(bytes(1_000_000))
    outbox.end()
    with pytest.raises(trio.BrokenResourceError):
        outbox.write(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.flush)
        await everything(right, 1_000_000)
    left.socket.close()
    assert await right.receive_some() == b""


# --------------------------------------------------------------------------------------------------------------------
# Framing


@given(st.lists(st.text() | st.integers(0, 70_000).map(lambda length: "x" * length), min_size=1, max_size=5))
def test_frames_are_what_a_websocket_client_reads(texts: list[str]) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames([text.encode() for text in texts]))
    found = [""]
    for event in client.events():
        assert isinstance(event, TextMessage)
        found[-1] += event.data
        if event.message_finished:
            found.append("")
    assert found == [*texts, ""]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
def test_lengths_of_frames_at_their_borders(length: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames([b"x" * length, b"y"]))
    assert "".join(str(event.data) for event in client.events() if isinstance(event, TextMessage)) == "x" * length + "y"


# --------------------------------------------------------------------------------------------------------------------
# The fan-out


class Reader:
    """A subscribed connection and the other end of it."""

    def __init__(self, fanout: Fanout, nursery: trio.Nursery, framing: Framing = lines) -> None:
        ours, theirs = socket.socketpair()
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self._ours = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._nursery = nursery
        self._fanout = fanout
        self._received = bytearray()
        self.outbox = Outbox(self._ours.socket)
        self.framing = framing
        self.behind = False
        self.taken_over = 0
        self.subscriptions: list[Subscription] = []

    def follow(self, after: int, *, gap: Gap | None = None, types: frozenset[str] | None = None) -> Subscription:
        subscription = Subscription("ipc", after, types, f"s{len(self.subscriptions) + 1}", self, gap)
        self.subscriptions.append(subscription)
        self._fanout.add(subscription)
        return subscription

    def fall_behind(self) -> None:
        if not self.behind:
            self.behind = True
            self.taken_over += 1
            self._nursery.start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        while True:
            await self.outbox.flush()
            if not self._fanout.catch_up(list(self.subscriptions)) and self.outbox.clear:
                break
        self.behind = False

    async def message(self) -> Any:
        while b"\n" not in self._received:
            with trio.fail_after(60):
                data = await self.stream.receive_some()
            assert data
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    async def told(self, last: int) -> list[Any]:
        """Entries' numbers, and gaps as (missed, resume), up to entry ``last``."""
        found: list[Any] = []
        while not found or found[-1] != last:
            message = await self.message()
            params = message["params"]
            if message["method"] == "event":
                found.append(params["seq"])
            elif message["method"] == "lagged":
                found.append((params["missed"], params["resume"]))
        return found

    def close(self) -> None:
        self.stream.socket.close()
        self._ours.socket.close()


class Hall:
    def __init__(self, log: EventLog, fanout: Fanout, nursery: trio.Nursery) -> None:
        self.log = log
        self.fanout = fanout
        self.nursery = nursery
        self.readers: list[Reader] = []

    def reader(self) -> Reader:
        self.readers.append(Reader(self.fanout, self.nursery))
        return self.readers[-1]

    def publish(self, count: int, size: int = 10) -> None:
        for _ in range(count):
            self.log.publish(NodeStopped(peer_id="x" * size))


@asynccontextmanager
async def hall(capacity: int = 1000) -> AsyncIterator[Hall]:
    log = EventLog(capacity)
    async with Fanout.running(log, SILENCE) as fanout, trio.open_nursery() as nursery:
        found = Hall(log, fanout, nursery)
        try:
            yield found
        finally:
            nursery.cancel_scope.cancel()
            for reader in found.readers:
                reader.close()


async def test_everybody_is_told_everything_in_order() -> None:
    async with hall() as here:
        readers = [here.reader() for _ in range(20)]
        for reader in readers:
            reader.follow(0)
        for burst in (1, 9, 300):
            here.publish(burst)
            await trio.lowlevel.checkpoint()
        for reader in readers:
            assert await reader.told(310) == list(range(1, 311))
            assert reader.taken_over == 0


async def test_each_begins_where_it_says() -> None:
    async with hall() as here:
        here.publish(10)
        for after in (0, 3, 10):
            reader = here.reader()
            reader.follow(after)
        here.publish(1)
        for reader, after in zip(here.readers, (0, 3, 10), strict=True):
            assert await reader.told(11) == list(range(after + 1, 12))


async def test_the_same_reader_later_is_not_given_what_was_made_earlier() -> None:
    """Bytes are kept for others at the same place; what comes after them must not be lost for those who come later."""
    async with hall() as here:
        first = here.reader()
        first.follow(0)
        here.publish(2)
        assert await first.told(2) == [1, 2]
        here.publish(3)
        second = here.reader()
        second.follow(0)
        assert await first.told(5) == [3, 4, 5]
        assert await second.told(5) == [1, 2, 3, 4, 5]


async def test_types_are_filtered_and_the_cursor_passes_over_the_others() -> None:
    async with hall() as here:
        reader, other = here.reader(), here.reader()
        wanted = reader.follow(0, types=frozenset({"peer:connect"}))
        other.follow(0, types=frozenset({"p2p:stopped"}))
        for _ in range(3):
            here.publish(2)
            here.log.publish(PeerConnected(peer_id="p", address="a", direction="inbound"))
        assert await reader.told(9) == [3, 6, 9]
        assert await other.told(8) == [1, 2, 4, 5, 7, 8]
        here.publish(1)
        await trio.testing.wait_all_tasks_blocked()
        assert wanted.after == 10


async def test_a_gap_is_told_first_and_in_its_place() -> None:
    async with hall(capacity=5) as here:
        here.publish(12)
        reader, stranger = here.reader(), here.reader()
        reader.follow(0)
        stranger.follow(12, gap=Gap(None, 13))
        assert await reader.told(12) == [(7, 8), 8, 9, 10, 11, 12]
        here.publish(1)
        assert await stranger.told(13) == [(None, 13), 13]
        assert (here.log.lagged, here.log.missed) == (2, 7)


async def test_who_does_not_read_is_left_to_a_task_of_its_own_and_delays_nobody() -> None:
    async with hall(capacity=100) as here:
        stuck, quick = here.reader(), here.reader()
        stuck.follow(0)
        quick.follow(0)
        seen: list[Any] = []
        for _ in range(60):
            here.publish(10, size=5000)
            seen += await quick.told(here.log.head)
        assert seen == list(range(1, 601))
        assert (stuck.taken_over, quick.taken_over) == (1, 0)
        assert stuck.outbox.waiting <= CHUNK_BYTES + 6000  # one chunk, whatever has been published
        told = await stuck.told(600)
        at = 0
        for item in told:
            if isinstance(item, tuple):
                missed, resume = item
                assert resume == at + missed + 1
                at += missed
            else:
                assert item == at + 1
                at = item
        assert any(isinstance(item, tuple) for item in told)
        await trio.testing.wait_all_tasks_blocked()
        assert not stuck.behind
        here.publish(1)
        assert await stuck.told(601) == [601]


async def test_two_subscriptions_of_a_slow_connection_both_get_on() -> None:
    async with hall() as here:
        reader = here.reader()
        reader.follow(0)
        reader.follow(0, types=frozenset({"p2p:stopped"}))
        here.publish(500, size=5000)
        seen: dict[str, list[int]] = {"s1": [], "s2": []}
        while any(len(numbers) < 500 for numbers in seen.values()):
            params = (await reader.message())["params"]
            seen[params["subscription"]].append(params["seq"])
        assert seen == {"s1": list(range(1, 501)), "s2": list(range(1, 501))}


async def test_all_are_told_once_their_sockets_have_taken_everything() -> None:
    async with hall() as here:
        with trio.fail_after(60):
            await here.fanout.all_sent()  # nobody has subscribed
        stuck, quick = here.reader(), here.reader()
        stuck.follow(0)
        quick.follow(0)
        here.publish(300, size=5000)
        with trio.move_on_after(0.1) as waited:
            await here.fanout.all_sent()
        assert waited.cancelled_caught, "one of them reads nothing"
        await quick.told(300)
        await stuck.told(300)
        with trio.fail_after(60):
            await here.fanout.all_sent()


async def test_nothing_is_written_for_a_subscription_that_has_ended() -> None:
    async with hall() as here:
        reader = here.reader()
        subscription, other = reader.follow(0), reader.follow(0)
        here.publish(1)
        here.fanout.remove(subscription)
        here.publish(1)
        assert [(await reader.message())["params"]["subscription"] for _ in range(2)] == ["s2", "s2"]
        here.fanout.remove(other)
        here.fanout.remove(other)
        assert len(here.fanout) == 0
        assert here.log.readers == set()


async def test_a_connection_that_breaks_ends_only_its_own() -> None:
    async with hall() as here:
        broken, sound = here.reader(), here.reader()
        for reader in (broken, sound):
            reader.follow(0)
        broken.stream.socket.close()
        here.publish(2)
        assert await sound.told(2) == [1, 2]
        assert len(here.fanout) == 1


async def test_heartbeats_come_in_every_silence(autojump_clock: trio.testing.MockClock) -> None:
    async with hall() as here:
        quiet, busy = here.reader(), here.reader()
        quiet.follow(0, types=frozenset())
        busy.follow(0)
        for _ in range(4):
            await trio.sleep(SILENCE * 0.7)
            here.publish(1)
        await trio.sleep(SILENCE * 0.5)  # 3.3 silences in all
        beats = [await quiet.message() for _ in range(3)]
        assert [beat["method"] for beat in beats] == ["heartbeat"] * 3
        assert [beat["params"]["head"] for beat in beats] == [1, 2, 4]
        assert await busy.told(4) == [1, 2, 3, 4]
        await trio.sleep(SILENCE * 0.6)
        assert (await busy.message())["method"] == "heartbeat"


async def test_subscriptions_that_come_and_go_leave_nothing() -> None:
    async with hall() as here:
        reader = here.reader()
        for _ in range(1000):
            here.fanout.remove(reader.follow(0))
        assert len(here.fanout._beats) <= 2


async def test_who_comes_up_to_date_costs_the_others_nothing() -> None:
    """Each of a thousand that subscribed one after the other had all of them looked at."""

    class Counted(Reader):
        looked = 0

        @property  # type: ignore[override]
        def behind(self) -> bool:
            Counted.looked += 1
            return False

        @behind.setter
        def behind(self, _: bool) -> None:
            pass

    async with hall() as here:
        here.publish(3)
        for _ in range(20):
            here.readers.append(Counted(here.fanout, here.nursery))
            here.readers[-1].follow(3)
            await trio.testing.wait_all_tasks_blocked()
        assert Counted.looked <= 20
        late = here.reader()
        late.follow(1)  # it is told what it has missed
        assert await late.told(3) == [2, 3]
        here.publish(1)
        for reader in here.readers:
            assert await reader.told(4) == [4]
