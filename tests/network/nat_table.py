"""The hole-punch table: two daemons of ours behind each pair of NATs, tried again and again; needs root.

    python -m tests.network.nat_table [TRIES [tcp|quic-v1]]      # or: make nat-lab

One line for a pair: how often they became direct, how long after the relayed connection, or why they stay relayed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial

import trio

from tests.harness import Daemon
from tests.harness.waiting import asked_until
from tests.network.laboratory import Kind
from tests.network.test_hole_punching import LISTEN, QUIC, SOON, two_homes

WAYS = {"tcp": LISTEN, "quic-v1": QUIC}
PACE = 2.0  # seconds from try to try: more often a daemon does not dial one address on others' word
GOOD: list[tuple[Kind, Kind]] = [
    ("cone", "cone"),
    ("cone", "firewall"),
    ("firewall", "cone"),
    ("carrier", "cone"),
    ("cone", "rejecting"),
]
HARD: list[tuple[Kind, Kind]] = [
    ("rejecting", "rejecting"),
    ("symmetric", "firewall"),
    ("symmetric", "cone"),
    ("cone", "symmetric"),
    ("symmetric", "symmetric"),
]


async def once(caller: Daemon, called: Daemon, address: str) -> int | str:
    """Milliseconds until they are direct, or why they stay relayed."""
    await part(caller, called)  # either may have dialled the other for the DHT
    seen, before = len(caller.events), len(await reasons_of(called, caller))
    await caller.call("connect", address=address)

    async def outcome() -> int | str | None:
        paths = caller.found("peer:path", after=seen, peerId=called.peer_id)
        if paths:
            return int(paths[0]["data"]["took"])
        relayed = await reasons_of(called, caller)
        return relayed[before] if len(relayed) > before else None

    found = await asked_until(outcome, lambda value: value is not None, within=SOON)
    assert found is not None
    return found


async def reasons_of(daemon: Daemon, peer: Daemon) -> list[str]:
    """Why the peer has stayed relayed, each time."""
    timeline = (await daemon.call("peer.explain", target=peer.peer_id))["timeline"]
    return [str(entry["detail"]) for entry in timeline if entry["what"] == "stays_relayed"]


async def part(caller: Daemon, called: Daemon) -> None:
    if await caller.peer(called.peer_id) is not None:
        await caller.call("disconnect", peerId=called.peer_id)
    for one, other in ((caller, called), (called, caller)):
        await asked_until(partial(one.peer, other.peer_id), lambda entry: entry is None, within=SOON)


async def pair(way: str, one: Kind, other: Kind, tries: int) -> str:
    took: list[int] = []
    reasons: list[str] = []
    async with two_homes(one, other, public=2, listen=WAYS[way]) as (caller, called, relay):
        address = await called.circuit(relay, within=SOON)
        for _ in range(tries):
            due = trio.current_time() + PACE
            found = await once(caller, called, address)
            took += [found] if isinstance(found, int) else []
            reasons += [found] if isinstance(found, str) else []
            await trio.sleep_until(due)
    times = f"{statistics.median(took):.0f} / {max(took)} ms" if took else ""
    why = "; ".join(dict.fromkeys(reasons))
    return f"| {way} | {one} | {other} | {len(took)} of {tries} | {times} | {why} |"


async def main(tries: int, ways: Sequence[str]) -> None:
    print("| over | who calls is behind | who is called | direct | median / longest | stays relayed, because |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in ways:
        for one, other in GOOD:
            print(await pair(way, one, other, tries), flush=True)
        for one, other in HARD:
            print(await pair(way, one, other, 1), flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100, sys.argv[2:] or list(WAYS))
