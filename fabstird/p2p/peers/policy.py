"""Decides whom to dial, and when to plan again. It does no I/O, has no clock and never awaits: times are seconds from
the caller.

A bootstrap node has a `Cycle`: dial, wait, dial … until it is connected, or given up for `Settings.keepalive`. This
module decides the counts and delays; `manager` carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

NEVER = math.inf
# peers that trimming spares for each quality that makes them hard to replace, or an eighth of the low watermark
KEPT = 8
FOREVER = 10.0**9  # seconds; a longer delay is as good as never, and this stays clear of float overflow

Phase = Literal["due", "dialling", "waiting", "resting", "connected"]


@dataclass(frozen=True, slots=True)
class Settings:
    """``retry_delay`` is in milliseconds, as reported; ``keepalive`` in seconds, `NEVER` for never."""

    max_retries: int
    retry_delay: int
    keepalive: float


@dataclass(frozen=True, slots=True)
class Cycle:
    """One bootstrap or kept address. ``attempts`` counts the dials begun in this cycle; ``due`` is when the next one
    begins.

    ``waiting`` is the pause between two dials of a cycle, ``resting`` the pause between two cycles. ``peer_id`` is None
    for an address that does not name its peer (dnsaddr, or undecodable) until it has been connected.
    """

    address: str
    peer_id: str | None
    phase: Phase = "due"
    attempts: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """A dial failed, and another follows in ``delay`` milliseconds; ``first`` if it was the first of the cycle."""

    attempt: int
    delay: int
    first: bool


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The last dial of the cycle failed."""

    attempts: int
    first: bool


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Above ``high`` connections, trim to ``low``; a peer that connected less than ``grace`` seconds ago is spared."""

    low: int
    high: int
    grace: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A connected peer, for trimming.

    Attributes:
        spared: It is a bootstrap, kept or protected peer.
        value: The sum of its tags.
        idle: No stream is open.
        latency: In milliseconds; None while unknown.
        neighbourhood: The wider network that it is in.
    """

    peer_id: str
    links: int
    opened: float
    value: int
    idle: bool
    spared: bool
    latency: float | None = None
    neighbourhood: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """``dial`` these addresses; ``drop`` dials of these, whose peers are connected; ``close`` the connections of these
    peers; plan again at ``wake_at``."""

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
    """What to do now.

    Args:
        now: The time.
        cycles: All cycles.
        connected: Ids of connected peers.
        total: The number of connections.
        standings: The connected peers; used only where ``total`` is too high.
        watermarks: None for no trimming.
    """
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
    """The peers to disconnect, as many as needed: lowest tags first, those `_hard_to_replace` last, idle ones before
    others, and the youngest first. If these are too few, also when the next peer leaves its grace period."""
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
    kept = _hard_to_replace(ripe, min(KEPT, watermarks.low // 8))
    for peer in sorted(ripe, key=lambda peer: (peer.value, peer.peer_id in kept, not peer.idle, -peer.opened)):
        if total <= watermarks.low:
            break
        close.append(peer.peer_id)
        total -= peer.links
    return tuple(close), min(young, default=NEVER) if total > watermarks.high else NEVER


def _hard_to_replace(peers: list[Standing], count: int) -> set[str]:
    """Of these peers, ``count`` each that are fast, that have been connected for longest, and that are alone in their
    neighbourhood or came first from it. An attacker that wants to be a node's only company must be all of that at once
    (bitcoind's eviction, src/node/eviction.cpp)."""
    oldest = sorted(peers, key=lambda peer: peer.opened)
    quick = sorted((peer for peer in peers if peer.latency is not None), key=lambda peer: peer.latency or 0.0)
    first: dict[str, str] = {}
    for peer in oldest:
        if peer.neighbourhood:
            first.setdefault(peer.neighbourhood, peer.peer_id)
    kept = [*quick[:count], *oldest[:count]]
    return {*(peer.peer_id for peer in kept), *list(first.values())[:count]}


def after_sleep(cycle: Cycle, now: float) -> Cycle:
    """The machine has slept, or its clock was moved: a waiting cycle begins anew now."""
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
    delay = settings.retry_delay << cycle.attempts - 1  # doubles each time; 0 stays 0 at no cost
    pause = FOREVER if delay > FOREVER * 1000 else delay / 1000
    return replace(cycle, phase="waiting", due=now + pause), Retry(cycle.attempts, delay, first)


def peer_connected(cycle: Cycle, peer_id: str) -> Cycle:
    """The peer is connected, by this address or another way: the cycle ends."""
    return replace(cycle, phase="connected", peer_id=peer_id, attempts=0, due=NEVER)


def peer_left(cycle: Cycle, now: float, settings: Settings, *, asked: bool) -> Cycle:
    """The peer's last connection has ended. A new cycle begins after the retry delay; if a user ``asked`` to
    disconnect, after the keep-alive interval."""
    return rest(cycle, now, settings.keepalive if asked else settings.retry_delay / 1000)


def rest(cycle: Cycle, now: float, pause: float) -> Cycle:
    """No cycle is under way; a new one begins after ``pause`` seconds."""
    return replace(cycle, phase="resting", attempts=0, due=now + pause)


def cut_off(cycles: Iterable[Cycle]) -> list[Cycle]:
    """The cycles that a stop interrupts: during a dial, or waiting for the next."""
    return [cycle for cycle in cycles if cycle.phase in ("dialling", "waiting")]
