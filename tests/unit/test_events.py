"""The event log: numbers, the ring, gaps, and where a reader begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fabstir_client.api.dht import DhtModeChanged
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.types import NodeStopped, PeerConnected, PeerIdentified
from fabstird.events import AfterHead, Entry, EventLog, Gap
from fabstird.rpc.event_messages import envelope, heartbeat, matches, notification, position


def filled(entries: int, capacity: int = 100) -> EventLog:
    log = EventLog(capacity, clock=lambda: 1700000000.1239)
    for number in range(1, entries + 1):
        log.publish(NodeStopped(peer_id=f"peer {number}"))
    return log


def numbers(items: list[Entry | Gap]) -> list[Any]:
    return [("gap", item.missed, item.resume) if isinstance(item, Gap) else item.seq for item in items]


def test_numbers_rise_by_one_from_one() -> None:
    log = EventLog(10)
    assert log.head == 0
    assert [log.publish(NodeStopped(peer_id="x")).seq for _ in range(3)] == [1, 2, 3]
    assert log.head == 3


def test_each_run_has_its_own_epoch() -> None:
    assert len({EventLog(1).epoch for _ in range(100)}) == 100


def test_an_entry_on_the_wire_is_the_contracts() -> None:
    log = filled(0)
    entry = log.publish(PeerConnected(peer_id="12D3K", address='/ip4/1.2.3.4/tcp/1"', direction="inbound"))
    params = {
        "epoch": log.epoch,
        "seq": 1,
        "time": 1700000000123,
        "type": "peer:connect",
        "data": {"peerId": "12D3K", "address": '/ip4/1.2.3.4/tcp/1"', "direction": "inbound"},
    }
    assert json.loads(bytes(envelope(entry))) == params
    assert json.loads(notification("s7", entry)) == {
        "jsonrpc": "2.0",
        "method": "event",
        "params": {"subscription": "s7", **params},
    }


def test_an_event_with_half_a_character_is_told_with_a_whole_one() -> None:
    log = filled(1)
    told: list[Entry] = []
    log.tap(told.append)
    entry = log.publish(PeerConnected(peer_id="12D3K", address="/x/\udcff", direction="inbound"))
    assert (entry.seq, told) == (2, [entry])
    assert entry.data == PeerConnected(peer_id="12D3K", address="/x/\N{REPLACEMENT CHARACTER}", direction="inbound")
    assert json.loads(bytes(envelope(entry)))["data"]["address"] == "/x/\N{REPLACEMENT CHARACTER}"


def test_lagged_and_heartbeat_on_the_wire_are_the_contracts() -> None:
    def lagged(missed: int | None) -> dict[str, Any]:
        params = {"subscription": "s1", "missed": missed, "resume": 8}
        return {"jsonrpc": "2.0", "method": "lagged", "params": params}

    assert json.loads(notification("s1", Gap(5, 8))) == lagged(5)
    assert json.loads(notification("s1", Gap(None, 8))) == lagged(None)
    beat = {"jsonrpc": "2.0", "method": "heartbeat", "params": {"subscription": "s1", "head": 12}}
    assert json.loads(heartbeat("s1", 12)) == beat


def test_the_types_are_the_contracts() -> None:
    assert set(EVENT_DATA) >= {
        "p2p:started",
        "p2p:stopped",
        "peer:connect",
        "peer:disconnect",
        "peer:identify",
        "connection:retry",
        "connection:failed",
        "connection:cancelled",
        "error",
    }


def test_the_ring_keeps_the_newest() -> None:
    log = filled(12, capacity=5)
    assert (log.oldest, log.head) == (8, 12)
    assert numbers(log.read(7)) == [8, 9, 10, 11, 12]


def test_an_empty_log_has_its_oldest_entry_before_it() -> None:
    assert EventLog(5).oldest == 1
    assert EventLog(5).read(0) == []


def test_a_reader_behind_the_ring_reads_the_gap_first() -> None:
    log = filled(12, capacity=5)
    assert numbers(log.read(2)) == [("gap", 5, 8), 8, 9, 10, 11, 12]
    assert numbers(log.read(6)) == [("gap", 1, 8), 8, 9, 10, 11, 12]


def test_reading_is_limited() -> None:
    log = filled(12, capacity=5)
    assert numbers(log.read(9, 2)) == [10, 11]
    assert numbers(log.read(2, 2)) == [("gap", 5, 8), 8, 9]
    assert numbers(log.read(11, 2)) == [12]
    assert log.read(12, 2) == []


def test_position_and_types_of_what_was_read() -> None:
    entry, gap = filled(3).publish(NodeStopped(peer_id="x")), Gap(2, 9)
    assert (position(entry), position(gap)) == (4, 8)
    assert matches(entry, None)
    assert matches(entry, frozenset({"p2p:stopped"}))
    assert not matches(entry, frozenset({"peer:connect"}))
    assert not matches(entry, frozenset())
    assert matches(gap, frozenset({"peer:connect"}))


@pytest.mark.parametrize(
    ("after", "begins", "gap"),
    [
        (None, 12, None),  # what comes from now on
        (12, 12, None),
        (11, 11, None),
        (7, 7, None),  # entry 8 is the oldest that is kept
        (6, 7, Gap(1, 8)),
        (0, 7, Gap(7, 8)),
    ],
)
def test_where_a_reader_of_this_run_begins(after: int | None, begins: int, gap: Gap | None) -> None:
    log = filled(12, capacity=5)
    assert log.start_after(after, None) == (begins, gap)
    assert log.start_after(after, log.epoch) == (begins, gap)


@pytest.mark.parametrize("after", [0, 5, 12, 10**30])
def test_a_reader_of_another_run_begins_at_the_next_entry(after: int) -> None:
    assert filled(12, capacity=5).start_after(after, "another") == (12, Gap(None, 13))


def test_nobody_begins_after_an_entry_that_does_not_exist() -> None:
    log = filled(12)
    for epoch in (None, log.epoch):
        with pytest.raises(AfterHead, match="after is 13, but the newest event is 12"):
            log.start_after(13, epoch)


def test_a_reader_of_an_empty_log_begins_at_its_beginning() -> None:
    log = filled(0)
    assert log.start_after(None, None) == (0, None)
    assert log.start_after(0, log.epoch) == (0, None)


def test_taps_are_told_every_entry_once_and_in_order() -> None:
    log, seen = EventLog(1), []
    log.tap(lambda entry: seen.append(entry.seq))
    for _ in range(4):
        log.publish(NodeStopped(peer_id="x"))
    assert seen == [1, 2, 3, 4]


async def test_waiting_ends_when_something_new_is_there() -> None:
    log = filled(3)
    woken: list[int] = []

    async def reader(after: int) -> None:
        await log.wait_beyond(after)
        woken.append(after)

    async with trio.open_nursery() as nursery:
        for after in (2, 3, 3, 4):
            nursery.start_soon(reader, after)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [2]
        log.publish(NodeStopped(peer_id="x"))
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [2, 3, 3]
        log.publish(NodeStopped(peer_id="x"))
    assert woken == [2, 3, 3, 4]


async def test_a_reader_that_waits_misses_nothing_of_a_burst() -> None:
    log = EventLog(100)
    seen: list[int] = []

    async def reader() -> None:
        after = 0
        while after < 50:
            await log.wait_beyond(after)
            items = log.read(after, 3)
            after = position(items[-1])
            seen.extend(item.seq for item in items if isinstance(item, Entry))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            for burst in (1, 9, 40):
                for _ in range(burst):
                    log.publish(NodeStopped(peer_id="x"))
                await trio.lowlevel.checkpoint()
    assert seen == list(range(1, 51))


@given(
    capacity=st.integers(1, 8),
    published=st.integers(0, 30),
    after=st.integers(0, 30),
    limit=st.none() | st.integers(1, 10),
)
def test_whatever_is_read_is_complete_or_says_what_is_missing(
    capacity: int, published: int, after: int, limit: int | None
) -> None:
    log = filled(published, capacity)
    if after > log.head:
        with pytest.raises(AfterHead):
            log.start_after(after, None)
        return
    assert_complete(log, after, lambda position: log.read(position, limit))
    begins, gap = log.start_after(after, None)
    assert (gap is None) == (after + 1 >= log.oldest)
    assert begins == (after if gap is None else after + (gap.missed or 0))
    assert gap is None or gap.resume == begins + 1 == log.oldest


def assert_complete(log: EventLog, after: int, read: Callable[[int], list[Entry | Gap]]) -> None:
    """Reading on from `after` tells of every number up to the head exactly once, as an entry or inside a gap."""
    at = after
    while at < log.head:
        for item in read(at):
            if isinstance(item, Gap):
                assert item.missed == item.resume - 1 - at
                at = item.resume - 1
            else:
                assert item.seq == at + 1
                at = item.seq
    assert read(at) == []


def test_the_log_keeps_no_more_bytes_than_it_may() -> None:
    log = EventLog(1000, 10_000)
    for number in range(500):
        log.publish(DhtModeChanged(mode="server" if number % 7 else "client"))
        assert log.size <= 10_000
        kept = log.read(0)
        gap = kept[0] if isinstance(kept[0], Gap) else Gap(0, 1)
        entries = [entry for entry in kept if isinstance(entry, Entry)]
        assert sum(len(entry.body) for entry in entries) == log.size
        assert [entry.seq for entry in entries] == list(range(gap.resume, log.head + 1))
        assert gap.resume == log.oldest
    assert 20 < log.head + 1 - log.oldest < 200


def test_an_event_has_its_bound_whatever_a_peer_says() -> None:
    log = EventLog(10)
    many = [f"/protocol/{'x' * 300}/{number}" for number in range(300)]
    entry = log.publish(
        PeerIdentified(peer_id="peer", agent_version="a" * 9000, protocol_version="v", protocols=many, addresses=many)
    )
    assert len(entry.body) < 8 * 1024 + 200
    assert isinstance(entry.data, PeerIdentified)
    assert entry.data.agent_version == "a" * 256
    assert entry.data.protocols[0] == many[0][:256]
    assert len(entry.data.protocols) > 5
    assert entry.data.addresses
