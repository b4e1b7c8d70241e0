"""Which peers hold the announced records, when to check them, and when to announce again. Pure; times are seconds.

Peers come and go, and a record sent to twenty peers is gone when the last of them leaves. So its holders are asked
every hour whether they still have it. When fewer than `ENOUGH` do, the peers now closest get it. Every twelve hours
they get it anyway, since records expire and closer peers join.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

AGAIN = 12 * 3600.0  # seconds after which a record is always sent again
PROBE = 3600.0  # seconds between two checks of its holders
ENOUGH = 10  # holders, of 20
RETRY = 60.0  # seconds until a record that no peer took is sent again; doubles each time
MAX_RETRY = 3600.0
AT_A_TIME = 8  # records that are sent or checked at a time

Name = tuple[bool, bytes]  # of a record: whether it has a value, and its key


@dataclass(slots=True)
class _Held:
    holders: dict[bytes, bool]  # the peers it was sent to; whether each was seen to have it
    probe: float  # when to check next
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Send a record again; or, where there are ``holders``, ask them whether they still have it."""

    name: Name
    holders: tuple[bytes, ...] = ()


class Holders:
    """The holders of all announced records. ``chance`` spreads what falls due together. Times are monotonic, except
    those in ``due``'s records."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._held: dict[Name, _Held] = {}

    def told(self, name: Name, now: float, holders: Mapping[bytes, bool]) -> None:
        """A record was sent to these peers; a value is true if the peer was seen to have it. Empty if sending
        failed."""
        known = self._held.get(name)
        failures = 0 if holders else known.failures + 1 if known else 1
        pause = PROBE if holders else min(RETRY * 2 ** min(failures - 1, 10), MAX_RETRY)
        self._held[name] = _Held(dict(holders), self._due_in(now, pause), failures)

    def probed(self, name: Name, now: float, answers: Mapping[bytes, bool]) -> bool:
        """Whether enough holders remain after their answers; if not, send the record again.

        A holder that was never seen to have the record counts while it answers, since rust-libp2p does not name the
        asker.
        """
        held = self._held.get(name)
        if held is None:
            return False
        held.holders = {
            peer: had for peer, had in held.holders.items() if peer in answers and (answers[peer] or not had)
        }
        held.probe = self._due_in(now, PROBE)
        return len(held.holders) >= ENOUGH

    def forget(self, name: Name) -> None:
        self._held.pop(name, None)

    def due(self, records: Iterable[tuple[Name, float]], wall: float, now: float) -> list[Job]:
        """What to do now, `AT_A_TIME` at a time, the longest overdue first. A wall clock that was set back delays
        nothing.

        Args:
            records: Each with the time at which it was last sent, by the wall clock.
            wall: The wall clock now.
            now: The monotonic clock now.
        """
        jobs: list[tuple[float, Job]] = []
        for name, announced in records:
            held = self._held.get(name)
            if held is not None and now < held.probe:
                continue
            if held is None:
                if not wall - PROBE < announced <= wall:  # sent before a restart, and its holders are not known
                    jobs.append((announced, Job(name)))
            elif held.failures or not wall - AGAIN < announced <= wall:
                jobs.append((announced, Job(name)))
            else:
                jobs.append((announced, Job(name, tuple(held.holders))))
        return [job for _, job in sorted(jobs, key=lambda one: one[0])]

    def _due_in(self, now: float, seconds: float) -> float:
        return now + seconds * self._chance.uniform(0.8, 1.0)
