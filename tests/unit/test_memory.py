"""What calls in flight hold, and what waits for callers that do not read: all of them together have a bound."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from fabstird.rpc.limits import Unsent
from fabstird.rpc.memory import FIRST, PATIENCE, Held, Memory

MIB = 1024 * 1024


def took(memory: Memory, caller: str, size: int) -> Held:
    held = memory.take(caller, size)
    assert held is not None
    return held


async def test_who_has_little_gets_room_from_who_has_much(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory(8 * MIB)
    calls = [took(memory, "greedy", MIB) for _ in range(8)]
    assert memory.take("greedy", MIB) is None
    assert memory.take("other", MIB) is None, "what has just begun may be answered in a moment"
    await trio.sleep(2 * PATIENCE)
    assert memory.take("greedy", MIB) is None
    others = [took(memory, "other", MIB) for _ in range(4)]
    assert [call.scope.cancel_called for call in calls] == [False] * 4 + [True] * 4, "the newest first"
    assert memory.take("other", MIB) is None, "it has its share"
    await trio.sleep(2 * PATIENCE)
    assert memory.take("third", 5 * MIB) is None, "it would have more than its share"
    took(memory, "third", 2 * MIB)
    for call in calls + others:
        call.leave()
        call.leave()
    assert memory.used == 2 * MIB


async def test_a_small_call_is_always_let_in() -> None:
    memory = Memory(MIB)
    took(memory, "greedy", MIB)
    small = took(memory, "other", FIRST)
    assert memory.take("other", FIRST) is None, "one of them"
    small.leave()
    took(memory, "other", FIRST)


async def test_who_waits_goes_on_as_soon_as_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory(MIB)
    first = took(memory, "one", MIB)
    got: list[float] = []

    async def wait() -> None:
        async with memory.holding("one", MIB):
            got.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.25)
        began = trio.current_time()
        first.leave()
    assert got == [pytest.approx(began)]
    assert memory.used == 0


async def test_answers_that_grow_too_large_cost_whoever_has_most_its_newest_call() -> None:
    memory = Memory(4 * MIB)
    calls = [took(memory, "greedy", MIB), took(memory, "other", MIB), took(memory, "greedy", MIB)]
    calls[1].grow(MIB - 1)
    assert not any(call.scope.cancel_called for call in calls)
    calls[1].grow(2)
    assert [call.scope.cancel_called for call in calls] == [False, True, False], "it has most"
    calls[1].grow(MIB)
    assert memory.used == 2 * MIB


async def test_whatever_comes_and_goes_the_bound_holds_and_the_account_is_right(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chance = random.Random(10)
    memory = Memory(64 * FIRST)
    held: list[Held] = []
    for _ in range(3000):
        await trio.sleep(chance.random() * PATIENCE)
        held = [one for one in held if not one.scope.cancel_called]
        caller = chance.choice("abcdefgh")
        what = chance.random()
        if what < 0.6 and (one := memory.take(caller, chance.randint(1, 8 * FIRST))) is not None:
            held.append(one)
        elif what < 0.8 and held:
            chance.choice(held).grow(chance.randint(1, 4 * FIRST))
        elif held:
            held.pop(chance.randrange(len(held))).leave()
        assert memory.used == sum(one.size for one in held if not one.scope.cancel_called)
        assert memory.used <= memory.most + 8 * FIRST
    for one in held:
        one.leave()
    assert memory.used == 0


class Slow:
    """A caller who does not read."""

    def __init__(self, unsent: Unsent) -> None:
        self.unsent = unsent
        self.waiting = 0
        self.closed = False

    def gets(self, size: int) -> None:
        self.waiting += size
        self.unsent.add(self, size)

    def reads(self, size: int) -> None:
        self.waiting -= size
        self.unsent.sent(self, size)

    def give_up(self, key: str, limit: float) -> None:
        self.closed = True
        self.reads(self.waiting)


def test_who_has_not_read_everything_for_longest_is_closed_first() -> None:
    unsent = Unsent(100)
    idle, early, late, quick = callers = [Slow(unsent) for _ in range(4)]
    idle.gets(1)
    quick.gets(50)
    early.gets(30)
    quick.reads(50)
    late.gets(40)
    quick.gets(30)
    assert [caller.closed for caller in callers] == [False, True, False, False], "the first has next to nothing"
    assert unsent.size == 71
    quick.gets(60)
    assert [caller.closed for caller in callers] == [False, True, True, False]
    for caller in callers:
        caller.reads(caller.waiting)
    assert unsent.size == 0
