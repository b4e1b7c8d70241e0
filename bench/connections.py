#!/usr/bin/env python3
"""What connections cost: fabstird beside js-libp2p, in one run, with the same cheap dialer. README.md has a table.

usage, in the repository: .venv/bin/python -m bench.connections [--quick] [--rounds N] [--peers N]

Writes a table in Markdown to stdout and progress to stderr. The exit status is 1 where a goal is missed; a quick run
only shows that everything works, and judges nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from bench.minipeer import Dialer
from bench.servers import SETTLED, Server, fabstird, js, settle

SAMPLING = 0.05  # seconds between two looks at the event loop
WIDTH = 8  # dials under way at a time
BESIDE = 5.0  # seconds in which the peers at rest are measured by themselves, before newcomers are
DESCRIPTORS = 8192
MB = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """How much is done. Quick runs are for whoever changed the bench or wants to see it run."""

    rounds: int = 5
    few: int = 100
    many: int = 1000
    warm_up: int = 2000  # connections before CPU is measured: V8 goes on compiling for that long
    batch: int = 100  # connections that are measured together …
    batches: int = 3  # … so many times, with `few` and with `many` connected
    rest: float = 35.0  # seconds; both sides' keep-alive comes every 30
    cycles: int = 10_000
    stage: int = 1_000  # cycles between two looks at the memory

    @property
    def patience(self) -> float:
        """Seconds in which so many peers have connected, on a machine that does other things too."""
        return max(120.0, self.many * 0.1)


QUICK = Plan(rounds=1, few=20, many=100, warm_up=100, batch=30, batches=2, rest=1.0, cycles=400, stage=200)


@dataclass
class Samples:
    """What one server showed, over all rounds."""

    version: str = ""
    cpu_few: list[float] = field(default_factory=list)  # s a connection
    cpu_many: list[float] = field(default_factory=list)
    resting: list[float] = field(default_factory=list)  # of `cpu_many`, what the other peers cost meanwhile
    memory: list[float] = field(default_factory=list)  # bytes a peer, as it stands
    collected: list[float] = field(default_factory=list)  # the same, once garbage has been collected
    delays: list[float] = field(default_factory=list)  # s
    rest: list[float] = field(default_factory=list)  # share of a core
    stop: list[float] = field(default_factory=list)  # s
    grown: float = 0.0  # bytes
    descriptors: tuple[int, int] = (0, 0)
    tasks: tuple[int | None, int | None] = (None, None)

    @property
    def growth(self) -> float:
        return statistics.median(self.cpu_many) / statistics.median(self.cpu_few)

    @property
    def late(self) -> float:
        """The delay that one look in a hundred exceeds."""
        return statistics.quantiles(self.delays, n=100, method="inclusive")[98]


# --------------------------------------------------------------------------------------------------------------------
# Measuring


def measure(server: Server, plan: Plan, samples: Samples) -> None:
    """One round of a new process: its memory first, then, warmed up, what its connections cost."""
    samples.version = server.version
    with Dialer(server.address) as dialer:
        dialer.prepare(plan.many)
        bare = server.resident()
        dialer.open(plan.many, width=WIDTH, timeout=plan.patience)
        settle(server, plan.many)
        samples.memory.append((server.resident() - bare) / plan.many)
        server.collect()
        samples.collected.append((server.resident() - bare) / plan.many)
        dialer.drop(plan.many - plan.few)
        dialer.open(plan.warm_up, width=WIDTH, keep=False)
        samples.cpu_few += (cpu for cpu, _ in batches(server, dialer, plan))
        dialer.open(plan.many - plan.few, width=WIDTH, timeout=plan.patience)
        for cpu, resting in batches(server, dialer, plan):
            samples.cpu_many.append(cpu)
            samples.resting.append(resting)
        rest(server, plan, samples)
        if dialer.standing().peers != plan.many or server.peers() != plan.many:
            raise RuntimeError(f"{server.name} has lost peers at rest: {dialer.standing()}")
        samples.stop.append(server.stop())
        time.sleep(0.2)
        if dialer.standing().peers:
            raise RuntimeError(f"{server.name} has stopped and holds connections: {dialer.standing()}")


def batches(server: Server, dialer: Dialer, plan: Plan) -> Iterable[tuple[float, float]]:
    """CPU seconds a connection of newcomers that are dropped again; the drop is not counted. And how much of it the
    peers that are there anyway have cost meanwhile, as they had just before."""
    standing = dialer.standing().peers
    for _ in range(plan.batches):
        dialer.prepare(plan.batch)
        settle(server, standing)
        before, begun = server.cpu(), time.monotonic()
        time.sleep(BESIDE)
        share = (server.cpu() - before) / (time.monotonic() - begun)
        before, begun = server.cpu(), time.monotonic()
        dialer.open(plan.batch, width=WIDTH)
        time.sleep(SETTLED)
        spent, took = server.cpu() - before, time.monotonic() - begun
        yield spent / plan.batch, share * took / plan.batch
        dialer.drop(plan.batch)


def rest(server: Server, plan: Plan, samples: Samples) -> None:
    before, begun = server.cpu(), time.monotonic()
    while time.monotonic() < begun + plan.rest:
        time.sleep(SAMPLING)
        samples.delays.append(server.delay())
    samples.rest.append((server.cpu() - before) / (time.monotonic() - begun))


def churn(server: Server, plan: Plan, samples: Samples) -> None:
    """Connections that come, identify and go: what stays behind after the first stage."""
    with Dialer(server.address) as dialer:
        held: list[tuple[int | None, int]] = []
        memory: list[int] = []
        for done in range(plan.stage, plan.cycles + 1, plan.stage):
            dialer.open(plan.stage, width=WIDTH, keep=False)
            settle(server, 0)
            memory.append(server.resident())
            held.append((server.tasks(), server.descriptors()))
            note(f"{server.name}: {done} cycles, {memory[-1] / MB:.1f} MB, tasks and descriptors {held[-1]}")
    samples.grown = max(memory) - memory[0]
    samples.tasks = held[0][0], held[-1][0]
    samples.descriptors = held[0][1], held[-1][1]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------------------
# Telling


@dataclass(frozen=True)
class Row:
    figure: str
    theirs: str
    ours: str
    ratio: float | None
    goal: str
    met: bool | None


def rows(theirs: Samples, ours: Samples, plan: Plan) -> list[Row]:
    median = statistics.median
    few, many = f"{plan.few:,}", f"{plan.many:,}"

    def compared(figure: str, value: Callable[[Samples], float], unit: str, scale: float, at_most: float | None) -> Row:
        one, other = value(theirs) * scale, value(ours) * scale
        ratio = other / one if one else None
        goal = "" if at_most is None else f"≤ {at_most} x js"
        met = None if at_most is None or ratio is None else ratio <= at_most
        return Row(figure, f"{one:.3g} {unit}", f"{other:.3g} {unit}", ratio, goal, met)

    def bounded(figure: str, value: Callable[[Samples], float], unit: str, scale: float, below: float) -> Row:
        one, other = value(theirs) * scale, value(ours) * scale
        ratio = other / one if one > 0 else None
        return Row(figure, f"{one:.3g} {unit}", f"{other:.3g} {unit}", ratio, f"≤ {below} {unit}", other <= below)

    def flat(name: str, pair: Callable[[Samples], tuple[int | None, int | None]]) -> Row:
        def shown(samples: Samples) -> str:
            before, after = pair(samples)
            return "" if before is None else f"{before} → {after}"

        before, after = pair(ours)
        return Row(f"{name}, same cycles", shown(theirs), shown(ours), None, "flat", before == after)

    cycles = f"{plan.cycles:,} connections that come and go, after the first {plan.stage:,}"
    return [
        compared(f"CPU of an inbound connection, {few} peers", lambda s: median(s.cpu_few), "ms", 1e3, 0.65),
        compared(f"CPU of an inbound connection, {many} peers", lambda s: median(s.cpu_many), "ms", 1e3, None),
        bounded(f"the same, {many} peers over {few}", lambda s: s.growth, "x", 1, 1.15),
        compared(f"resident memory a peer, {many} peers", lambda s: median(s.memory), "kB", 1e-3, 0.55),
        compared("the same, js made to collect its garbage", lambda s: median(s.collected), "kB", 1e-3, None),
        bounded(f"event loop, longest delay, {many} peers at rest", lambda s: max(s.delays), "ms", 1e3, 100),
        compared("delay, p99", lambda s: s.late, "ms", 1e3, None),
        compared("median delay", lambda s: median(s.delays), "ms", 1e3, None),
        compared("CPU, of one core", lambda s: median(s.rest), "%", 1e2, None),
        bounded(f"stop, {many} peers", lambda s: median(s.stop), "s", 1, 1),
        bounded(f"memory grown by {cycles}", lambda s: s.grown, "MB", 1 / MB, 8),
        flat("tasks", lambda s: s.tasks),
        flat("descriptors", lambda s: s.descriptors),
    ]


def alone(ours: Samples, plan: Plan) -> list[Row]:
    """More peers than js-libp2p is made to hold: fabstird beside itself with few of them."""
    median = statistics.median
    few, many = f"{plan.few:,}", f"{plan.many:,}"

    def row(figure: str, value: float, unit: str, scale: float, most: float | None = None, than: str = "") -> Row:
        met = None if most is None else value * scale <= most
        return Row(figure, than, f"{value * scale:.3g} {unit}", None, "" if most is None else f"≤ {most:g} {unit}", met)

    before = f"{median(ours.cpu_few) * 1e3:.3g} ms with {few}"
    own = median(cpu - resting for cpu, resting in zip(ours.cpu_many, ours.resting, strict=True))
    return [
        row(f"CPU of an inbound connection, {many} peers", own, "ms", 1e3, than=before),
        row(f"the same, {many} peers over {few}", own / median(ours.cpu_few), "x", 1, 1.2),
        row("with what the other peers cost meanwhile", median(ours.cpu_many), "ms", 1e3),
        row(f"resident memory a peer, {many} peers", median(ours.memory), "kB", 1e-3, 34),
        row(f"event loop delay, p99, {many} peers at rest", ours.late, "ms", 1e3, 20),
        row("longest delay", max(ours.delays), "ms", 1e3),
        row("median delay", median(ours.delays), "ms", 1e3),
        row("CPU, of one core", median(ours.rest), "%", 1e2, 5),
        row(f"stop, {many} peers", median(ours.stop), "s", 1, 2),
    ]


def table(rows: list[Row], *, judged: bool) -> str:
    lines = ["| figure | js-libp2p | fabstird | ratio | goal | met |", "| --- | ---: | ---: | ---: | --- | --- |"]
    for row in rows:
        met = "" if row.met is None or not judged else "yes" if row.met else "**no**"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {row.figure} | {row.theirs} | {row.ours} | {ratio} | {row.goal} | {met} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What connections cost: fabstird beside js-libp2p.")
    parser.add_argument("--quick", action="store_true", help="less of everything, in under a minute; judges nothing")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {Plan.rounds})")
    parser.add_argument("--peers", type=int, help="hold so many, in one round and without js-libp2p: --peers 9000")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan(rounds=options.rounds or Plan.rounds)
    if options.peers:
        plan = replace(plan, rounds=options.rounds or 1, many=options.peers)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard == resource.RLIM_INFINITY else hard, hard))

    load = os.getloadavg()[0]
    if options.peers:
        ours = Samples()
        for _ in range(plan.rounds):
            with fabstird() as server:
                measure(server, plan, ours)
        found = alone(ours, plan)
        print(table(found, judged=not options.quick))
        print(f"\n{ours.version}. {os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before.")
        return 1 if not options.quick and any(row.met is False for row in found) else 0
    pairs: list[tuple[Callable[[], AbstractContextManager[Server]], Samples]] = [(js, Samples()), (fabstird, Samples())]
    for number in range(plan.rounds):
        for make, samples in pairs if number % 2 == 0 else reversed(pairs):
            with make() as server:
                measure(server, plan, samples)
            note(
                f"round {number + 1}, {server.name}: {statistics.median(samples.cpu_few) * 1e3:.2f} ms a connection, "
                f"{samples.growth:.2f} x with many, {samples.memory[-1] / 1e3:.1f} kB a peer, "
                f"delay {max(samples.delays) * 1e3:.0f} ms, stop {samples.stop[-1]:.2f} s"
            )
    for make, samples in pairs:
        with make() as server:
            churn(server, plan, samples)

    theirs, ours = pairs[0][1], pairs[1][1]
    found = rows(theirs, ours, plan)
    print(table(found, judged=not options.quick))
    print(f"\n{theirs.version}; {ours.version}. {os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before.")
    print(f"Medians of {plan.rounds} interleaved rounds; the delay is the longest of all.")
    return 1 if not options.quick and any(row.met is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
