"""When the DHT does something by itself: keep its table alive, look after what is announced, answer others or not."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from fabstird.p2p.dht.holders import AGAIN, AT_A_TIME, ENOUGH, PROBE, RETRY, Holders, Job
from fabstird.p2p.dht.mode import Signs, decide
from fabstird.p2p.dht.routing import BITS, K, RoutingTable, position
from fabstird.p2p.dht.upkeep import CHECKS, EAGER, REFRESH, REVIEW, SETTLE, SILENT, SUSPECT, Upkeep

OWN = b"\x12\x20" + bytes(32)
PEERS = [b"\x12\x20" + number.to_bytes(32, "big") for number in range(1, 400)]
RECORD = (False, b"k")


def table_of(count: int) -> RoutingTable:
    table = RoutingTable(OWN)
    for peer in PEERS:
        if len(table) < count:
            table.add(peer, 0)
    return table


# --------------------------------------------------------------------------------------------------------------------
# The table


def test_a_newcomer_is_asked_for_others_soon_and_not_too_often() -> None:
    table = RoutingTable(OWN)
    upkeep = Upkeep(table, 0, Random(1))
    assert upkeep.plan(0).walks == ()
    table.add(PEERS[0], 1)
    upkeep.arrived(1)
    plan = upkeep.plan(1)
    assert (plan.walks, plan.wake_at) == ((), 1 + SETTLE)
    assert upkeep.plan(1 + SETTLE).walks == (OWN,)
    table.add(PEERS[1], 2)
    upkeep.arrived(2)
    assert upkeep.plan(2 + SETTLE).wake_at == 1 + SETTLE + EAGER
    for peer in PEERS[2:100]:
        table.add(peer, 3)
    assert len(table) > K
    while upkeep.plan(100).walks:
        pass
    upkeep.arrived(101)
    assert upkeep.plan(101 + EAGER).walks == (), "who knows many waits for the regular turn"


def test_who_knows_few_looks_again_ever_less_often() -> None:
    """Whoever comes to its only neighbour after it has asked is not missed for ten minutes."""
    table = table_of(1)
    upkeep = Upkeep(table, 0, Random(1))
    upkeep.arrived(0)
    now, walks = SETTLE, []
    while now < 500:
        plan = upkeep.plan(now)
        walks += [now] * len(plan.walks)
        now = plan.wake_at
    pauses = [later - earlier for earlier, later in pairwise(walks)]
    assert pauses == [EAGER, 2 * EAGER, 4 * EAGER, 8 * EAGER, 16 * EAGER, 32 * EAGER]


def test_every_ten_minutes_we_look_up_ourselves_and_our_buckets_in_turn() -> None:
    table = table_of(60)
    upkeep = Upkeep(table, 0, Random(1))
    seen = set()
    for round_ in range(1, 6):
        walks = upkeep.plan(round_ * 1.1 * REFRESH).walks
        assert walks[0] == OWN
        seen |= {BITS - (position(key) ^ position(OWN)).bit_length() for key in walks[1:]}
    assert seen == {0, 1, 2}


def test_who_is_suspect_or_long_silent_is_asked_a_few_at_a_time() -> None:
    table = table_of(60)
    upkeep = Upkeep(table, 0, Random(1))
    assert upkeep.plan(1.1 * REVIEW).checks == ()
    table.failed(table.peers()[5], 100)
    assert upkeep.plan(100 + SUSPECT - 1 + 1.1 * REVIEW).checks == (table.peers()[5],)
    silent = upkeep.plan(SILENT + 2 * REVIEW).checks
    assert len(silent) == CHECKS
    assert silent[0] == table.peers()[5]


# --------------------------------------------------------------------------------------------------------------------
# What is announced


def held(count: int) -> dict[bytes, bool]:
    return dict.fromkeys(PEERS[:count], True)


def test_a_record_is_told_then_its_holders_are_asked_each_hour() -> None:
    holders = Holders(Random(1))
    assert holders.due([(RECORD, 0)], wall=AGAIN, now=0) == [Job(RECORD)]
    holders.told(RECORD, 0, held(20))
    assert holders.due([(RECORD, 1000)], wall=1000, now=PROBE * 0.79) == []
    assert holders.due([(RECORD, 1000)], wall=1000 + PROBE, now=PROBE) == [Job(RECORD, tuple(PEERS[:20]))]
    assert holders.probed(RECORD, PROBE, held(ENOUGH))
    assert holders.due([(RECORD, 1000)], wall=1000 + PROBE, now=PROBE) == []
    assert holders.due([(RECORD, 1000)], wall=9000, now=2 * PROBE) == [Job(RECORD, tuple(PEERS[:ENOUGH]))]
    assert not holders.probed(RECORD, 2 * PROBE, held(ENOUGH - 1)), "too few hold it: tell others"


def test_after_twelve_hours_it_is_told_again_whoever_holds_it() -> None:
    holders = Holders(Random(1))
    holders.told(RECORD, 0, held(20))
    assert holders.due([(RECORD, 0)], wall=AGAIN, now=AGAIN) == [Job(RECORD)]
    assert holders.due([(RECORD, 10 * AGAIN)], wall=AGAIN, now=AGAIN) == [Job(RECORD)], "the clock was set back"


def test_who_was_never_seen_to_have_it_counts_while_it_answers() -> None:
    """rust-libp2p does not name whoever asks."""
    holders = Holders(Random(1))
    holders.told(RECORD, 0, dict.fromkeys(PEERS[:20], False))
    assert holders.probed(RECORD, PROBE, dict.fromkeys(PEERS[:ENOUGH], False))
    holders.told(RECORD, 0, held(20))
    assert not holders.probed(RECORD, PROBE, dict.fromkeys(PEERS[:20], False)), "these have forgotten it"


def test_what_nobody_took_is_tried_again_ever_more_seldom() -> None:
    holders = Holders(Random(1))
    now = 0.0
    pauses = []
    for _ in range(8):
        holders.told(RECORD, now, {})
        due = next(t for t in range(int(now), int(now) + 4000) if holders.due([(RECORD, 0)], wall=10, now=t))
        pauses.append(due - now)
        now = due
    assert RETRY * 0.8 <= pauses[0] <= RETRY + 1
    assert pauses[2] > 2 * pauses[0]
    assert pauses[-1] <= 3601


def test_after_a_restart_what_was_told_within_the_hour_waits() -> None:
    holders = Holders(Random(1))
    records = [((False, b"%d" % number), 1000.0 * number) for number in range(1, 9)]
    due = holders.due(records, wall=8000, now=5)
    assert due == [Job(name) for name, announced in records if announced <= 8000 - PROBE]
    assert AT_A_TIME == 8
    holders.forget(RECORD)


# --------------------------------------------------------------------------------------------------------------------
# The mode


@pytest.mark.parametrize(
    ("signs", "from_client", "from_server"),
    [
        (Signs(False, None), "client", "server"),
        (Signs(False, None, sign=True), "server", "server"),
        (Signs(False, True), "server", "server"),
        (Signs(False, False), "client", "client"),
        (Signs(False, False, sign=True), "client", "client"),
        (Signs(True, False), "server", "server"),
        (Signs(True, None), "server", "server"),
    ],
)
def test_who_answers_others(signs: Signs, from_client: str, from_server: str) -> None:
    assert decide("client", signs) == from_client
    assert decide("server", signs) == from_server
