"""What users ask about single peers, and what the manager makes of it: trimming, bans, kept peers, explanations."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from fabstir_client.api.errors import DialFailed, InvalidParams, LimitExceeded
from fabstird.config import ConnectionsConfig
from fabstird.p2p.host.host import Host
from fabstird.p2p.nat.relay_places import Places
from fabstird.p2p.nat.relay_service import worth
from fabstird.p2p.peers import bans, book, commands
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.history import History
from tests.unit.manager import A1, A2, B1, OWN, SAID, A, B, Bench, FakeLink, running

MARKS = ConnectionsConfig(low_water=2, high_water=3, max=10, grace_period=1000)


def peer(number: int) -> str:
    return f"12D3KooWpeer{number}"


def bring(bench: Bench, *numbers: int, busy: bool = False) -> list[FakeLink]:
    links = [FakeLink(peer(number), f"/ip4/10.0.0.{number}/tcp/1/p2p/{peer(number)}", "inbound") for number in numbers]
    for link in links:
        link.streams = (object(),) if busy else ()
        bench.host.bring_up(link)
    return links


def left(bench: Bench) -> set[str]:
    return {link.peer_id for link in bench.host.up}


# --------------------------------------------------------------------------------------------------------------------
# Trimming


async def test_trimming_takes_the_youngest_idle_ones_down_to_low_water(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, limits=MARKS) as bench:
        for number in (1, 2, 3):
            bring(bench, number)
            await bench.settle(2)
        bring(bench, 4, busy=True)
        await bench.settle(1.001)
        assert left(bench) == {peer(1), peer(4)}, "3 and 2 were idle and the youngest"
        reasons = {data["peerId"]: data["reason"] for kind, data in bench.told if kind == "peer:disconnect"}
        assert reasons == {peer(2): "trimmed", peer(3): "trimmed"}
        assert bench.counters.closed == {"trimmed": 2}


async def test_trimming_waits_for_the_grace_period(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, limits=MARKS) as bench:
        bring(bench, 1, 2, 3, 4)
        await bench.settle(0.999)
        assert len(left(bench)) == 4
        await bench.settle(0.002)
        assert len(left(bench)) == 2


async def test_trimming_spares_bootstrap_kept_and_protected_peers_and_then_high_tags(
    mock_clock: MockClock, book: Path
) -> None:
    async with running(mock_clock, book, A1, limits=MARKS) as bench:
        bench.dial().succeed(A)
        bench.commands.keep(B1)
        await bench.settle()
        bench.dial(B1).succeed(B)
        bench.book.protect(peer(1))
        bench.book.tag(peer(2), "useful", 5)
        bench.book.tag(peer(3), "useful", 1)
        bring(bench, 1, 2, 3)
        await bench.settle(1.001)
        assert left(bench) == {A, B, peer(1)}
        bench.connections.set_limits(ConnectionsConfig(low_water=4, high_water=4, max=10, grace_period=0))
        bring(bench, 2, 3)
        await bench.settle(0.001)
        assert left(bench) == {A, B, peer(1), peer(2)}


async def test_trimming_counts_what_a_relay_of_ours_makes_of_a_peer(mock_clock: MockClock, book: Path) -> None:
    places = Places(reservations=1, circuits=1)
    places.reserve(peer(4), "192.0.2.1", time.time())
    async with running(mock_clock, book, limits=MARKS, worth=partial(worth, places)) as bench:
        for number in (1, 2, 3, 4):
            bring(bench, number)
            await bench.settle(2)
        assert left(bench) == {peer(1), peer(4)}, "the youngest has a reservation"


async def test_at_the_high_watermark_nobody_is_trimmed(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, limits=MARKS) as bench:
        bring(bench, 1, 2, 3)
        await bench.settle(100)
        assert len(left(bench)) == 3


# --------------------------------------------------------------------------------------------------------------------
# Bans


async def test_a_ban_ends_connections_and_keeps_the_peer_out(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        for link in (FakeLink(A, A1), FakeLink(A, A2), FakeLink(B, B1)):
            bench.host.bring_up(link)
        assert bench.connections.refusal(None, A) is None
        result = bench.commands.ban(A, None, "spam")
        await bench.settle()
        assert result.closed == 2
        assert left(bench) == {B}
        assert bench.connections.refusal(None, A) == f"{A} is banned for good: spam"
        assert [ban.target for ban in bench.commands.bans()] == [A]
        assert bench.commands.unban(A).unbanned
        assert not bench.commands.unban(A).unbanned
        assert bench.connections.refusal(None, A) is None


async def test_a_network_is_banned_by_address(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book) as bench:
        bring(bench, 1, 2)
        assert bench.commands.ban("10.0.0.0/31", None, None).closed == 1
        await bench.settle()
        assert left(bench) == {peer(2)}
        assert bench.connections.refusal("10.0.0.1", None) is not None
        assert bench.connections.refusal("10.0.0.2", None) is None
        assert bench.commands.ban("10.0.0.2", None, None).ban.target == "10.0.0.2/32"
        assert bench.connections.refusal("10.0.0.2", None) is not None
        assert bench.commands.ban("fd00::/8", None, None).closed == 0
        assert bench.connections.refusal("fd00::1", None) is not None


def test_a_ban_ends_with_its_time() -> None:
    now = 1000.0
    known = bans.Bans(clock=lambda: now)
    known.add(A, 5000, "for a while")
    assert str(known.of_peer(A)) == f"{A} is banned until 1970-01-01 00:16:45 UTC: for a while"
    now = 1004.999
    assert known.of_peer(A)
    now = 1005.0
    assert known.of_peer(A) is None
    assert known.all() == []


def test_bans_are_bounded_and_the_one_that_ends_first_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bans, "MAX_BANS", 3)
    known = bans.Bans(clock=lambda: 0.0)
    known.add("10.0.0.1/32", None, None)
    known.add("10.0.0.2/32", 1000, None)
    known.add("10.0.0.3/32", 2000, None)
    known.add("10.0.0.4/32", 3000, None)
    assert [ban.target for ban in known.all()] == ["10.0.0.1/32", "10.0.0.3/32", "10.0.0.4/32"]
    assert known.of_ip("10.0.0.2") is None


@pytest.mark.parametrize("target", ["", "nobody", "300.0.0.1", "10.0.0.0/40", A1])
async def test_what_cannot_be_banned(mock_clock: MockClock, book: Path, target: str) -> None:
    async with running(mock_clock, book) as bench:
        with pytest.raises(InvalidParams, match=r"^target: "):
            bench.commands.ban(target, None, None)
        with pytest.raises(InvalidParams, match=r"^duration: "):
            bench.commands.ban(A, 0, None)
        with pytest.raises(InvalidParams, match="this node itself"):
            bench.commands.ban(OWN, None, None)


# --------------------------------------------------------------------------------------------------------------------
# Kept peers, tags, and what survives


async def test_a_kept_peer_is_dialled_like_a_bootstrap_node_until_it_is_forgotten(
    mock_clock: MockClock, book: Path
) -> None:
    async with running(mock_clock, book, retry_delay=100) as bench:
        bench.commands.keep(A1)
        bench.commands.keep(A1)
        await bench.settle()
        assert [dial.address for dial in bench.host.dials] == [A1]
        bench.dial().fail()
        await bench.settle(0.101)
        assert len(bench.host.dials) == 2
        assert bench.commands.forget(A).addresses == [A1]
        await bench.settle(1000)
        assert bench.dial().cancelled
        assert len(bench.host.dials) == 2
        assert bench.commands.forget(A1).addresses == []
        assert bench.connections.cycles() == []


async def test_what_is_kept_and_forgotten_while_the_node_is_being_started_counts(
    mock_clock: MockClock, book: Path
) -> None:
    """Connections stand before the host does, and are in nobody's reach until it does."""
    bench = Bench(mock_clock, book)
    bench.commands.keep(B1)
    bench.commands.detach()
    bench.commands.keep(A1)
    bench.commands.forget(B1)
    bench.commands.attach(bench.connections)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.connections.run, cast(Host, bench.host))
        await bench.settle()
        assert [dial.address for dial in bench.host.dials] == [A1]
        nursery.cancel_scope.cancel()


async def test_an_address_that_is_forgotten_and_kept_while_it_is_dialled_is_dialled_anew(
    mock_clock: MockClock, book: Path
) -> None:
    async with running(mock_clock, book, retry_delay=100) as bench:
        bench.commands.keep(A1)
        await bench.settle()
        first = bench.dial()
        bench.news()
        for _ in range(3):  # all before the dial has had its turn
            bench.commands.forget(A1)
            bench.commands.keep(A1)
        await bench.settle()
        assert first.cancelled
        assert len(bench.host.dials) == 2
        second = bench.dial()
        assert bench.news() == []
        # What the first brings in its last moment is not the second's
        bench.commands.forget(A1)
        second.fail("refused in the very moment")
        bench.commands.keep(A1)
        await bench.settle()
        assert len(bench.host.dials) == 3
        assert bench.news() == []
        bench.dial().fail()
        await bench.settle(0.101)
        assert [what for what, _ in bench.news()] == ["error", "connection:retry"]
        bench.dial().succeed(A)
        await bench.settle()
        assert [cycle.phase for cycle in bench.connections.cycles()] == ["connected"]


async def test_a_bootstrap_node_cannot_be_forgotten_only_its_keeping_can(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1) as bench:
        bench.commands.keep(A1)
        assert bench.commands.forget(A1).addresses == [A1]
        assert [cycle.address for cycle in bench.connections.cycles()] == [A1]


async def test_a_leased_address_is_kept_until_the_last_holder_is_gone(mock_clock: MockClock, book: Path) -> None:
    one, other = object(), object()
    async with running(mock_clock, book, retry_delay=100) as bench:
        for holder in (one, one, other):
            assert bench.commands.keep(A1, holder).lease == "connection"
        await bench.settle()
        assert [dial.address for dial in bench.host.dials] == [A1]
        bench.commands.end_leases(one)
        bench.commands.end_leases(one)
        assert bench.commands.forget(A1).addresses == []  # another's lease is not whoever's to end
        assert [cycle.address for cycle in bench.connections.cycles()] == [A1]
        assert bench.commands.forget(A1, other).addresses == [A1]
        assert bench.connections.cycles() == []
        bench.commands.keep(A1, one)
        bench.commands.keep(A1)  # for good, too
        bench.commands.end_leases(one)
        assert [cycle.address for cycle in bench.connections.cycles()] == [A1]
        bench.commands.keep(A1, one)
        assert bench.commands.forget(A).addresses == [A1]
        assert [cycle.address for cycle in bench.connections.cycles()] == [A1]
        bench.commands.end_leases(one)
        assert bench.connections.cycles() == []


def test_a_lease_does_not_survive_and_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    first, holder = Book(path), object()
    orders = commands.Commands(OWN, first, History())
    orders.keep(A1, holder)
    first.seen(A, [])
    first.save()
    again = Book(path)
    again.load()
    assert (first.kept, again.kept) == ([A1], [])
    orders.keep(A1)
    for number in range(book.MAX_KEPT - 1):
        orders.keep(f"/ip4/10.0.{number // 256}.{number % 256}/tcp/1/p2p/{A}", holder)
    with pytest.raises(LimitExceeded):
        orders.keep(f"/ip4/10.1.0.0/tcp/1/p2p/{A}", holder)
    orders.end_leases(holder)
    assert first.kept == [A1]


def test_kept_peers_and_bans_survive(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    first = Book(path)
    orders = commands.Commands(OWN, first, History())
    orders.keep(A1)
    orders.ban(B, None, "spam")
    orders.ban("10.0.0.0/8", 3600_000, None)
    first.seen(A, [A1])
    first.save()
    second = Book(path)
    second.load()
    assert second.kept == [A1]
    assert [ban.target for ban in second.bans.all()] == [B, "10.0.0.0/8"]
    assert second.bans.of_ip("10.1.2.3")
    assert second.addresses(A) == [A1]


def test_bounds_of_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_KEPT", "MAX_TAGGED", "MAX_TAGS"):
        monkeypatch.setattr(book, name, 1)
    orders = commands.Commands(OWN, Book(tmp_path / "peers.json"), History())
    orders.keep(A1)
    orders.tag(A, "one", 1)
    orders.protect(A)
    for call in (
        lambda: orders.keep(A2),
        lambda: orders.tag(A, "two", 2),
        lambda: orders.tag(B, "one", 1),
        lambda: orders.protect(B),
    ):
        with pytest.raises(LimitExceeded, match="no more than 1 "):
            call()
    assert orders.tag(A, "one", 3).tags == {"one": 3}
    assert orders.untag(A, "one").to_dict() == {"peerId": A, "tags": {}, "protected": True}
    assert orders.unprotect(A).protected is False


# --------------------------------------------------------------------------------------------------------------------
# Dials that are joined, and a clock that jumps


async def test_connect_joins_the_dial_of_a_cycle(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1) as bench, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def call() -> None:
            assert (await bench.commands.connect(A1, None)).already_connected is False
            ended.set()

        nursery.start_soon(call)
        await bench.settle()
        assert len(bench.host.dials) == 1
        bench.dial().succeed(A)
        await bench.settle()
        assert ended.is_set()


async def test_a_direct_address_is_dialled_though_a_relay_connects_already(mock_clock: MockClock, book: Path) -> None:
    relayed = f"/ip4/192.0.2.9/tcp/1/p2p/{B}/p2p-circuit/p2p/{A}"
    async with running(mock_clock, book) as bench, trio.open_nursery() as nursery:
        bench.connections.connected(FakeLink(A, relayed))  # type: ignore[arg-type]
        assert (await bench.commands.connect(A, None)).address == relayed
        assert (await bench.commands.connect(relayed, None)).already_connected
        nursery.start_soon(bench.commands.connect, A1, None)
        await bench.settle()
        assert [dial.address for dial in bench.host.dials] == [A1]
        bench.dial().succeed(A)
        await bench.settle()
        assert (await bench.commands.connect(A, None)).address == A1


async def test_a_joined_dial_that_fails_fails_for_all_and_counts_once(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, max_retries=0) as bench, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(DialFailed, match="no route"):
                await bench.commands.connect(A1, None)

        for _ in range(3):
            nursery.start_soon(call)
        await bench.settle()
        bench.dial().fail("no route to host")
        await bench.settle()
        assert len(bench.host.dials) == 1
        assert bench.counters.failed_connections == 1


async def test_after_a_clock_jump_links_are_checked_and_cycles_begin_afresh(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, B1, max_retries=0, keepalive_interval=10**9) as bench:
        bench.dial(A1).fail()
        link = bench.dial(B1).succeed(B)
        await bench.settle(6)
        assert (len(bench.host.dials), link.checked) == (2, 0)
        bench.wall_ahead = 9.0  # a clock that is set is no sleep
        await bench.settle(6)
        assert (len(bench.host.dials), link.checked) == (2, 0)
        bench.wall_ahead = 3600.0
        await bench.settle(6)
        assert link.checked == 1
        assert [dial.address for dial in bench.host.dials[2:]] == [A1]
        bench.wall_ahead = 0.0  # and back
        bench.dial().fail()
        await bench.settle(6)
        assert link.checked == 2
        assert len(bench.host.dials) == 4


# --------------------------------------------------------------------------------------------------------------------
# Explanations


async def test_explain_says_why_not(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, max_retries=1, retry_delay=60000, keepalive_interval=0) as bench:

        def why(target: str) -> str:
            return bench.commands.explain(target, "started").summary.removeprefix("not connected: ")

        assert why(OWN) == "that is this node itself"
        assert why(B) == "nothing is known of it"
        assert why(A) == "a dial is under way, number 1 of its cycle"
        bench.dial().fail()
        await bench.settle()
        assert why(A).startswith("dial 2 of its cycle follows at ")
        assert why(A1).endswith("; the last dial failed: connection refused")
        bench.commands.ban(A, None, "spam")
        assert why(A) == f"{A} is banned for good: spam"
        bench.commands.unban(A)
        await bench.settle(61)
        bench.dial().fail("timed out")
        await bench.settle()
        assert why(A) == "it is not dialled again; the last dial failed: timed out"
        link = FakeLink(B, B1, "inbound")
        bench.host.bring_up(link)
        bench.host.identify(link, SAID)
        told = bench.commands.explain(B, "started")
        assert told.connected
        assert told.summary.startswith("connected, inbound, since 2023-11-14 22:13:20 UTC at /ip4/3.3.3.3")
        bench.host.lose(link, "reset")
        assert "(reset); no reconnect is scheduled" in why(B)
        story = [(entry.what, entry.detail) for entry in bench.commands.explain(B, "started").timeline]
        assert story == [("connected", "inbound"), ("identified", "agent/1"), ("disconnected", "reset")]


async def test_explain_shows_addresses_with_their_sources(mock_clock: MockClock, book: Path) -> None:
    async with running(mock_clock, book, A1, retry_delay=1000) as bench:
        bench.dial().fail()
        bench.book.seen(A, [f"/ip4/9.9.9.9/tcp/9/p2p/{A}"])
        bench.commands.keep(A2)
        await bench.settle()
        told = bench.commands.explain(A, "started")
        assert (told.bootstrap, told.kept, told.protected, told.connected) == (True, True, False, False)
        assert [(one.address, one.source, one.state) for one in told.addresses] == [
            (A1, "bootstrap", "waiting"),
            (A2, "kept", "dialling"),
            (f"/ip4/9.9.9.9/tcp/9/p2p/{A}", "known", None),
        ]
        assert [one.last_error for one in told.addresses] == ["connection refused", None, None]


def test_explain_while_the_node_is_stopped(tmp_path: Path) -> None:
    known = Book(tmp_path / "peers.json")
    told = commands.Commands(OWN, known, History()).explain(A, "stopped")
    assert told.summary == "not connected: the node is stopped"


async def test_an_undecodable_bootstrap_node_is_explained_by_its_text(mock_clock: MockClock, book: Path) -> None:
    broken = "/ip4/1.1.1.1/tcp/1/p2p/Qm-broken"
    async with running(mock_clock, book, broken, max_retries=0, keepalive_interval=0) as bench:
        bench.dial().fail('the peer id "Qm-broken" cannot be decoded')
        await bench.settle()
        told = bench.commands.explain(broken, "started")
        assert told.peer_id is None
        assert told.summary.endswith('the last dial failed: the peer id "Qm-broken" cannot be decoded')
        assert [entry.what for entry in told.timeline] == ["dial_failed", "gave_up"]


def test_timelines_are_bounded() -> None:
    history = History(clock=lambda: 0.0)
    for number in range(100):
        history.note("busy", "dial_failed", detail=str(number))
    assert [entry.detail for entry in history.of("busy")] == [str(number) for number in range(36, 100)]
    for number in range(1000):
        history.note(f"peer {number}", "connected")
    assert history.bounds()["timelines"] == (1000, 1000)
    assert history.of("busy") == []
