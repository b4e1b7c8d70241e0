"""Whom to dial and when: the cycles of bootstrap nodes, decided without a clock and without a network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.peers import policy
from fabstird.p2p.peers.policy import (
    FOREVER,
    NEVER,
    Cycle,
    GaveUp,
    Retry,
    Settings,
    begin_dial,
    cut_off,
    dial_failed,
    peer_connected,
    peer_left,
    plan,
    rest,
)

PEER = "12D3KooWPeer"
OTHER = "12D3KooWOther"
DEFAULTS = Settings(max_retries=3, retry_delay=1000, keepalive=300)

numbers = st.integers(0, 40)
settings = st.builds(
    Settings, max_retries=numbers, retry_delay=st.integers(0, 10**6), keepalive=st.sampled_from([0.5, 300.0, NEVER])
)


def fail_through(cycle: Cycle, now: float, settings: Settings) -> tuple[Cycle, list[tuple[float, Retry | GaveUp]]]:
    """The whole cycle where every dial fails at once, each begun when it is due; outcomes with their instants."""
    outcomes: list[tuple[float, Retry | GaveUp]] = []
    while True:
        cycle, outcome = dial_failed(begin_dial(cycle), now, settings)
        outcomes.append((now, outcome))
        if isinstance(outcome, GaveUp):
            return cycle, outcomes
        now = cycle.due


def test_a_new_address_is_due_at_once() -> None:
    assert plan(0.0, [Cycle("a", PEER)], ()).dial == ("a",)


def test_a_cycle_with_the_contracts_defaults() -> None:
    cycle, outcomes = fail_through(Cycle("a", PEER), 10.0, DEFAULTS)
    assert outcomes == [
        (10.0, Retry(attempt=1, delay=1000, first=True)),
        (11.0, Retry(attempt=2, delay=2000, first=False)),
        (13.0, Retry(attempt=3, delay=4000, first=False)),
        (17.0, GaveUp(attempts=4, first=False)),
    ]
    assert (cycle.phase, cycle.due) == ("resting", 317.0)


def test_without_retries_the_first_failure_is_the_last() -> None:
    cycle, outcomes = fail_through(Cycle("a", PEER), 0.0, replace(DEFAULTS, max_retries=0))
    assert outcomes == [(0.0, GaveUp(attempts=1, first=True))]
    assert cycle.due == 300.0


def test_a_delay_of_zero_is_zero_every_time() -> None:
    _, outcomes = fail_through(Cycle("a", PEER), 5.0, replace(DEFAULTS, retry_delay=0))
    assert [outcome.delay for _, outcome in outcomes if isinstance(outcome, Retry)] == [0, 0, 0]
    assert {at for at, _ in outcomes} == {5.0}


def test_with_no_keepalive_a_failed_cycle_never_begins_again() -> None:
    cycle, _ = fail_through(Cycle("a", PEER), 0.0, replace(DEFAULTS, keepalive=NEVER))
    later = plan(10.0**12, [cycle], ())
    assert later.dial == ()
    assert later.wake_at == NEVER


def test_a_new_cycle_after_the_keepalive_counts_from_one() -> None:
    cycle, _ = fail_through(Cycle("a", PEER), 0.0, DEFAULTS)
    assert plan(cycle.due - 0.001, [cycle], ()) == plan(0.0, [cycle], ())
    assert plan(cycle.due, [cycle], ()).dial == ("a",)
    _, again = fail_through(cycle, cycle.due, DEFAULTS)
    assert [outcome for _, outcome in again] == [
        Retry(1, 1000, first=True),
        Retry(2, 2000, first=False),
        Retry(3, 4000, first=False),
        GaveUp(4, first=False),
    ]


def test_nothing_is_dialled_whose_peer_is_connected_another_way() -> None:
    due, waiting = Cycle("a", PEER), Cycle("b", PEER, "waiting", attempts=2, due=5.0)
    found = plan(100.0, [due, waiting], {PEER})
    assert (found.dial, found.drop, found.wake_at) == ((), (), NEVER)


def test_a_dial_is_dropped_when_its_peer_is_connected_another_way() -> None:
    dialling = begin_dial(Cycle("a", PEER))
    assert plan(0.0, [dialling], {OTHER}).drop == ()
    assert plan(0.0, [dialling], {OTHER, PEER}).drop == ("a",)


def test_an_address_whose_peer_is_not_known_is_dialled_whoever_is_connected() -> None:
    assert plan(0.0, [Cycle("/dnsaddr/example.org", None)], {PEER, OTHER}).dial == ("/dnsaddr/example.org",)


def test_a_connected_peer_is_remembered_and_left_alone() -> None:
    cycle = peer_connected(begin_dial(Cycle("/dnsaddr/example.org", None)), PEER)
    assert (cycle.peer_id, cycle.phase, cycle.attempts) == (PEER, "connected", 0)
    for connected in ((), (PEER,)):
        found = plan(10.0**12, [cycle], connected)
        assert (found.dial, found.drop, found.wake_at) == ((), (), NEVER)


def test_a_peer_that_leaves_by_itself_is_tried_again_after_the_retry_delay() -> None:
    cycle = peer_left(peer_connected(Cycle("a", PEER), PEER), 50.0, DEFAULTS, asked=False)
    assert plan(50.0, [cycle], ()).wake_at == 51.0
    assert begin_dial(cycle).attempts == 1


def test_a_peer_that_was_disconnected_on_request_is_tried_again_after_the_keepalive() -> None:
    cycle = peer_left(peer_connected(Cycle("a", PEER), PEER), 50.0, DEFAULTS, asked=True)
    assert plan(50.0, [cycle], ()).wake_at == 350.0
    never = peer_left(cycle, 50.0, replace(DEFAULTS, keepalive=NEVER), asked=True)
    assert plan(10.0**12, [never], ()).dial == ()


def test_a_stop_cuts_off_dials_and_the_waits_between_them_and_nothing_else() -> None:
    cycles = {
        "due": Cycle("due", PEER),
        "dialling": begin_dial(Cycle("dialling", PEER)),
        "waiting": dial_failed(begin_dial(Cycle("waiting", PEER)), 0.0, DEFAULTS)[0],
        "resting": rest(Cycle("resting", PEER), 0.0, 300.0),
        "connected": peer_connected(Cycle("connected", PEER), PEER),
    }
    assert {name: cycle.phase for name, cycle in cycles.items()} == {name: name for name in cycles}
    assert [(cycle.address, cycle.attempts) for cycle in cut_off(cycles.values())] == [("dialling", 1), ("waiting", 1)]


@pytest.mark.parametrize("attempts", [60, 2000, 10**6])
def test_a_huge_number_of_retries_neither_overflows_nor_comes_round_early(attempts: int) -> None:
    tried = Cycle("a", PEER, "dialling", attempts=attempts)
    cycle, outcome = dial_failed(tried, 7.0, Settings(max_retries=10**9, retry_delay=1000, keepalive=1.0))
    assert isinstance(outcome, Retry)
    assert outcome.delay == 1000 * 2 ** (attempts - 1)
    assert cycle.due == 7.0 + FOREVER
    at_once, _ = dial_failed(tried, 7.0, Settings(max_retries=10**9, retry_delay=0, keepalive=1.0))
    assert at_once.due == 7.0


@given(settings, st.floats(0, 10**6))
def test_every_failing_cycle_has_the_contracts_counts_and_delays(settings: Settings, now: float) -> None:
    cycle, outcomes = fail_through(Cycle("a", PEER), now, settings)
    retries = [outcome for _, outcome in outcomes if isinstance(outcome, Retry)]
    assert [retry.attempt for retry in retries] == list(range(1, settings.max_retries + 1))
    assert [retry.delay for retry in retries] == [settings.retry_delay * 2**n for n in range(settings.max_retries)]
    assert outcomes[-1][1] == GaveUp(settings.max_retries + 1, first=settings.max_retries == 0)
    assert [outcome.first for _, outcome in outcomes].count(True) == 1
    assert outcomes[0][1].first
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(outcomes))
    assert cycle.due == outcomes[-1][0] + settings.keepalive


Step = Literal["time", "dial", "fail", "up", "leave", "disconnect"]
steps = st.lists(
    st.tuples(st.sampled_from(["time", "dial", "fail", "up", "leave", "disconnect"]), st.sampled_from("abc")),
    max_size=60,
)


@given(settings, steps)
def test_whatever_happens_the_plan_stays_within_its_rules(settings: Settings, story: list[tuple[Step, str]]) -> None:
    """Two addresses of one peer and one of another, and any order of what can happen to them."""
    cycles = {"a": Cycle("a", PEER), "b": Cycle("b", PEER), "c": Cycle("c", OTHER)}
    connected: set[str] = set()
    now = 0.0
    for step, name in story:
        cycle = cycles[name]
        assert cycle.peer_id is not None
        if step == "time":
            now += 1.0
        elif step == "dial":
            for address in plan(now, cycles.values(), connected).dial:
                cycles[address] = begin_dial(cycles[address])
        elif step == "fail" and cycle.phase == "dialling":
            cycles[name], _ = dial_failed(cycle, now, settings)
        elif step == "up":
            connected.add(cycle.peer_id)
            for other, each in cycles.items():
                if each.peer_id == cycle.peer_id:
                    cycles[other] = peer_connected(each, cycle.peer_id)
        elif step in ("leave", "disconnect") and cycle.peer_id in connected:
            connected.remove(cycle.peer_id)
            for other, each in cycles.items():
                if each.peer_id == cycle.peer_id:
                    cycles[other] = peer_left(each, now, settings, asked=step == "disconnect")

        found = plan(now, cycles.values(), connected)
        assert not set(found.dial) & set(found.drop)
        assert found.wake_at > now
        for address in found.dial:
            assert cycles[address].phase not in ("dialling", "connected")
            assert cycles[address].peer_id not in connected
            assert cycles[address].due <= now
        for address in found.drop:
            assert cycles[address].phase == "dialling"
        for each in cycles.values():
            assert 0 <= each.attempts <= settings.max_retries + 1
            assert (each.attempts > 0) == (each.phase in ("dialling", "waiting"))
            assert not math.isnan(each.due)
        # Everything that is not under way is either due, or has an instant at which it is looked at again
        idle = {each.address for each in cycles.values() if each.phase in ("due", "waiting", "resting")}
        later = {a for a in idle if cycles[a].peer_id not in connected} - set(found.dial)
        assert found.wake_at == min((cycles[address].due for address in later), default=NEVER)


def test_trimming_keeps_the_quick_the_old_and_the_diverse() -> None:
    def standing(number: int, latency: float, neighbourhood: str) -> policy.Standing:
        return policy.Standing(
            peer_id=str(number),
            links=1,
            opened=float(number),
            value=0,
            idle=True,
            spared=False,
            latency=latency,
            neighbourhood=neighbourhood,
        )

    crowd = [standing(number, 50.0, "10.0.0.0/16") for number in range(100)]
    quick = [standing(100 + number, 1.0, "10.0.0.0/16") for number in range(4)]
    diverse = [standing(200 + number, 500.0, f"10.{number + 1}.0.0/16") for number in range(3)]
    watermarks = policy.Watermarks(low=32, high=64, grace=0)
    plan = policy.plan(1000, [], [], total=107, standings=[*crowd, *quick, *diverse], watermarks=watermarks)
    assert len(plan.close) == 107 - 32
    kept = {peer.peer_id for peer in (*crowd, *quick, *diverse)} - set(plan.close)
    assert {peer.peer_id for peer in (*quick, *diverse, *crowd[:4])} <= kept
