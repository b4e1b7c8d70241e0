"""Whom to dial, and when to look again. No I/O, no clock, no await: times are seconds of the caller's clock.

A bootstrap node is a `Cycle`: dial, wait, dial … until it is connected, or given up for `Settings.keepalive`. CONTRACT,
section 5 gives the counts and delays; here they are decided, `connections` carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

NEVER = math.inf
FOREVER = 10.0**9  # seconds; a delay that doubled past this is as good as never and keeps clear of float overflow

Phase = Literal["due", "dialling", "waiting", "resting", "connected"]


@dataclass(frozen=True, slots=True)
class Settings:
    """``retry_delay`` in milliseconds, as it is announced; ``keepalive`` in seconds, `NEVER` for never."""

    max_retries: int
    retry_delay: int
    keepalive: float


@dataclass(frozen=True, slots=True)
class Cycle:
    """One bootstrap address. ``attempts`` counts the dials begun in this cycle; ``due`` is when the next one begins.

    ``waiting`` is the pause between two dials of a cycle; ``resting`` the pause between two cycles. ``peer_id`` is None
    for an address that does not name its peer (dnsaddr, or undecodable) until it has been connected.
    """

    address: str
    peer_id: str | None
    phase: Phase = "due"
    attempts: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """A dial failed and another follows in ``delay`` milliseconds; ``first`` where it was the cycle's first."""

    attempt: int
    delay: int
    first: bool


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The cycle's last dial failed."""

    attempts: int
    first: bool


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Above ``high`` connections, trim to ``low``; a peer that came less than ``grace`` seconds ago is left alone."""

    low: int
    high: int
    grace: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A connected peer, as trimming sees it. ``spared``: a bootstrap, kept or protected one; ``value``: its tags added
    up; ``idle``: no stream is open."""

    peer_id: str
    links: int
    opened: float
    value: int
    idle: bool
    spared: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``dial`` these now, ``drop`` dials under way to these whose peer is connected, ``close`` the connections of these
    peers, look again at ``wake_at``."""

    dial: tuple[str, ...]
    drop: tuple[str, ...]
    close: tuple[str, ...]
    wake_at: float


def plan(
    now: float,
    cycles: Iterable[Cycle],
    connected: Collection[str],
    *,
    total: int = 0,
    standings: Iterable[Standing] = (),
    watermarks: Watermarks | None = None,
) -> Plan:
    """What is to be done at ``now``. ``connected`` are the peer ids with at least one connection, ``total`` the number
    of connections; ``standings`` is only looked at where that is too many."""
    dial: list[str] = []
    drop: list[str] = []
    wake_at = NEVER
    for cycle in cycles:
        if cycle.phase == "dialling":
            if cycle.peer_id in connected:
                drop.append(cycle.address)
        elif cycle.phase != "connected" and cycle.peer_id not in connected:
            if cycle.due <= now:
                dial.append(cycle.address)
            else:
                wake_at = min(wake_at, cycle.due)
    close: tuple[str, ...] = ()
    if watermarks is not None and total > watermarks.high:
        close, ripe_at = _trim(now, total, standings, watermarks)
        wake_at = min(wake_at, ripe_at)
    return Plan(tuple(dial), tuple(drop), close, wake_at)


def _trim(
    now: float, total: int, standings: Iterable[Standing], watermarks: Watermarks
) -> tuple[tuple[str, ...], float]:
    """The least valuable peers, as many as it takes: lowest tags first, then idle ones, then the youngest. And when the
    next one comes out of its grace, where these are not enough."""
    close: list[str] = []
    young: list[float] = []
    ripe: list[Standing] = []
    for peer in standings:
        if not peer.spared:
            ripe_at = peer.opened + watermarks.grace
            if ripe_at <= now:
                ripe.append(peer)
            else:
                young.append(ripe_at)
    for peer in sorted(ripe, key=lambda peer: (peer.value, not peer.idle, -peer.opened)):
        if total <= watermarks.low:
            break
        close.append(peer.peer_id)
        total -= peer.links
    return tuple(close), min(young, default=NEVER) if total > watermarks.high else NEVER


def after_sleep(cycle: Cycle, now: float) -> Cycle:
    """The machine has slept, or its clock was moved: whatever was waited for, a new cycle begins now."""
    if cycle.phase in ("waiting", "resting"):
        return replace(cycle, phase="due", attempts=0, due=now)
    return cycle


def begin_dial(cycle: Cycle) -> Cycle:
    """A dial begins; after a rest it is the first of a new cycle."""
    attempts = cycle.attempts + 1 if cycle.phase == "waiting" else 1
    return replace(cycle, phase="dialling", attempts=attempts)


def dial_failed(cycle: Cycle, now: float, settings: Settings) -> tuple[Cycle, Retry | GaveUp]:
    """A dial failed: wait for the next one, or rest."""
    first = cycle.attempts == 1
    if cycle.attempts > settings.max_retries:
        return rest(cycle, now, settings.keepalive), GaveUp(cycle.attempts, first)
    delay = settings.retry_delay << cycle.attempts - 1  # doubled each time; 0 stays 0 at no cost
    pause = FOREVER if delay > FOREVER * 1000 else delay / 1000
    return replace(cycle, phase="waiting", due=now + pause), Retry(cycle.attempts, delay, first)


def peer_connected(cycle: Cycle, peer_id: str) -> Cycle:
    """Its peer is connected, by this address or another way: the cycle ends quietly."""
    return replace(cycle, phase="connected", peer_id=peer_id, attempts=0, due=NEVER)


def peer_left(cycle: Cycle, now: float, settings: Settings, *, asked: bool) -> Cycle:
    """Its peer's last connection is gone. By itself: a new cycle after the retry delay; because a user ``asked`` for
    it: after the keep-alive interval."""
    return rest(cycle, now, settings.keepalive if asked else settings.retry_delay / 1000)


def rest(cycle: Cycle, now: float, pause: float) -> Cycle:
    """No cycle is under way; a new one begins after ``pause`` seconds."""
    return replace(cycle, phase="resting", attempts=0, due=now + pause)


def cut_off(cycles: Iterable[Cycle]) -> list[Cycle]:
    """The cycles that a stop interrupts: a dial under way, or the wait for the next one."""
    return [cycle for cycle in cycles if cycle.phase in ("dialling", "waiting")]
