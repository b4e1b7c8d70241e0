"""Long texts that are arriving: all callers share the places, and an incomplete text loses its place to others."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import trio
import trio.testing

from fabstird.rpc.arriving import LONG, PATIENCE, SHORT, Arriving, Room

Clock = trio.testing.MockClock
LONGEST = LONG // 4  # so that there are four places


async def begun(room: Room, caller: str) -> Arriving:
    one = Arriving(room, caller)
    assert await one.received(SHORT + 1)
    await trio.sleep(0.1)
    return one


async def test_a_short_text_needs_no_place_and_a_long_one_has_one_of_its_own(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    short = Arriving(room, "us")
    assert not await short.received(SHORT)
    long = await begun(room, "us")
    assert not await long.received(2 * SHORT), "it has it"
    assert (len(room), room.count) == (1, 4)
    long.leave()
    long.leave()
    short.leave()
    assert len(room) == 0


async def test_who_waits_is_let_in_as_soon_as_there_is_a_place(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    held = [await begun(room, "us") for _ in range(4)]
    at: list[float] = []

    async def wait() -> None:
        await begun(room, "us")
        at.append(trio.current_time())

    now = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        held[2].leave()
    assert at[0] - now == pytest.approx(1.1)
    assert not any(one.refused for one in held)


async def test_halves_of_texts_lose_their_places_first_those_of_who_has_most(autojump_clock: Clock) -> None:
    """Sixteen of them kept everybody else waiting for half a minute, again and again."""
    room = Room(LONGEST)
    held = [await begun(room, caller) for caller in ("honest", "greedy", "greedy", "greedy")]

    def lost() -> list[Hashable]:
        return [one.caller for one in held if one.refused]

    now = trio.current_time()
    await trio.sleep(PATIENCE)
    await begun(room, "another")
    assert lost() == ["greedy"], "not the one that has taken longest: its caller has one place"
    assert trio.current_time() - now <= PATIENCE + 1
    await begun(room, "a third")
    assert lost() == ["greedy"] * 2
    await begun(room, "a fourth")
    assert lost() == ["honest", "greedy", "greedy"], "then each has one, and this has taken longest"


async def test_who_has_fewest_places_is_let_in_first(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    held = [await begun(room, "greedy") for _ in range(4)]
    order: list[str] = []

    async def wait(caller: str) -> None:
        await begun(room, caller)
        order.append(caller)

    async with trio.open_nursery() as nursery:
        for caller in ("greedy", "greedy", "other"):
            nursery.start_soon(wait, caller)
            await trio.sleep(0.1)
        held[0].leave()
        await trio.sleep(1)
        assert order == ["other"]
        for one in held[1:]:
            one.leave()
    assert order == ["other", "greedy", "greedy"]


async def test_what_has_come_whole_keeps_its_place_until_it_is_taken(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    held = [await begun(room, "us") for _ in range(4)]
    for one in held:
        one.complete = True
    with trio.move_on_after(10 * PATIENCE) as waited:
        await begun(room, "other")
    assert waited.cancelled_caught
    assert not any(one.refused for one in held)
    held[0].leave()
    await begun(room, "other")


async def test_who_gives_up_waiting_leaves_nothing_behind(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    held = [await begun(room, "us") for _ in range(4)]
    waiting = Arriving(room, "other")
    with trio.move_on_after(1):
        await waiting.received(SHORT + 1)
    waiting.leave()
    held[0].leave()
    assert len(room) == 3
    await begun(room, "third")


async def test_what_is_read_within_a_scope_ends_with_its_place_and_says_why(autojump_clock: Clock) -> None:
    room = Room(LONGEST)
    slow = await begun(room, "us")
    for _ in range(3):
        await begun(room, "us")
    assert slow.refusal() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(begun, room, "other")
        with slow.until(trio.current_time() + 100) as scope:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    refusal = slow.refusal()
    assert refusal is not None
    assert refusal.data == {"limit": 4, "current": 4, "configKey": "api.max_request_bytes"}
