"""Streams of events, over a real socket: typed data, lag, restarts, silence, cancellation, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

import fabstir_client
from fabstir_client import Event, Lagged
from fabstir_client._core.cursor import Cursor
from fabstir_client.api.errors import ClientTimeout, DaemonUnreachable, Forbidden, InvalidParams
from fabstir_client.api.types import PeerConnected
from tests.harness import wait_until
from tests.unit.backends import BACKENDS, WITHIN, both, both_ways, bounded
from tests.unit.scripted_daemon import OWN, PEER, TOKEN, ScriptedDaemon, connect_peer, descriptors, note


def text(item: Event | Lagged) -> str:
    assert isinstance(item, Event), item
    return str(item.data["text"])


@both_ways
async def test_events_come_typed_and_in_order(daemon: ScriptedDaemon) -> None:
    note(daemon, "before")
    async with fabstir_client.connect() as client, client.events() as events:
        connect_peer(daemon)
        note(daemon, "one", "two")
        first = await events.__anext__()
        assert first == Event(
            "run-1", 2, 1_700_000_000_000, "peer:connect", PeerConnected(PEER, "/ip4/1.2.3.4/tcp/1", "inbound")
        )
        assert [text(await events.__anext__()) for _ in range(2)] == ["one", "two"]
        assert events.snapshot is not None
        assert events.snapshot.status.peer_id == OWN


@both_ways
async def test_types_and_after_are_asked_for(daemon: ScriptedDaemon) -> None:
    note(daemon, "one", "two")
    connect_peer(daemon)
    note(daemon, "three")
    async with fabstir_client.connect() as client:
        async with client.events(types=["note"], after=1) as events:
            assert [text(await events.__anext__()) for _ in range(2)] == ["two", "three"]
        assert daemon.calls == [("subscribe", {"types": ["note"], "after": 1})]


@both
async def test_breaking_off_leaves_nothing_open(daemon: ScriptedDaemon) -> None:
    """`async for` does not close what it iterates over, and nobody else will while the client lives."""
    async with fabstir_client.connect() as client:
        await client.status()
        note(daemon, "one")
        before = descriptors()
        for _ in range(3):
            async for event in client.events(after=0):
                assert text(event) == "one"
                break
        while len(daemon.connections) > 1:
            await client.status()
        wait_until(lambda: descriptors() <= before)


@both_ways
async def test_a_stream_that_was_left_open_ends_with_its_client(daemon: ScriptedDaemon) -> None:
    """It is not being iterated over, so nobody else would close its connection while somebody holds the stream."""
    before = descriptors()
    held, entered = [], []
    async with fabstir_client.connect() as client:
        for _ in range(3):
            events = client.events(after=0)
            note(daemon, "one")
            await events.__anext__()
            held.append(events)
            entered.append(client.events())
            await entered[-1].open()
    wait_until(lambda: descriptors() <= before)
    for stream in (*held, *entered):
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()


def test_a_blocking_stream_that_was_left_open_ends_with_its_client(daemon: ScriptedDaemon) -> None:
    before = descriptors()
    note(daemon, "one")
    with fabstir_client.connect_sync() as client:
        held = [client.events(after=0) for _ in range(3)]
        for events in held:
            next(events)
        opened = client.events()
        opened.open()
    wait_until(lambda: descriptors() <= before)
    for stream in (*held, opened):
        with pytest.raises(StopIteration):
            next(stream)


@both
async def test_a_cancelled_iteration_leaves_nothing_open_and_goes_on_later(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        await client.status()
        before = descriptors()
        events = client.events()
        async with events:
            for number in range(3):
                with anyio.move_on_after(0.02) as scope:
                    await events.__anext__()
                assert scope.cancelled_caught
                while len(daemon.connections) > 1:
                    await client.status()
                wait_until(lambda: descriptors() <= before)
                note(daemon, f"{number}")
                assert text(await events.__anext__()) == f"{number}"


@both
async def test_a_cancelled_task_group_takes_its_iterations_along(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        seen: list[str] = []

        async def follow(name: str) -> None:
            async for event in client.events(after=0):
                seen.append(f"{name}:{text(event)}")

        note(daemon, "x")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, "a")
            tasks.start_soon(follow, "b")
            while len(seen) < 2:
                await client.status()
            tasks.cancel_scope.cancel()
        assert sorted(seen) == ["a:x", "b:x"]
        while len(daemon.connections) > 1:
            await client.status()


@both
async def test_closing_wakes_who_waits_and_the_client_closes_what_is_open(daemon: ScriptedDaemon) -> None:
    ended: list[str] = []
    async with anyio.create_task_group() as tasks, fabstir_client.connect() as client:

        async def follow(events: fabstir_client.EventStream, name: str) -> None:
            async for _ in events:
                pytest.fail("no event was published")
            ended.append(name)

        first, second = client.events(), client.events()
        tasks.start_soon(follow, first, "closed")
        tasks.start_soon(follow, second, "left")
        while sum(1 for connection in daemon.connections if connection.subscriptions) < 2:
            await client.status()
        await first.aclose()
        while not ended:
            await client.status()
        assert ended == ["closed"]
    assert ended == ["closed", "left"]
    with pytest.raises(StopAsyncIteration):
        await first.__anext__()


@both_ways
async def test_a_broken_connection_loses_nothing(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events() as events:
        for number in range(4):
            daemon.cut()
            note(daemon, f"{number}a", f"{number}b")
            assert [text(await events.__anext__()) for _ in range(2)] == [f"{number}a", f"{number}b"]
    assert daemon.opened >= 5


@both
async def test_a_restart_is_a_gap_and_then_the_whole_new_run(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events(types=["note"]) as events:
        note(daemon, "old")
        assert text(await events.__anext__()) == "old"
        daemon.stop()
        daemon.epoch, daemon.log = "run-2", []
        note(daemon, "published before anybody came back")
        connect_peer(daemon)
        daemon.start()
        assert await events.__anext__() == Lagged(None, 1)
        assert text(await events.__anext__()) == "published before anybody came back"
        note(daemon, "new")
        assert text(await events.__anext__()) == "new"
        assert events.snapshot is not None
        assert events.snapshot.epoch == "run-2"


@both
async def test_what_the_log_holds_no_longer_is_a_counted_gap(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events() as events:
        note(daemon, "1")
        assert text(await events.__anext__()) == "1"
        daemon.stop()
        note(daemon, "2", "3", "4", "5")
        daemon.oldest = 4
        daemon.start()
        assert await events.__anext__() == Lagged(2, 4)
        assert [text(await events.__anext__()) for _ in range(2)] == ["4", "5"]


@both
async def test_lag_in_the_middle_is_handed_on(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events() as events:
        subscriber = next(c for c in daemon.connections if c.subscriptions)
        subscriber.notify("lagged", missed=3, resume=4)
        assert await events.__anext__() == Lagged(3, 4)


@both
async def test_silence_is_the_end_of_a_connection_and_a_heartbeat_is_not(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events(silence=3) as events:
        opened = daemon.opened
        beating = threading.Event()

        def beat() -> None:
            for _ in range(20):  # for longer than the silence that ends it
                daemon.heartbeat()
                time.sleep(0.2)  # the interval of heartbeats, not a wait for anything
            beating.set()
            note(daemon, "after the heartbeats")

        thread = threading.Thread(target=beat)
        thread.start()
        assert text(await events.__anext__()) == "after the heartbeats"
        assert beating.is_set()
        assert daemon.opened == opened
        thread.join()
        # Now it is silent: the stream comes again by itself, and asks for what it may have missed.
        with anyio.move_on_after(WITHIN):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(events.__anext__)
                while daemon.opened == opened:
                    await client.status()
                tasks.cancel_scope.cancel()
        assert daemon.opened > opened


@both
async def test_patience_ends_where_it_is_given(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events(patience=0.1) as events:
        daemon.stop()
        with pytest.raises(DaemonUnreachable, match=r"did not come back within 0\.1 s"):
            await events.__anext__()


@both
async def test_a_refused_subscription_is_the_callers(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        with pytest.raises(InvalidParams, match="after is 99"):
            await client.events(after=99).__anext__()
        with pytest.raises(InvalidParams, match="after is 99"):
            async with client.events(after=99):
                pytest.fail("entered")


@both
async def test_no_daemon_at_first_is_told_at_once(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        daemon.stop()
        with pytest.raises(DaemonUnreachable):
            await client.events().__anext__()


@both
async def test_a_slow_reader_delays_no_call(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client, client.events() as events:
        publisher = threading.Thread(target=lambda: [note(daemon, "x" * 1000) for _ in range(1000)])
        publisher.start()
        assert await client.call("echo", [1]) == [1]
        for _ in range(1000):
            assert text(await events.__anext__()) == "x" * 1000
        publisher.join(WITHIN)
        assert not publisher.is_alive()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_that_is_no_longer_taken_is_not_tried_for_ever(
    backend: str, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABSTIR_API", f"http://127.0.0.1:{daemon.serve_websocket(TOKEN)}")
    monkeypatch.setenv("FABSTIR_TOKEN", TOKEN)

    async def main(daemon: ScriptedDaemon) -> None:
        async with fabstir_client.connect() as client, client.events() as events:
            monkeypatch.setenv("FABSTIR_TOKEN", "another")
            daemon.cut()
            with pytest.raises(Forbidden):
                await events.__anext__()

    anyio.run(bounded, main, daemon, backend=backend)


def test_asyncios_own_cancellation_of_a_step(daemon: ScriptedDaemon) -> None:
    async def main() -> None:
        async with fabstir_client.connect() as client, client.events() as events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(events.__anext__(), 0.05)
            note(daemon, "later")
            assert text(await asyncio.wait_for(events.__anext__(), WITHIN)) == "later"

    asyncio.run(main())


# The blocking twin


def test_blocking_events(either: ScriptedDaemon) -> None:
    with fabstir_client.connect_sync() as client, client.events(types=["note", "peer:connect"]) as events:
        note(either, "one")
        connect_peer(either)
        assert text(next(events)) == "one"
        event = events.get(WITHIN)
        assert isinstance(event, Event)
        assert event.data == PeerConnected(PEER, "/ip4/1.2.3.4/tcp/1", "inbound")
        with pytest.raises(ClientTimeout):
            events.get(0.02)
        either.cut()
        note(either, "two")
        assert text(events.get(WITHIN)) == "two"


def test_blocking_events_are_a_plain_iterator(daemon: ScriptedDaemon) -> None:
    note(daemon, "one", "two")
    with fabstir_client.connect_sync() as client:
        assert client.status().state == "stopped"
        before = descriptors()
        seen = []
        for event in client.events(after=0):
            seen.append(text(event))
            if len(seen) == 2:
                break
        assert seen == ["one", "two"]
        wait_until(lambda: descriptors() <= before)


def test_blocking_events_survive_a_restart(daemon: ScriptedDaemon) -> None:
    with fabstir_client.connect_sync() as client, client.events() as events:
        daemon.restart("run-2")
        note(daemon, "new")
        assert events.get(WITHIN) == Lagged(None, 1)
        assert text(events.get(WITHIN)) == "new"


def test_blocking_events_end_when_another_thread_closes_them(daemon: ScriptedDaemon) -> None:
    with fabstir_client.connect_sync() as client, client.events() as events:
        ended: list[list[Event | Lagged]] = []
        thread = threading.Thread(target=lambda: ended.append(list(events)))
        thread.start()
        assert daemon.subscribed.wait(WITHIN)
        events.close()
        thread.join(WITHIN)
        assert ended == [[]]


def test_blocking_events_end_also_while_the_daemon_is_away(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cursor, "delay", lambda _: 10 * WITHIN)
    with fabstir_client.connect_sync() as client, client.events() as events:
        thread = threading.Thread(target=lambda: list(events))
        thread.start()
        daemon.stop()
        events.close()
        thread.join(WITHIN)
        assert not thread.is_alive()


def test_blocking_silence_and_patience(daemon: ScriptedDaemon) -> None:
    with fabstir_client.connect_sync() as client:
        with client.events(silence=0.05) as events:
            opened = daemon.opened
            while daemon.opened == opened:  # it comes again by itself
                with pytest.raises(ClientTimeout):
                    events.get(0.2)
        with client.events(patience=0.1) as events:
            daemon.stop()
            with pytest.raises(DaemonUnreachable, match="did not come back"):
                next(events)
